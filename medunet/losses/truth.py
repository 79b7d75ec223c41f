"""What a loss compares the network with: `Truth`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Truth:
    """The right answer for a batch of patches.

    Attributes:
        labels: (B, 1, *S) label indices 0..L-1 in any integer type (see `LabelMap`); `LabelMap.ignore_index` where
            the truth is unknown. For nested labels the index of the innermost one.
        annotated: (B, L) bool, whether the case was annotated for that label, background included (always True);
            None: every case was annotated for all.
        weight: (B, 1, *S) float32, per-voxel factors of `boundary_weighted_ce`; None where no term needs them.
    """

    labels: Tensor
    annotated: Tensor | None = None
    weight: Tensor | None = None
