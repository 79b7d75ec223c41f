"""The centre-line Dice of tubes, made of soft skeletons.

MONAI's `soft_skel` gives the same skeletons (tested), but takes windows with max pooling, which in 3D is slow, has no
deterministic gradient on CUDA and cannot leave out ignored voxels, and erodes twice what need be eroded once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from medunet.config.losses import ClDiceConfig
from medunet.losses.evidence import Evidence, mean
from medunet.losses.term import Term

_SMOOTH = 1.0
"""Added above and below the line, in voxels, as in the authors' program."""


def soft_skeleton(array: Tensor, iterations: int, counted: Tensor | None = None) -> Tensor:
    """What openings of growing size take away (Shit 2021, algorithm 1).

    Args:
        array: (B, C, *S), 0 to 1.
        iterations: erosions; at least the largest radius in voxels.
        counted: (B, 1, *S) bool; what is False is left out, as is what lies outside of the array. None: all counts.
    """
    eroded = _eroded(array, counted)
    skeleton = torch.relu(array - _dilated(eroded, counted))
    for _ in range(iterations):
        array, eroded = eroded, _eroded(eroded, counted)
        ridge = torch.relu(array - _dilated(eroded, counted))
        skeleton = skeleton + ridge * (1 - skeleton)
    return skeleton


def _eroded(array: Tensor, counted: Tensor | None) -> Tensor:
    """Least value of a voxel and its neighbours along each axis."""
    array = array if counted is None else array.masked_fill(~counted, 1)
    along = [_of_three(array, axis, torch.minimum) for axis in range(2, array.ndim)]
    return reduce(torch.minimum, along)


def _dilated(array: Tensor, counted: Tensor | None) -> Tensor:
    """Largest value of the 3 x 3 (x 3) voxels around each."""
    array = array if counted is None else array.masked_fill(~counted, 0)
    for axis in range(2, array.ndim):
        array = _of_three(array, axis, torch.maximum)
    return array


def _of_three(array: Tensor, axis: int, extreme: Callable[..., Tensor]) -> Tensor:
    """`extreme` (`torch.minimum` or `torch.maximum`) of each voxel and its two neighbours along `axis`."""
    result: Tensor = _OfThree.apply(array, axis, extreme)
    return result


class _OfThree(torch.autograd.Function):
    """See `_of_three`. The gradient goes to one of those that are equal: the voxel itself, else the one before."""

    @staticmethod
    def forward(ctx: Any, array: Tensor, axis: int, extreme: Callable[..., Tensor]) -> Tensor:
        result, size = array.clone(), array.shape[axis]
        if size > 1:
            pairs = extreme(array.narrow(axis, 0, size - 1), array.narrow(axis, 1, size - 1))
            result.narrow(axis, 0, size - 1).copy_(pairs)
            later = result.narrow(axis, 1, size - 1)
            later.copy_(extreme(later, pairs))
        ctx.save_for_backward(array, result)
        ctx.axis = axis
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        array, result = ctx.saved_tensors
        axis, size = ctx.axis, array.shape[ctx.axis]
        own = gradient * (array == result)
        if size > 1:
            rest = gradient - own
            before = array.narrow(axis, 0, size - 1) == result.narrow(axis, 1, size - 1)
            taken = rest.narrow(axis, 1, size - 1) * before
            own.narrow(axis, 0, size - 1).add_(taken)
            rest.narrow(axis, 1, size - 1).sub_(taken)
            own.narrow(axis, 1, size - 1).add_(rest.narrow(axis, 0, size - 1))
        return own, None, None


class ClDice(Term):
    """1 - 2 T S / (T + S), mean over cases and structures (Shit 2021, equation 2); 0 to 1.

    T = (sum(skeleton(p) t) + s) / (sum(skeleton(p)) + s), S = (sum(skeleton(t) p) + s) / (sum(skeleton(t)) + s), p
    being probabilities and t the truth.
    """

    config: ClDiceConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        predicted = evidence.structures(evidence.probabilities)
        true = evidence.targets.to(predicted.dtype)
        precision = self._share(predicted, true, evidence.counted)
        sensitivity = self._share(true, predicted, evidence.counted)
        loss = 1 - 2 * precision * sensitivity / (precision + sensitivity)
        return mean(loss, None if evidence.channels is None else evidence.structures(evidence.channels).to(loss.dtype))

    def _share(self, array: Tensor, other: Tensor, counted: Tensor | None) -> Tensor:
        """(B, structures): how much of the skeleton of `array` lies in `other`."""
        skeleton = soft_skeleton(array, self.config.iterations, counted)
        if counted is not None:
            skeleton = skeleton * counted
        inside = (skeleton * other).flatten(2).sum(-1)
        return (inside + _SMOOTH) / (skeleton.flatten(2).sum(-1) + _SMOOTH)
