"""Windows with nothing in them, which all get the same logits: the network sees one of them, not all.

A third to a half of the windows of a CT hold air only. Intensities that are clipped make them constant, and a constant
window has the logits of any other of the same value: that is exact. Air that keeps its noise is not constant; below a
`level` that no structure came near in training it is taken for air without noise, if the network agrees: on the first
such window it has to decide as it does without the noise. nnU-Net and MONAI run the network on every window. Knows
nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medunet.sliding_window.stream import Forward

KEPT = 1
"""Blank windows whose logits are held: those of air, or of what lies around an image that was cut out."""


@dataclass(frozen=True)
class Air:
    """What a window holds nothing below, of the first channel, in the values that the network sees.

    Attributes:
        level: windows that do not exceed it are air.
        value: of air without noise.
    """

    level: float
    value: float


@dataclass
class Blanks:
    """Answers for windows that hold nothing.

    Args:
        air: what counts as nothing beside constant windows; one channel only.
        agree: whether two arrays of logits (C, *S) mean the same.

    Attributes:
        skipped: windows that the network was not run on.
        refused: whether the network saw something in air, so that only constant windows are skipped.
    """

    air: Air | None = None
    agree: Callable[[Tensor, Tensor], bool] = torch.equal
    skipped: int = 0
    refused: bool = False
    _tried: bool = False
    _known: dict[tuple[float, ...] | None, Tensor] = field(default_factory=dict)

    def answer(self, forward: Forward, patch: Tensor) -> Tensor | None:
        """Logits (C_out, *S) of a window that holds nothing; None of one that the network has to see.

        Args:
            forward: the network; always the same one.
            patch: (C_in, *patch) float32.
        """
        value = self._value(forward, patch)
        if value is None:
            return None
        if value in self._known:
            self.skipped += 1
        elif len(self._known) < KEPT:
            self._known[value] = forward(_filled(patch, value)[None])[0]
        return self._known.get(value)

    def _value(self, forward: Forward, patch: Tensor) -> tuple[float, ...] | None:
        """The value of each channel of a blank window; None if it holds something."""
        flat = patch.flatten(1)
        lowest, highest = flat.amin(1), flat.amax(1)
        constant = torch.equal(lowest, highest)
        if self.air is not None and float(highest[0]) <= self.air.level:
            if not constant and not self._tried:
                self._try(forward, patch, self.air)
            if self.air is not None:
                return (self.air.value,)
        return tuple(highest.tolist()) if constant else None

    def _try(self, forward: Forward, patch: Tensor, air: Air) -> None:
        """Show the first window of noise to the network, as it is and without noise."""
        self._tried = True
        found, still = (forward(each[None])[0] for each in (patch, _filled(patch, (air.value,))))
        if not self.agree(found, still):
            self.air, self.refused = None, True


def _filled(patch: Tensor, value: tuple[float, ...]) -> Tensor:
    """A window of the same shape that holds one value per channel."""
    return patch.new_tensor(value).view(-1, *(1,) * (patch.ndim - 1)).expand_as(patch)
