"""The truth as losses use it, at the size of any output: `Targets`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.labels import LabelMap
from medunet.losses.truth import Truth

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """What is true, and where the truth is known.

    Attributes:
        index: (B, 1, *S) int64, 0..L-1; 0 where nothing is known, and for softmax also where the mask holds a label
            that the case was not annotated for.
        counted: (B, 1, *S) bool, False where the truth is unknown; None: it is known everywhere.
        annotated: (B, L) bool, see `Truth`.
        weight: (B, 1, *S), see `Truth`.
    """

    index: Tensor
    counted: Tensor | None
    annotated: Tensor | None
    weight: Tensor | None

    @classmethod
    def from_truth(cls, truth: Truth, labels: LabelMap, device: torch.device) -> Targets:
        """Translate, on `device`. Any integer type goes in."""
        index = truth.labels.to(device)
        if index.dtype != torch.uint8:  # torch computes little with uint16
            index = index.long()
        counted = None
        if labels.ignore_index is not None:
            counted = index != labels.ignore_index
            index = index * counted
        index = index.long()
        annotated = None if truth.annotated is None else truth.annotated.to(device)
        if annotated is not None and not labels.nested:
            known = torch.arange(len(labels), device=device) * annotated
            index = known.gather(1, index.flatten(1)).reshape(index.shape)
        weight = None if truth.weight is None else truth.weight.to(device)
        return cls(index, counted, annotated, weight)

    @property
    def size(self) -> Sizes:
        """The spatial axes *S."""
        return tuple(self.index.shape[2:])

    def resampled(self, size: Sizes) -> Targets:
        """By nearest neighbour between centres, as for the coarser outputs of deep supervision."""
        if size == self.size:
            return self
        steps = [_nearest(old, new, self.index.device) for old, new in zip(self.size, size, strict=True)]
        return self._mapped(lambda array: _picked(array, steps))

    def centre(self, size: Sizes) -> Targets:
        """The part in the middle, which valid convolutions leave.

        Raises:
            ValueError: `size` is larger.
        """
        if size == self.size:
            return self
        spare = [old - new for old, new in zip(self.size, size, strict=True)]
        if min(spare) < 0:
            raise ValueError(f"An output of size {list(size)} is larger than its truth, {list(self.size)}.")
        kept = [slice(rest // 2, rest // 2 + new) for rest, new in zip(spare, size, strict=True)]
        middle = (slice(None), slice(None), *kept)
        return self._mapped(lambda array: array[middle])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Targets:
        counted, weight = (None if array is None else function(array) for array in (self.counted, self.weight))
        return Targets(function(self.index), counted, self.annotated, weight)


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    """For each of `new` places the nearest of `old` ones; of two that are as near, the later."""
    return (torch.arange(new, device=device) * 2 + 1) * old // (2 * new)


def _picked(array: Tensor, steps: Sequence[Tensor]) -> Tensor:
    for axis, step in enumerate(steps, start=2):
        array = array.index_select(axis, step)
    return array
