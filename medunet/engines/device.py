"""Which device and which precision: detected, never assumed; an explicit wish is met or refused."""

from __future__ import annotations

import re
from typing import TypeVar

import torch
from torch import nn

from medunet.errors import DeviceError, UsageError
from medunet.networks.layout import channels_last

Module = TypeVar("Module", bound=nn.Module)


def resolve_device(wish: str) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps` to a device that is there.

    Raises:
        UsageError: another word.
        DeviceError: the device is not there; never falls back in silence.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", wish) is None:
        raise UsageError(f'"{wish}" is no device.', "Use auto, cpu, cuda, cuda:N or mps.")
    kind, _, number = wish.partition(":")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise DeviceError(
                f'The device "{wish}" was asked for, but torch sees {count} CUDA devices.',
                "Use -d cpu, or install a CUDA build of torch and check nvidia-smi (medunet doctor).",
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError('The device "mps" was asked for, but it is not available.', "Use -d cpu.")
    return torch.device(wish)


def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively (AVX512-BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def resolve_precision(wish: str, device: torch.device) -> torch.dtype:
    """`auto`, `fp32`, `bf16` or `fp16` to the type of the network's arithmetic on `device`.

    `auto` takes bf16 where the device computes it natively, fp16 on CUDA devices that do not, else fp32.

    Raises:
        UsageError: another word.
        DeviceError: fp16 on a CPU, where convolutions in it are slow and gradients underflow.
    """
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if wish != "auto" and wish not in types:
        raise UsageError(f'"{wish}" is no precision.', "Use auto, fp32, bf16 or fp16.")
    if wish == "fp16" and device.type == "cpu":
        raise DeviceError("train.precision fp16 needs a GPU.", "Use auto, bf16 or fp32 on a CPU.")
    if wish != "auto":
        return types[wish]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and cpu_has_bf16():
        return torch.bfloat16
    return torch.float32


def free_bytes(device: torch.device) -> int | None:
    """Memory of a GPU that can still be taken; None where the device shares the computer's, or does not tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that no memory is left; for that of the computer it has no class of its own."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "not enough memory" in text


def place(network: Module, dims: int, device: torch.device) -> Module:
    """Move a network to `device`, its weights channels last."""
    moved: Module = network.to(device)
    return moved.to(memory_format=channels_last(dims))  # type: ignore[call-overload, no-any-return]
