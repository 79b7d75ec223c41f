"""Segmentation losses by name, and their weighted sum with deep supervision.

Dice, Tversky and deep supervision are MONAI's, cross-entropy is torch's; all take logits (B, C, *S) and targets
(B, 1, *S) of indices 0..C-1 in any dtype. Background counts in cross-entropy and focal, not in Dice and Tversky.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.losses import DeepSupervisionLoss, DiceLoss, TverskyLoss
from torch import Tensor, nn

from medunet.config.schema import CrossEntropyConfig, DiceLossConfig, FocalConfig, LossTerm, TverskyConfig

_SMOOTH = 1e-5
_REGION: dict[str, Any] = {
    "include_background": False,
    "to_onehot_y": True,
    "softmax": True,
    "smooth_nr": _SMOOTH,
    "smooth_dr": _SMOOTH,
}
"""What the overlap losses have in common."""


class CrossEntropy(nn.Module):
    """torch's cross-entropy for a target (B, 1, *S)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over voxels."""
        return nn.functional.cross_entropy(logits, target.squeeze(1).long())


class Focal(nn.Module):
    """Cross-entropy times (1 - p)^gamma, p being the probability of the true label (Lin 2017).

    MONAI's takes the mean over labels too, so that gamma 0 gives cross-entropy divided by their number.

    Args:
        gamma: how much easy voxels are played down.
    """

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over voxels."""
        entropy = nn.functional.cross_entropy(logits, target.squeeze(1).long(), reduction="none")
        # Kept from 0, where the slope of a power below 1 is infinite.
        doubt = (1 - torch.exp(-entropy)).clamp_min(1e-6)
        return (doubt**self.gamma * entropy).mean()


def _dice(config: DiceLossConfig) -> nn.Module:
    loss: nn.Module = DiceLoss(batch=config.batch, **_REGION)
    return loss


def _cross_entropy(config: CrossEntropyConfig) -> nn.Module:  # noqa: ARG001 - one signature for the table
    return CrossEntropy()


def _tversky(config: TverskyConfig) -> nn.Module:
    loss: nn.Module = TverskyLoss(alpha=config.alpha, beta=config.beta, batch=config.batch, **_REGION)
    return loss


def _focal(config: FocalConfig) -> nn.Module:
    return Focal(config.gamma)


LOSSES: dict[str, Callable[..., nn.Module]] = {
    "dice": _dice,
    "cross_entropy": _cross_entropy,
    "tversky": _tversky,
    "focal": _focal,
}


class SumLoss(nn.Module):
    """Weighted sum of loss terms, computed in float32 whatever the network's precision."""

    def __init__(self, terms: Sequence[LossTerm]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(LOSSES[term.name](term) for term in terms)
        self.weights = tuple(term.weight for term in terms)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of logits (B, C, *S) against indices (B, 1, *S)."""
        logits = logits.float()
        total = torch.zeros((), device=logits.device)
        for weight, term in zip(self.weights, self.terms, strict=True):
            total = total + weight * term(logits, target)
        return total


class DeepSupervision(DeepSupervisionLoss):
    """MONAI's sum over outputs, for targets of any dtype: torch shrinks uint8 and floats by nearest neighbour only."""

    def forward(self, outputs: Sequence[Tensor], target: Tensor) -> Tensor:
        """Loss of logits, finest first, against indices (B, 1, *S) of the finest."""
        loss: Tensor = super().forward(list(outputs), target.float())
        return loss


def supervision_weights(heads: int) -> list[float]:
    """1, 1/2, 1/4, ... per output, finest first, scaled to sum 1 (nnU-Net)."""
    raw = [0.5**index for index in range(heads)]
    return [value / sum(raw) for value in raw]


def build_loss(terms: Sequence[LossTerm], heads: int) -> nn.Module:
    """The loss of a training run: a sum of terms, over all outputs of deep supervision.

    Args:
        terms: the `loss:` section.
        heads: outputs of the network in training mode; 1 means a single tensor.
    """
    loss = SumLoss(terms)
    return loss if heads == 1 else DeepSupervision(loss, weights=supervision_weights(heads))
