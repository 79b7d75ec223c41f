"""Losses that go voxel by voxel: cross-entropy and what weighs it.

Softmax has one value per voxel, sigmoid one per voxel and structure; below, both are called values. Means are over
what counts (see `Evidence.factors`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medunet.config.losses import BceConfig, BoundaryWeightedConfig, CrossEntropyConfig, FocalConfig, TopkConfig
from medunet.labels import LabelMap
from medunet.losses.evidence import Evidence, mass, mean

_LEAST = 1e-6
"""A power below 1 is infinitely steep at 0."""


def label_weights(weights: Mapping[str, float] | None, labels: LabelMap) -> Tensor | None:
    """(L,) factors by label index, 1 for labels that are not named; None if none is."""
    if weights is None:
        return None
    return torch.tensor([weights.get(name, 1.0) for name in labels.names], dtype=torch.float64)


class CrossEntropy(nn.Module):
    """Minus the log of the probability of the truth, weighted mean over values; at least 0.

    Equal to torch's `cross_entropy`, with `label_smoothing` and `weight` too, for softmax, and to the mean of
    `binary_cross_entropy_with_logits` for sigmoid. With label smoothing the minimum is above 0.
    """

    def __init__(self, config: CrossEntropyConfig, labels: LabelMap) -> None:
        super().__init__()
        self.smoothing = config.label_smoothing
        self.weights = label_weights(config.class_weights, labels)

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        factors = evidence.factors(self.weights)
        loss = mean(evidence.entropy, factors)
        if self.smoothing == 0:
            return loss
        spread = evidence.spread(self.weights)
        counted = evidence.factors(None)
        even = (spread if counted is None else spread * counted).sum() / mass(spread, factors)
        return (1 - self.smoothing) * loss + self.smoothing * even


class BinaryCrossEntropy(nn.Module):
    """-(w t log p + (1 - t) log(1 - p)) of each structure, weighted mean over voxels and structures; at least 0.

    w is `positive_weight`, and t is 0 or 1, or with label smoothing e half of e away from it. For softmax 1 - p is
    the sum of the other labels' probabilities.
    """

    def __init__(self, config: BceConfig, labels: LabelMap) -> None:
        super().__init__()
        self.positive = config.positive_weight
        self.smoothing = config.label_smoothing
        self.weights = label_weights(config.class_weights, labels)

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        inside = -self.positive * evidence.structures(evidence.log_probabilities)
        outside = -evidence.structures(evidence.log_complements)
        values = torch.where(evidence.targets, inside, outside)
        if self.smoothing > 0:
            opposite = torch.where(evidence.targets, outside, inside)
            values = torch.lerp(values, opposite, self.smoothing / 2)
        return mean(values, evidence.structure_factors(self.weights))


class Focal(nn.Module):
    """Cross-entropy times (1 - p)^gamma, p being the probability of the truth (Lin 2017), weighted mean over values.

    At least 0. MONAI's takes the mean over labels too, so that gamma 0 gives cross-entropy divided by their number.
    """

    def __init__(self, config: FocalConfig, labels: LabelMap) -> None:
        super().__init__()
        self.gamma = config.gamma
        self.weights = label_weights(config.class_weights, labels)

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        doubt = (-torch.expm1(-evidence.entropy)).clamp_min(_LEAST)
        return mean(doubt**self.gamma * evidence.entropy, evidence.factors(self.weights))


class TopK(nn.Module):
    """Mean of the largest values of cross-entropy, taken from the whole batch (Wu 2016); at least 0."""

    def __init__(self, config: TopkConfig) -> None:
        super().__init__()
        self.share = config.percent / 100

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        values, factors = evidence.entropy, evidence.factors(None)
        count = values.numel()
        if factors is not None:
            counts = factors.expand_as(values) > 0
            values = values.masked_fill(~counts, -1)
            count = int(counts.sum())
        hardest = values.flatten().topk(min(count, max(1, round(count * self.share))), sorted=False).values
        return hardest.sum() / max(1, len(hardest))


class BoundaryWeighted(nn.Module):
    """Sum of weight map times cross-entropy over the number of values that count (Ronneberger 2015, equation 1)."""

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


def cross_entropy(config: CrossEntropyConfig, labels: LabelMap) -> nn.Module:
    """Build from a config."""
    return CrossEntropy(config, labels)


def bce(config: BceConfig, labels: LabelMap) -> nn.Module:
    """Build from a config."""
    return BinaryCrossEntropy(config, labels)


def focal(config: FocalConfig, labels: LabelMap) -> nn.Module:
    """Build from a config."""
    return Focal(config, labels)


def topk_ce(config: TopkConfig, labels: LabelMap) -> nn.Module:  # noqa: ARG001 - one signature for the table
    """Build from a config."""
    return TopK(config)


def boundary_weighted_ce(config: BoundaryWeightedConfig, labels: LabelMap) -> nn.Module:  # noqa: ARG001
    """Build from a config: the options concern the weight map, which is computed with the case."""
    return BoundaryWeighted()
