"""Losses that go voxel by voxel: cross-entropy and what weighs it.

Softmax has one value per voxel, sigmoid one per voxel and structure; below, both are called values. Means are over
what counts (see `Evidence.factors`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medunet.config.losses import BceConfig, CrossEntropyConfig, FocalConfig, TopkConfig
from medunet.losses.across import gathered, processes, total
from medunet.losses.evidence import Evidence, mass, mean
from medunet.losses.term import Term

_LEAST_DOUBT = 1e-6
"""The focal loss takes 1 - p for no less: a power below 1 is infinitely steep at 0."""


class CrossEntropy(Term):
    """Minus the log of the probability of the truth, weighted mean over values; at least 0.

    Equal to torch's `cross_entropy`, with `label_smoothing` and `weight` too, for softmax, and to the mean of
    `binary_cross_entropy_with_logits` for sigmoid. With label smoothing the minimum is above 0.
    """

    config: CrossEntropyConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        smoothing = self.config.label_smoothing
        factors = evidence.factors(self.class_weights)
        loss = mean(evidence.entropy, factors)
        if smoothing == 0:
            return loss
        spread = evidence.spread(self.class_weights)
        counted = evidence.factors(None)
        even = total((spread if counted is None else spread * counted).sum()) / mass(spread, factors)
        return (1 - smoothing) * loss + smoothing * even


class BinaryCrossEntropy(Term):
    """-(w t log p + (1 - t) log(1 - p)) of each structure, weighted mean over voxels and structures; at least 0.

    w is `positive_weight`, and t is 0 or 1, or with label smoothing e half of e away from it. For softmax 1 - p is
    the sum of the other labels' probabilities.
    """

    config: BceConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        inside = -self.config.positive_weight * evidence.structures(evidence.log_probabilities)
        outside = -evidence.structures(evidence.log_complements)
        values = torch.where(evidence.targets, inside, outside)
        if self.config.label_smoothing > 0:
            opposite = torch.where(evidence.targets, outside, inside)
            values = torch.lerp(values, opposite, self.config.label_smoothing / 2)
        return mean(values, evidence.structure_factors(self.class_weights))


class Focal(Term):
    """Cross-entropy times (1 - p)^gamma, p being the probability of the truth (Lin 2017), weighted mean over values.

    At least 0. MONAI's takes the mean over labels too, so that gamma 0 gives cross-entropy divided by their number.
    """

    config: FocalConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        doubt = (-torch.expm1(-evidence.entropy)).clamp_min(_LEAST_DOUBT)
        return mean(doubt**self.config.gamma * evidence.entropy, evidence.factors(self.class_weights))


class TopK(Term):
    """Mean of the largest values of cross-entropy, taken from the whole batch (Wu 2016); at least 0."""

    config: TopkConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        values, factors = evidence.entropy, evidence.factors(None)
        count = values.numel()
        if factors is not None:
            counts = factors.expand_as(values) > 0
            values = values.masked_fill(~counts, -1)
            count = int(counts.sum())
        if processes() > 1:
            return self._across(values.flatten(), count)
        wanted = max(1, round(count * self.config.percent / 100))
        hardest = values.flatten().topk(min(count, wanted), sorted=False).values
        return hardest.sum() / max(1, len(hardest))

    def _across(self, values: Tensor, count: int) -> Tensor:
        """The same where the batch is that of several processes: each sends the largest values that it has.

        Args:
            values: (N,), -1 where they do not count.
            count: how many do.
        """
        every = int(total(torch.tensor(float(count), dtype=torch.float64, device=values.device)))
        if every == 0:
            return values.sum() * 0
        wanted = max(1, round(every * self.config.percent / 100))
        own = values.topk(min(len(values), wanted)).values
        rows, number = gathered(own)
        chosen = rows.flatten().topk(wanted, sorted=False).indices - number * len(own)
        chosen = chosen[(chosen >= 0) & (chosen < len(own))]
        return total(own[chosen].sum()) / wanted


class BoundaryWeighted(Term):
    """Sum of weight map times cross-entropy over the number of values that count (Ronneberger 2015, equation 1).

    Its options concern the weight map, which is computed with the case.
    """

    def forward(self, evidence: Evidence) -> Tensor:
        """One number.

        Raises:
            ValueError: the truth comes without a weight map.
        """
        if evidence.weight is None:
            raise ValueError("boundary_weighted_ce needs Truth.weight, the weight map of the case.")
        values, factors = evidence.entropy, evidence.factors(None)
        # The sum, not the mean with the map as factors: its height matters.
        return mean(values * evidence.weight.to(values.dtype), factors)
