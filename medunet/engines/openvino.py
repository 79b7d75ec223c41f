"""Runs a network with OpenVINO on the CPU: several windows side by side, each on its own cores.

Its kernels for 3D convolutions are up to four times as fast as torch's in bfloat16 on a processor with AMX.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medunet.engines.recording import ONE_AT_A_TIME, recorded
from medunet.errors import DeviceError, OutOfMemoryError
from medunet.networks.contract import Network

_MODEL = "network.xml"
_FLOAT = 4
_MISSING = "Install it with: pip install openvino. Or use --engine torch."


def is_installed() -> bool:
    """Whether OpenVINO can be imported."""
    return find_spec("openvino") is not None


def _library() -> Any:
    """The module, imported when it is needed.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise DeviceError("OpenVINO was asked for, but it is not installed.", _MISSING) from error
    return openvino


@cache
def _core() -> Any:
    """One for the process, never let go: its CPU plugin exchanges the stack that signals are handled on, and of two
    plugins the one that goes last puts back the other's, which is freed by then; the next signal would end the process.
    """
    return _library().Core()


def version() -> str:
    """Of the library, without importing it.

    Raises:
        DeviceError: it is not installed.
    """
    try:
        return distribution_version("openvino")
    except PackageNotFoundError as error:
        raise DeviceError("OpenVINO was asked for, but it is not installed.", _MISSING) from error


def write_form(network: Network, channels: int, patch: tuple[int, ...], folder: Path) -> None:
    """Write the network for one window of `patch` voxels to a folder.

    Raises:
        DeviceError: OpenVINO is not installed, or does not know one of the operations.
    """
    openvino = _library()
    shape = [1, channels, *patch]
    try:
        with ONE_AT_A_TIME, warnings.catch_warnings():
            traced = recorded(network, shape)
            warnings.simplefilter("ignore")
            model = openvino.convert_model(traced, example_input=torch.zeros(shape), input=[shape])
        openvino.save_model(model, str(folder / _MODEL), compress_to_fp16=False)
    except DeviceError:
        raise
    except Exception as error:  # its own classes are not public
        raise DeviceError(f"OpenVINO cannot convert this network: {error}", "Use --engine torch.") from error


def write_int8(form: Path, windows: Sequence[Tensor], folder: Path) -> None:
    """Write a form whose convolutions take whole numbers of 8 bits, by NNCF's post-training quantisation.

    Args:
        form: that `write_form` wrote to.
        windows: (1, C_in, *patch) each, which show what values occur.
        folder: an empty one.

    Raises:
        DeviceError: NNCF is not installed, or does not understand the network.
    """
    openvino = _library()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import nncf
    except ImportError as error:
        raise DeviceError(
            "An int8 form was asked for, but NNCF is not installed.", 'Install it with: pip install "medunet[int8]".'
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function sets the handlers of others, too
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # it draws bars on stdout
            warnings.simplefilter("ignore")
            shown = nncf.Dataset([window.numpy() for window in windows])
            model = _core().read_model(str(form / _MODEL))
            # mixed: what follows leaky ReLU has a sign
            small = nncf.quantize(model, shown, preset=nncf.QuantizationPreset.MIXED, subset_size=len(windows))
        openvino.save_model(small, str(folder / _MODEL), compress_to_fp16=False)
    except Exception as error:  # its own classes are not public
        raise DeviceError(f"NNCF cannot quantise this network: {error}", "Use --engine openvino.") from error


class OpenVinoEngine:
    """A network that was converted, ready for inference on the CPU.

    Args:
        folder: that `write_form` or `write_int8` wrote to.
        precision: of the arithmetic, as far as it is not of whole numbers: float32 or bfloat16.
        working: bytes that the first window makes it hold, as measured when the network was converted.
        options: further ones of OpenVINO.
        name: by which it is told.

    Raises:
        DeviceError: OpenVINO is not installed, or the files are not its own.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        folder: Path,
        precision: torch.dtype,
        working: int = 0,
        options: Mapping[str, Any] | None = None,
        name: str = "openvino",
    ) -> None:
        openvino = _library()
        self.name = name
        self.precision = precision
        self._working = working
        hint = {torch.float32: "f32", torch.bfloat16: "bf16"}[precision]
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "THROUGHPUT", **(options or {})}
        try:
            compiled = _core().compile_model(str(folder / _MODEL), "CPU", settings)
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO cannot run {folder}: {error}", "Use --engine torch.") from error
        self.at_once = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._shape = tuple(int(size) for size in compiled.output(0).shape)[1:]
        self._requests = [compiled.create_infer_request() for _ in range(self.at_once)]
        self._tensor = openvino.Tensor

    def __call__(self, patches: Tensor) -> Tensor:
        """See `Engine`."""
        patches = patches.cpu().contiguous()
        logits = torch.empty((len(patches), *self._shape))
        self._working = 0  # from now on it is held
        for first in range(0, len(patches), self.at_once):
            self._run(patches[first : first + self.at_once], logits[first : first + self.at_once])
        return logits

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Engine`."""
        return self._working + math.prod(shape) * _FLOAT + shape[0] * math.prod(self._shape) * _FLOAT

    def _run(self, patches: Tensor, logits: Tensor) -> None:
        """At most as many windows as there are requests; they read and write the tensors' own memory."""
        begun = []
        try:
            for number, request in zip(range(len(patches)), self._requests, strict=False):
                window, result = patches[number : number + 1], logits[number : number + 1]
                request.set_input_tensor(self._tensor(window.numpy(), shared_memory=True))
                request.set_output_tensor(self._tensor(result.numpy(), shared_memory=True))
                request.start_async()
                begun.append(request)
            for request in begun:
                request.wait()
        except RuntimeError as error:
            for request in begun:
                request.cancel()
            if "bad_alloc" not in str(error) and "allocate" not in str(error):
                raise
            raise OutOfMemoryError(
                f"The computer ran out of memory on windows of {tuple(patches.shape[2:])}.",
                "Close other programs, or use --engine torch.",
            ) from error
