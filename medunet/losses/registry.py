"""The table of losses, and what a training run makes of them: a weighted sum over terms and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.config import losses as options
from medunet.labels import LabelMap
from medunet.losses import centreline, distance, entropy, overlap
from medunet.losses.evidence import evidence
from medunet.losses.targets import Targets
from medunet.losses.term import Term
from medunet.losses.truth import Truth


@dataclass(frozen=True)
class Row:
    """One loss.

    Attributes:
        options: its section of the config.
        build: its class, made from the section and the labels.
        source: where it was published.
    """

    options: type[options.LossOptions]
    build: type[Term]
    source: str


LOSSES: dict[str, Row] = {
    "cross_entropy": Row(options.CrossEntropyConfig, entropy.CrossEntropy, "Szegedy 2016 (smoothing)"),
    "bce": Row(options.BceConfig, entropy.BinaryCrossEntropy, "Sudre 2017 (section 2.1)"),
    "dice": Row(options.DiceLossConfig, overlap.Dice, "Milletari 2016, Sudre 2017 (generalised)"),
    "iou": Row(options.IouConfig, overlap.Iou, "Rahman 2016"),
    "tversky": Row(options.TverskyConfig, overlap.Tversky, "Salehi 2017"),
    "focal_tversky": Row(options.FocalTverskyConfig, overlap.Tversky, "Abraham 2019"),
    "focal": Row(options.FocalConfig, entropy.Focal, "Lin 2017"),
    "topk_ce": Row(options.TopkConfig, entropy.TopK, "Wu 2016"),
    "boundary_weighted_ce": Row(options.BoundaryWeightedConfig, entropy.BoundaryWeighted, "Ronneberger 2015"),
    "hausdorff": Row(options.HausdorffConfig, distance.Hausdorff, "Karimi 2019"),
    "cldice": Row(options.ClDiceConfig, centreline.ClDice, "Shit 2021"),
    "surface": Row(options.SurfaceConfig, distance.Surface, "Kervadec 2019"),
}


class TotalLoss(nn.Module):
    """Weighted sum of terms, over all outputs of deep supervision; float32 whatever the network's precision.

    It lies on the device of the outputs, or else copies what it knows of the labels there in every step.

    Args:
        terms: modules from `Evidence` to one number, with their weights.
        labels: names, indices, which of them contain each other.
        heads: outputs of the network in training mode.
    """

    membership: Tensor | None

    def __init__(self, terms: Sequence[tuple[Term, float]], labels: LabelMap, heads: int) -> None:
        super().__init__()
        self.terms = nn.ModuleList(term for term, _ in terms)
        self.weights = tuple(weight for _, weight in terms)
        self.labels = labels
        self.heads = heads
        membership = torch.as_tensor(labels.membership) if labels.nested else None
        self.register_buffer("membership", membership, persistent=False)

    def forward(self, outputs: Tensor | Sequence[Tensor], truth: Truth) -> Tensor:
        """One number.

        Args:
            outputs: logits (B, C, *S), or a tuple of them, finest first. A single output that is smaller than the
                truth is what valid convolutions leave of it: its middle. In a tuple each has the extent of the truth,
                which is resampled to it.
            truth: for the same cases.

        Raises:
            ValueError: another number of outputs or channels than the loss was built for, or a term misses its
                weight map.
        """
        if isinstance(outputs, Tensor):
            targets = Targets.from_truth(truth, self.labels, outputs.device)
            return self._of_one(outputs, targets.centre(tuple(outputs.shape[2:])))
        if len(outputs) != self.heads:
            raise ValueError(f"The loss was built for {self.heads} outputs, but got {len(outputs)}.")
        targets = Targets.from_truth(truth, self.labels, outputs[0].device)
        shares = zip(supervision_weights(self.heads), outputs, strict=True)
        losses = [share * self._of_one(output, targets.resampled(tuple(output.shape[2:]))) for share, output in shares]
        return torch.stack(losses).sum()

    def _of_one(self, logits: Tensor, targets: Targets) -> Tensor:
        if logits.shape[1] != self.labels.outputs:
            raise ValueError(f"The labels need {self.labels.outputs} channels, but got {logits.shape[1]}.")
        found = evidence(logits, targets, self.membership)
        losses = [weight * term(found) for weight, term in zip(self.weights, self.terms, strict=True)]
        return torch.stack(losses).sum()


def supervision_weights(heads: int) -> list[float]:
    """1, 1/2, 1/4, ... per output, finest first, scaled to sum 1 (nnU-Net)."""
    raw = [0.5**index for index in range(heads)]
    return [value / sum(raw) for value in raw]


def build_loss(terms: Sequence[options.LossTerm], labels: LabelMap, heads: int) -> nn.Module:
    """The loss of a training run, called as `loss(outputs, truth)`.

    Args:
        terms: the `loss:` section.
        labels: names and indices.
        heads: outputs of the network in training mode; 1 means a single tensor.
    """
    return TotalLoss([(LOSSES[term.name].build(term, labels), term.weight) for term in terms], labels, heads)
