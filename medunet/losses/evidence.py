"""What the network says beside what is true, in the shapes that losses compute with: `Evidence`.

Labels that exclude each other (`Exclusive`, softmax) and nested ones (`Nested`, sigmoid) look alike from outside, so
that a loss is written once. Ignored voxels and labels without annotation are taken care of here:

- Ignored voxels have probability 0 and target False, and factor 0 in every mean.
- Softmax, a label that the case was not annotated for: its probability is added to the background's (the marginal
  loss of Shi 2021), in log space, and its channel has factor 0. Sigmoid: its channel has factor 0.

Each property is computed when first asked for and held until the loss of that output is done, so that terms share
it. Knows nothing of files or configs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from medunet.losses.across import processes, total
from medunet.losses.targets import Targets

_NEVER = -1e30
"""Log-probability of what cannot be; finite, since 0 times infinity is no number."""


class Evidence(ABC):
    """One output of the network with its truth.

    Args:
        logits: (B, C, *S) of any floating type; computed with in float32, float64 stays.
        targets: of the same size.
    """

    first: int
    """Channel of the first structure: 1 after a background channel, else 0."""

    def __init__(self, logits: Tensor, targets: Targets) -> None:
        self.logits = logits if logits.dtype == torch.float64 else logits.float()
        self.index = targets.index
        self.counted = targets.counted
        self.weight = targets.weight
        annotated = targets.annotated
        self.channels = None if annotated is None else annotated[:, 1 - self.first :]
        """(B, C) bool, which channels count; None: all."""

    @property
    @abstractmethod
    def log_probabilities(self) -> Tensor:
        """(B, C, *S), log p."""

    @property
    @abstractmethod
    def log_complements(self) -> Tensor:
        """(B, C, *S), log(1 - p), exact where p is near 1 too."""

    @property
    @abstractmethod
    def entropy(self) -> Tensor:
        """Minus the log of the probability of the truth: (B, 1, *S) for softmax, (B, C, *S) for sigmoid."""

    @abstractmethod
    def spread(self, class_weights: Tensor | None) -> Tensor:
        """As `entropy`, with a truth that is spread evenly: over all labels, or over yes and no.

        Args:
            class_weights: (L,) factors, multiplied in.
        """

    @abstractmethod
    def factors(self, class_weights: Tensor | None) -> Tensor | None:
        """What each value of `entropy` counts, in a shape that broadcasts to it; None: all count 1.

        Args:
            class_weights: (L,) factors of the labels.
        """

    @property
    @abstractmethod
    def targets(self) -> Tensor:
        """(B, structures, *S) bool, where each structure is; False where the truth is unknown."""

    @cached_property
    def probabilities(self) -> Tensor:
        """(B, C, *S), 0 to 1; 0 where the truth is unknown."""
        probabilities = self.log_probabilities.exp()
        return probabilities if self.known is None else probabilities * self.known

    @cached_property
    def known(self) -> Tensor | None:
        """(B, 1, *S), 1 where the truth is known, 0 elsewhere; None: it is known everywhere."""
        return None if self.counted is None else self.counted.to(self.logits.dtype)

    def structures(self, array: Tensor) -> Tensor:
        """The channels of an array (B, C, ...) without the background's."""
        return array[:, self.first :]

    def structure_factors(self, class_weights: Tensor | None = None) -> Tensor | None:
        """As `factors`, for arrays (B, structures, *S)."""
        ones = (1,) * (self.logits.ndim - 2)
        factors = self.known
        if self.channels is not None:
            channels = self.structures(self.channels).reshape(len(self.logits), -1, *ones).to(self.logits.dtype)
            factors = channels if factors is None else factors * channels
        if class_weights is not None:
            weights = class_weights[1:].to(self.logits).reshape(1, -1, *ones)
            factors = weights if factors is None else factors * weights
        return factors


class Exclusive(Evidence):
    """Labels of which each voxel has one: softmax. Channel c is label c, the background first."""

    first = 1

    def __init__(self, logits: Tensor, targets: Targets) -> None:
        super().__init__(logits, targets)
        if self.channels is not None:
            self.logits = _merged(self.logits, self.channels)

    @cached_property
    def log_probabilities(self) -> Tensor:  # noqa: D102 - see Evidence, here and below
        return torch.log_softmax(self.logits, dim=1)

    @cached_property
    def log_complements(self) -> Tensor:  # noqa: D102
        # 1 - p is exact up to one half; at most one label has more, and its rest is the sum of the others.
        likeliest = self.log_probabilities > -math.log(2)
        others = self.log_probabilities.masked_fill(likeliest, _NEVER)
        rest = others.logsumexp(dim=1, keepdim=True)
        return torch.where(likeliest, rest, torch.log1p(-others.exp()))

    @cached_property
    def entropy(self) -> Tensor:  # noqa: D102
        # Not torch's nll_loss, which has no deterministic form on CUDA for images.
        return -self.log_probabilities.gather(1, self.index)

    def spread(self, class_weights: Tensor | None) -> Tensor:  # noqa: D102
        if self.channels is None and class_weights is None:
            return -self.log_probabilities.mean(dim=1, keepdim=True)
        batch, labels = self.logits.shape[:2]
        shares = torch.ones(batch, labels, dtype=self.logits.dtype, device=self.logits.device)
        if self.channels is not None:
            shares = shares * self.channels
        shares = shares / shares.sum(dim=1, keepdim=True)
        if class_weights is not None:
            shares = shares * class_weights.to(shares)
        shares = shares.reshape(batch, labels, *(1,) * (self.logits.ndim - 2))
        return -(self.log_probabilities * shares).sum(dim=1, keepdim=True)

    def factors(self, class_weights: Tensor | None) -> Tensor | None:  # noqa: D102
        factors = self.known
        if class_weights is None:
            return factors
        weights = class_weights.to(self.logits)[self.index]
        return weights if factors is None else weights * factors

    @cached_property
    def targets(self) -> Tensor:  # noqa: D102
        labels = torch.arange(1, self.logits.shape[1], device=self.index.device)
        # Label 0 stands for the unknown too, and is no structure.
        return self.index == labels.reshape(1, -1, *(1,) * (self.logits.ndim - 2))


class Nested(Evidence):
    """Labels that may contain each other: sigmoid. Channel c is label c + 1; there is none for the background.

    Args:
        logits, targets: see `Evidence`; the index is that of the innermost label.
        membership: (L, L) bool, [i, j]: a voxel of index j belongs to label i.
    """

    first = 0

    def __init__(self, logits: Tensor, targets: Targets, membership: Tensor) -> None:
        super().__init__(logits, targets)
        self._membership = membership

    @cached_property
    def log_probabilities(self) -> Tensor:  # noqa: D102
        return functional.logsigmoid(self.logits)

    @cached_property
    def log_complements(self) -> Tensor:  # noqa: D102
        return functional.logsigmoid(-self.logits)

    @cached_property
    def entropy(self) -> Tensor:  # noqa: D102
        return -functional.logsigmoid(torch.where(self.targets, self.logits, -self.logits))

    def spread(self, class_weights: Tensor | None) -> Tensor:  # noqa: D102
        both = -(self.log_probabilities + self.log_complements) / 2
        if class_weights is None:
            return both
        return both * class_weights[1:].to(both).reshape(1, -1, *(1,) * (both.ndim - 2))

    def factors(self, class_weights: Tensor | None) -> Tensor | None:  # noqa: D102
        return self.structure_factors(class_weights)

    @cached_property
    def targets(self) -> Tensor:  # noqa: D102
        rows = self._membership[1:].to(self.index.device)
        return torch.stack([row[self.index.squeeze(1)] for row in rows], dim=1)  # index 0, the unknown, is in none


def evidence(logits: Tensor, targets: Targets, membership: Tensor | None) -> Evidence:
    """The evidence of one output (B, C, *S).

    Args:
        logits, targets: see `Evidence`.
        membership: see `Nested`; None: the labels exclude each other.
    """
    return Exclusive(logits, targets) if membership is None else Nested(logits, targets, membership)


def mean(values: Tensor, factors: Tensor | None) -> Tensor:
    """Mean of `values`, each counted as often as its factor says; 0 if none counts. Over all processes (`across`).

    Args:
        values: any shape, the same one in every process.
        factors: broadcasts to it; None: all count 1.
    """
    if factors is None and processes() == 1:
        return values.mean()
    return total((values if factors is None else values * factors).sum()) / mass(values, factors)


def mass(values: Tensor, factors: Tensor | None) -> Tensor:
    """Sum of the factors over all values; 1 instead of 0, since a tiny number makes gradients infinite."""
    if factors is None:
        return torch.tensor(values.numel() * processes(), dtype=values.dtype, device=values.device)
    found = total(factors.sum()) * (values.numel() // factors.numel())
    return torch.where(found > 0, found, 1)


def _merged(logits: Tensor, channels: Tensor) -> Tensor:
    """Logits of the same distribution with the probabilities of the channels that do not count in the background.

    Args:
        logits: (B, C, *S), background first.
        channels: (B, C) bool, which count.
    """
    counts = channels.reshape(*channels.shape, *(1,) * (logits.ndim - 2))
    background = torch.zeros_like(counts)
    background[:, 0] = True
    rest = logits.masked_fill(counts & ~background, _NEVER).logsumexp(dim=1, keepdim=True)
    return torch.where(background, rest, logits.masked_fill(~counts, _NEVER))
