"""Runs a network with ONNX Runtime on the CPU, in float32."""

from __future__ import annotations

import warnings
from importlib.metadata import version as distribution_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medunet.engines.recording import ONE_AT_A_TIME, recorded
from medunet.errors import DeviceError, OutOfMemoryError
from medunet.networks.contract import Network

_MODEL = "network.onnx"
_OPSET = 18
_MISSING = 'Install them with: pip install "medunet[onnx]". Or use --engine torch.'


def is_installed() -> bool:
    """Whether ONNX and its runtime can be imported."""
    return find_spec("onnx") is not None and find_spec("onnxruntime") is not None


def _runtime() -> Any:
    if not is_installed():
        raise DeviceError("ONNX Runtime was asked for, but onnx and onnxruntime are not both installed.", _MISSING)
    import onnxruntime

    return onnxruntime


def version() -> str:
    """Of the runtime.

    Raises:
        DeviceError: it is not installed.
    """
    _runtime()
    return distribution_version("onnxruntime")


def write_form(network: Network, channels: int, patch: tuple[int, ...], folder: Path) -> None:
    """Write the network for one window of `patch` voxels to a folder.

    Raises:
        DeviceError: ONNX is not installed, or has no operator for one of the operations.
    """
    _runtime()
    shape = (1, channels, *patch)
    try:
        with ONE_AT_A_TIME, warnings.catch_warnings():
            traced = recorded(network, shape)
            warnings.simplefilter("ignore")  # that this exporter is the older one; the newer needs one package more
            torch.onnx.export(
                traced,
                (torch.zeros(shape),),
                str(folder / _MODEL),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["image"],
                output_names=["logits"],
            )
    except DeviceError:
        raise
    except Exception as error:  # the exporter's classes are private
        raise DeviceError(f"This network cannot be written as ONNX: {error}", "Use --engine torch.") from error


class OnnxEngine:
    """A network that was converted, ready for inference on the CPU.

    Args:
        folder: that `write_form` wrote to.
        working: bytes that computing a window takes, as measured when the network was converted.

    Raises:
        DeviceError: ONNX Runtime is not installed, or the file is not its own.
    """

    name = "onnx"
    device = torch.device("cpu")
    precision = torch.float32
    at_once = 1

    def __init__(self, folder: Path, working: int = 0) -> None:
        runtime = _runtime()
        self._working = working
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = runtime.InferenceSession(str(folder / _MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes are private
            raise DeviceError(f"ONNX Runtime cannot run {folder}: {error}", "Use --engine torch.") from error

    def __call__(self, patches: Tensor) -> Tensor:
        """See `Engine`."""
        try:
            parts = [self._session.run(["logits"], {"image": each.numpy()})[0] for each in patches.cpu().split(1)]
        except RuntimeError as error:
            if "llocate" not in str(error) and "bad_alloc" not in str(error):
                raise
            raise OutOfMemoryError(
                f"The computer ran out of memory on windows of {tuple(patches.shape[2:])}.",
                "Close other programs, or use --engine torch.",
            ) from error
        return torch.cat([torch.from_numpy(part) for part in parts])

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Engine`; the logits of all windows are part of what was measured for one."""
        return self._working * shape[0]
