"""Losses that compare regions by their overlap: Dice, intersection over union, Tversky.

All are made of three sums per case and label. MONAI's DiceLoss, TverskyLoss and GeneralizedDiceLoss give the same
values (tested), but hold a one-hot copy of the truth and know no partially labelled cases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medunet.config.losses import DiceLossConfig, FocalTverskyConfig, IouConfig, OverlapOptions, TverskyOptions
from medunet.losses.across import totals
from medunet.losses.evidence import Evidence, Exclusive, mean
from medunet.losses.term import Term

_SMOOTH = 1e-5
"""Added above and below the line, in voxels: a structure that is nowhere, and nowhere predicted, costs nothing."""
_LEAST_ERROR = 1e-12
"""Where 1 - T is less, the focal form is 0: a root is infinitely steep there."""


@dataclass(frozen=True)
class Regions:
    """Sums over the voxels with known truth, p being probabilities and t the truth, 0 or 1.

    Attributes:
        hit: (B, labels), sum of p t.
        predicted: (B, labels), sum of p, or of p^2.
        true: (B, labels), sum of t.
        counts: (B, labels), 1 where the label of the case counts, else 0.
        whole: whether they are sums over the whole batch, that of all processes (`across`).
    """

    hit: Tensor
    predicted: Tensor
    true: Tensor
    counts: Tensor
    whole: bool = False

    def pooled(self) -> Regions:
        """Over the batch: the same with B = 1."""
        sums = [(sums * self.counts).sum(0, keepdim=True) for sums in (self.hit, self.predicted, self.true)]
        hit, predicted, true, counts = totals(*sums, self.counts.amax(0, keepdim=True))
        return Regions(hit, predicted, true, counts.clamp_max(1), whole=True)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of (B, labels) over what counts."""
        above, below = (values * self.counts).sum(), self.counts.sum()
        if not self.whole:
            above, below = totals(above, below)
        return above / below.clamp_min(1)


def regions(evidence: Evidence, options: OverlapOptions, *, squared: bool = False) -> Regions:
    """The sums that an overlap is made of.

    Args:
        evidence: one output.
        options: whether the background is a label, whether cases are pooled.
        squared: sum the squares of probabilities.
    """
    probabilities = evidence.probabilities
    predicted = (probabilities.square() if squared else probabilities).flatten(2).sum(-1)
    if isinstance(evidence, Exclusive):
        hit, true = _by_label(evidence)
    else:
        hit = torch.where(evidence.targets, probabilities, 0).flatten(2).sum(-1)
        true = evidence.targets.flatten(2).sum(-1)
    counts = torch.ones_like(hit) if evidence.channels is None else evidence.channels
    first = 0 if options.background else evidence.first
    hit, predicted, true, counts = (sums[:, first:].to(hit.dtype) for sums in (hit, predicted, true, counts))
    found = Regions(hit, predicted, true, counts)
    return found.pooled() if options.batch else found


def _by_label(evidence: Exclusive) -> tuple[Tensor, Tensor]:
    """Hits and true sizes (B, L) from the probability of each voxel's own label: no one-hot copy of the truth."""
    own = torch.exp(-evidence.entropy)
    if evidence.known is not None:
        own = own * evidence.known
    labels = evidence.logits.shape[1]
    hit: Tensor = _LabelSums.apply(own.flatten(1), evidence.index.flatten(1), labels)
    ones = torch.ones_like(own) if evidence.known is None else evidence.known
    return hit, label_sums(ones.flatten(1), evidence.index.flatten(1), labels)


def label_sums(values: Tensor, index: Tensor, labels: int) -> Tensor:
    """Sums (B, labels) of values (B, N) by their index (B, N).

    Label by label on a GPU, where adding by index makes all threads wait for the same few sums, and adds in whatever
    order they come, so that the last digits differ from run to run.
    """
    if values.device.type != "cpu":
        return sums_by_mask(values, index, labels)
    # In float64, because it adds one by one: 2^24 + 1 is 2^24 in float32.
    sums = torch.zeros(len(values), labels, dtype=torch.float64).scatter_add_(1, index, values.double())
    return sums.to(values.dtype)


def sums_by_mask(values: Tensor, index: Tensor, labels: int) -> Tensor:
    """`label_sums` as a GPU computes them."""
    return torch.stack([torch.where(index == label, values, 0).sum(1) for label in range(labels)], dim=1)


class _LabelSums(torch.autograd.Function):
    """`label_sums` with a backward step of its own, because torch's would keep one mask per label."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor, labels: int) -> Tensor:
        ctx.save_for_backward(index)
        return label_sums(values, index, labels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return gradient.gather(1, index), None, None


class Dice(Term):
    """1 - (2 hit + s) / (predicted + true + s), mean over cases and labels (Milletari 2016), 0 to 1.

    Generalised (Sudre 2017, equation 1): 1 - (2 sum(w hit) + s) / (sum(w (predicted + true)) + s) with w the inverse
    square of the true size, the sums being over labels. A label that is absent has the largest weight of those that
    are present, as in MONAI; weights are scaled to at most 1, which changes nothing but what s is compared with.
    """

    config: DiceLossConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        sums = regions(evidence, self.config, squared=self.config.squared)
        hit, both = sums.hit, sums.predicted + sums.true
        if not self.config.generalised:
            return sums.mean(1 - (2 * hit + _SMOOTH) / (both + _SMOOTH))
        weights = _volume_weights(sums)
        loss = 1 - (2 * (weights * hit).sum(1) + _SMOOTH) / ((weights * both).sum(1) + _SMOOTH)
        return loss.mean() if sums.whole else mean(loss, None)


def _volume_weights(sums: Regions) -> Tensor:
    """(B, labels): inverse squares of the true sizes; the largest of a case is 1, and that of absent labels too."""
    present = (sums.true > 0) & (sums.counts > 0)
    smallest = torch.where(present, sums.true, torch.inf).amin(1, keepdim=True)
    return torch.where(present, (smallest / sums.true.clamp_min(1)).square(), 1) * sums.counts


class Iou(Term):
    """1 - (hit + s) / (predicted + true - hit + s), mean over cases and labels (Rahman 2016), 0 to 1."""

    config: IouConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        sums = regions(evidence, self.config)
        union = sums.predicted + sums.true - sums.hit
        return sums.mean(1 - (sums.hit + _SMOOTH) / (union + _SMOOTH))


class Tversky(Term):
    """1 - T, T = (hit + s) / (hit + alpha (predicted - hit) + beta (true - hit) + s), mean over cases and labels.

    Salehi 2017, equation 3; the focal form (1 - T)^(1 / gamma) is equation 4 of Abraham 2019. 0 to 1.
    """

    config: TverskyOptions

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        sums = regions(evidence, self.config)
        # Rounding may leave less than nothing.
        too_much = (sums.predicted - sums.hit).clamp_min(0)
        too_little = (sums.true - sums.hit).clamp_min(0)
        wrong = self.config.alpha * too_much + self.config.beta * too_little
        loss = wrong / (sums.hit + wrong + _SMOOTH)
        if isinstance(self.config, FocalTverskyConfig):
            loss = torch.where(loss > _LEAST_ERROR, loss.clamp_min(_LEAST_ERROR) ** (1 / self.config.gamma), 0)
        return sums.mean(loss)
