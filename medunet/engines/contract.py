"""What the sliding window asks of whatever runs a network."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from medunet.errors import ModelError


class Engine(Protocol):
    """A network that is ready for inference."""

    @property
    def name(self) -> str:
        """Of the library that computes: torch, openvino or onnx."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def precision(self) -> torch.dtype:
        """Type of its arithmetic."""

    @property
    def at_once(self) -> int:
        """Windows that it computes side by side; more of them in one call are none the faster."""

    def __call__(self, patches: Tensor) -> Tensor:
        """Patches (B, C_in, *patch) float32 to logits (B, C_out, *(patch - 2 * margin)) float32.

        Raises:
            OutOfMemoryError: the device is too small for so many of them.
        """

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        """Memory that computing windows (B, C_in, *patch) takes, beside what the engine holds all the time."""


def checked(logits: Tensor, precision: torch.dtype) -> Tensor:
    """The logits, if all are finite.

    Raises:
        ModelError: one is not.
    """
    if not bool(torch.isfinite(logits.sum())):
        name = str(precision).removeprefix("torch.")
        raise ModelError(
            f"The network gives infinite numbers or NaN for this image in {name}.",
            "Check the weights: they may be damaged, or come from a training that failed."
            if precision == torch.float32
            else 'Take precision="fp32" in Python, or -d cpu on the command line.',
        )
    return logits


TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.02}
"""How far the logits of an engine may be from torch's in float32: norm of the difference over norm of the logits.

bf16 keeps 8 bits; its deviation was 0.02 on trained networks, with 99.97 % of the labels of a whole volume unchanged.
"""


def deviation(engine: Engine, reference: Engine, channels: int, patch: tuple[int, ...]) -> float:
    """Norm of the difference between the logits of two engines over that of the reference, on a window of noise."""
    window = torch.randn((1, channels, *patch), generator=torch.Generator().manual_seed(0))
    wanted = reference(window).cpu()
    return float((engine(window).cpu() - wanted).norm() / wanted.norm().clamp(min=1e-12))
