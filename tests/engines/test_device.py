"""Devices and precisions: what is asked for is met or refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medunet.engines import device as module
from medunet.engines.device import cpu_has_bf16, place, resolve_device, resolve_precision
from medunet.errors import DeviceError, UsageError
from medunet.networks.layout import channels_last

CPU = torch.device("cpu")


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, 0)
    assert resolve_device("auto").type == "cpu"
    pretend_cuda(monkeypatch, 1)
    assert resolve_device("auto").type == "cuda"


def test_a_device_that_is_there_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cuda(monkeypatch, 2)
    assert resolve_device("cpu") == CPU
    assert resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize(("wish", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_refused_and_counted(monkeypatch: pytest.MonkeyPatch, wish: str, count: int) -> None:
    pretend_cuda(monkeypatch, count)
    with pytest.raises(DeviceError, match=f'"{wish}" was asked for, but torch sees {count} CUDA'):
        resolve_device(wish)


def test_mps_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="mps"):
        resolve_device("mps")


@pytest.mark.parametrize(
    "wish", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "cpu:1", "CUDA", "cuda:1:2", "cuda: 1", "cuda:٣"]
)
def test_another_word_is_a_usage_error(wish: str) -> None:
    with pytest.raises(UsageError, match="is no device"):
        resolve_device(wish)


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_on_a_cpu_is_what_it_computes_natively(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: native)
    assert resolve_precision("auto", CPU) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_on_cuda_is_half(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    expected = torch.bfloat16 if native else torch.float16
    assert resolve_precision("auto", torch.device("cuda")) == expected


def test_auto_precision_elsewhere_is_full() -> None:
    assert resolve_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize(("wish", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_an_explicit_precision_is_taken(wish: str, dtype: torch.dtype) -> None:
    assert resolve_precision(wish, CPU) == dtype
    assert resolve_precision(wish, torch.device("cuda")) == dtype


def test_half_precision_is_for_gpus() -> None:
    assert resolve_precision("fp16", torch.device("cuda")) == torch.float16
    with pytest.raises(DeviceError, match="fp16 needs a GPU"):
        resolve_precision("fp16", CPU)


@pytest.mark.parametrize("wish", ["fp8", "", "float32"])
def test_another_precision_is_a_usage_error(wish: str) -> None:
    with pytest.raises(UsageError, match="is no precision"):
        resolve_precision(wish, CPU)


def test_the_processor_is_asked_without_failing_on_any_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_has_bf16() in (True, False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert cpu_has_bf16() is False


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_are_placed_channels_last(dims: int) -> None:
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 8, 3)
    placed = place(nn.Sequential(layer), dims, CPU)
    assert layer.weight.is_contiguous(memory_format=channels_last(dims))
    assert placed(torch.zeros(1, 4, *(8,) * dims)).shape[1] == 8
