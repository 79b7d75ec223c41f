"""The `loss:` section: one options class per loss. Knows nothing of torch: `losses.registry` builds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medunet.config.section import Positive, PositiveFloat, Section

ClassWeights = dict[str, PositiveFloat]


class LossOptions(Section):
    """What every loss's options have in common."""

    name: str
    """Which loss."""
    weight: PositiveFloat = 1.0
    """Factor in the sum."""


class OverlapOptions(LossOptions):
    """Options of losses that compare regions by their overlap."""

    background: bool = False
    """Count the background as one of the labels; nested labels have none."""
    batch: bool = False
    """Compute the overlap over the whole batch instead of patch by patch."""


class DiceLossConfig(OverlapOptions):
    """1 - soft Dice (Milletari 2016), mean over labels."""

    name: Literal["dice"]
    squared: bool = False
    """Square probabilities in the denominator, as in the V-Net."""
    generalised: bool = False
    """Weigh labels by the inverse square of their volume (Sudre 2017) instead of alike."""


class IouConfig(OverlapOptions):
    """1 - soft intersection over union (Jaccard index; Rahman 2016), mean over labels."""

    name: Literal["iou"]


class TverskyOptions(OverlapOptions):
    """Options of losses that are made of the Tversky index."""

    alpha: Annotated[float, Field(ge=0)] = 0.3
    """Weight of false positives."""
    beta: Annotated[float, Field(ge=0)] = 0.7
    """Weight of false negatives."""


class TverskyConfig(TverskyOptions):
    """1 - Tversky index (Salehi 2017): alpha weighs false positives, beta false negatives."""

    name: Literal["tversky"]


class FocalTverskyConfig(TverskyOptions):
    """(1 - Tversky index) ** (1 / gamma) (Abraham 2019), mean over labels."""

    name: Literal["focal_tversky"]
    gamma: Annotated[float, Field(ge=1, le=3)] = 4 / 3
    """Above 1, labels that are nearly right keep a larger share of the gradient."""


class CrossEntropyConfig(LossOptions):
    """Cross-entropy, mean over voxels; for nested labels the binary one of each label."""

    name: Literal["cross_entropy"]
    class_weights: ClassWeights | None = None
    """Factors by label name; labels that are not named have 1."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread over all labels (Szegedy 2016)."""


class BceConfig(LossOptions):
    """Binary cross-entropy of each structure against the rest, mean over voxels and structures."""

    name: Literal["bce"]
    class_weights: ClassWeights | None = None
    """Factors by label name; labels that are not named have 1."""
    positive_weight: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Factor for voxels inside of a structure."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Targets 0 and 1 become half of this and 1 less half of this."""


class FocalConfig(LossOptions):
    """Focal loss (Lin 2017): cross-entropy times (1 - p)^gamma, p being the probability of the truth."""

    name: Literal["focal"]
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much easy voxels are played down; 0 is cross-entropy."""
    class_weights: ClassWeights | None = None
    """Factors by label name (the paper's alpha); labels that are not named have 1."""


class TopkConfig(LossOptions):
    """Cross-entropy of the hardest voxels only (Wu 2016; nnU-Net's TopK)."""

    name: Literal["topk_ce"]
    percent: Annotated[float, Field(gt=0, le=100)] = 10.0
    """Share of the voxels of a batch that counts."""


class BoundaryWeightedConfig(LossOptions):
    """Cross-entropy with the weight map of the 2015 U-Net: class balance, and narrow gaps between cells.

    w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), d1 and d2 being the distances to the nearest and second nearest
    cell (Ronneberger 2015, equation 2). Cells are connected through faces. The second term is 0 inside of cells, as it
    is in the authors' code. Computed once per case and kept with the preprocessed case.
    """

    name: Literal["boundary_weighted_ce"]
    w0: Annotated[float, Field(ge=0)] = 10.0
    """Height of the second term."""
    sigma: PositiveFloat = 5.0
    """Width of the second term in voxels of the network's grid."""
    balance: bool = True
    """Weigh labels by the inverse of their frequency in the case (mean 1), at most 100 to 1; false: w_c is 1."""
    cells: str | None = None
    """Label whose connected components are the cells, `background` included; null: of all outermost structures."""


class HausdorffConfig(LossOptions):
    """Squared errors weighed by the distances to both boundaries (Karimi 2019, equation 8), mean over voxels.

    In voxels to the power of alpha, at first hundreds: add it to an overlap loss with a small weight.
    """

    name: Literal["hausdorff"]
    alpha: Annotated[float, Field(gt=0, le=4)] = 2.0
    """Exponent of the distances."""


class SurfaceConfig(LossOptions):
    """Boundary loss (Kervadec 2019): probability times signed distance to the true surface, mean over voxels.

    In voxels, negative inside; add it to an overlap loss with a small weight, as in the paper.
    """

    name: Literal["surface"]


class ClDiceConfig(LossOptions):
    """1 - soft centre-line Dice (Shit 2021), for vessels and other tubes; add it to `dice`, as in the paper."""

    name: Literal["cldice"]
    iterations: Positive = 5
    """Steps of the soft skeleton: at least the radius of the thickest tube in voxels."""


LossTerm = Annotated[
    DiceLossConfig
    | IouConfig
    | TverskyConfig
    | FocalTverskyConfig
    | CrossEntropyConfig
    | BceConfig
    | FocalConfig
    | TopkConfig
    | BoundaryWeightedConfig
    | HausdorffConfig
    | SurfaceConfig
    | ClDiceConfig,
    Field(discriminator="name"),
]
