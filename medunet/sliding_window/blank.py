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
from functools import partial

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

    def over(self, forward: Forward) -> Forward:
        """A network that is not run on blank windows; always the same one."""
        return partial(self._run, forward)

    def _run(self, forward: Forward, patches: Tensor) -> Tensor:
        if self.air is not None and not self._tried:
            self._try(forward, patches, self.air)
        values = [self._value(patch) for patch in patches]
        busy = [number for number, value in enumerate(values) if value not in self._known]
        self.skipped += len(patches) - len(busy)
        if not busy:
            return torch.stack([self._known[value] for value in values])
        found = forward(torch.stack([self._without_noise(patches[number], values[number]) for number in busy]))
        answers = dict(zip(busy, found, strict=True))
        for number in busy:
            value = values[number]
            if value is not None and len(self._known) < KEPT:
                self._known[value] = answers[number].clone()
        if len(busy) == len(patches):
            return found
        return torch.stack(
            [answers[number] if number in answers else self._known[value] for number, value in enumerate(values)]
        )

    def _try(self, forward: Forward, patches: Tensor, air: Air) -> None:
        """Show the first window of noise to the network, as it is and without noise."""
        noisy = (patch for patch in patches if float(patch[0].amax()) <= air.level and float(patch.std()) > 0)
        patch = next(noisy, None)
        if patch is None:
            return
        self._tried = True
        found, still = (forward(each[None])[0].clone() for each in (patch, torch.full_like(patch, air.value)))
        if not self.agree(found, still):
            self.air, self.refused = None, True

    def _value(self, patch: Tensor) -> tuple[float, ...] | None:
        """The value of each channel of a blank window; None if it holds something."""
        flat = patch.flatten(1)
        highest = flat.amax(1)
        if self.air is not None and float(highest[0]) <= self.air.level:
            return (self.air.value,)
        lowest = flat.amin(1)
        return tuple(highest.tolist()) if torch.equal(lowest, highest) else None

    def _without_noise(self, patch: Tensor, value: tuple[float, ...] | None) -> Tensor:
        """The window as it is, or if it is blank, all of it at that value."""
        if value is None:
            return patch
        return patch.new_tensor(value).view(-1, *(1,) * (patch.ndim - 1)).expand_as(patch)
