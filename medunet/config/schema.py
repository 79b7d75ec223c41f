"""The typed YAML: every key, its type, its range and its default.

One class per section, frozen; unknown keys are refused. The sections of networks and losses stand in modules of
their own, rules that join several keys in `config.rules`, reading and error messages in `config.load`. Knows
nothing of torch.

Spatial lists (`spacing`, `patch_size`, kernels, strides) are in the axis order of
`preprocess.orientation`: with RAS that is x (right), y (anterior), z (superior).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from medunet.config.losses import CrossEntropyConfig, DiceLossConfig, LossTerm
from medunet.config.networks import NetworkConfig, UNetConfig
from medunet.config.section import Finite, Fraction, Positive, PositiveFloat, Section, as_tuple


class DataConfig(Section):
    """Where the cases are and how they are split."""

    root: str = ""
    """Data set: folder or CSV file, seen from this file; `--data` sets it. `${VAR}`, `${VAR:-other}`, `~` work."""
    format: Literal["auto", "decathlon", "nnunet", "csv", "folders"] = "auto"
    """Layout of the data set; `auto` looks for dataset.json, imagesTr, *.csv, images/ + labels/."""
    modality: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("CT",)
    """One name per image channel, for example [CT] or [T1, T2, FLAIR]."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which fold is held out for validation, from 0."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds."""
    annotated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Cases that were not annotated for all labels: pattern of case ids (`amos_*`) to the labels that were. In them
    the background may hold the other structures, which is neither rewarded nor punished."""
    cache: str | None = None
    """Folder for preprocessed cases, shared between runs; null keeps them in the run folder."""


class IntensityNone(Section):
    """Leave the values as they are."""

    name: Literal["none"]


class IntensityCtWindow(Section):
    """Clip to [low, high] Hounsfield units and scale to 0...1."""

    name: Literal["ct_window"]
    low: Finite = -160.0
    """Hounsfield units that become 0."""
    high: Finite = 240.0
    """Hounsfield units that become 1."""


class IntensityPercentile(Section):
    """Clip to two percentiles of the image, then subtract the mean and divide by the standard deviation."""

    name: Literal["percentile"]
    low: Annotated[float, Field(ge=0, lt=100)] = 0.5
    """Lower percentile."""
    high: Annotated[float, Field(gt=0, le=100)] = 99.5
    """Upper percentile."""


class IntensityZScore(Section):
    """Subtract the mean of the image and divide by its standard deviation."""

    name: Literal["zscore"]
    nonzero: bool = False
    """Compute mean and deviation over voxels that are not 0 (skull-stripped MR) and leave 0 at 0."""


Intensity = Annotated[
    IntensityNone | IntensityCtWindow | IntensityPercentile | IntensityZScore, Field(discriminator="name")
]


class CropConfig(Section):
    """Crop every image to the box of voxels above a threshold before anything else."""

    above: Finite
    """Keep the bounding box of voxels greater than this, in any channel (0 for skull-stripped MR)."""
    margin: Annotated[int, Field(ge=0)] = 0
    """Voxels added around the box."""


class PreprocessConfig(Section):
    """What is done to every image, in training and in prediction alike, and undone on the mask."""

    orientation: Annotated[str, Field(pattern="^[RLAPSI]{2,3}$", examples=["RAS", "LPS"])] = "RAS"
    """Axis directions after reading: one letter per axis."""
    spacing: tuple[PositiveFloat, ...] | None = None
    """Voxel size in mm that the network sees; null keeps the size of each image."""
    intensity: Annotated[
        tuple[Intensity, ...],
        BeforeValidator(as_tuple, json_schema_input_type=Intensity | tuple[Intensity, ...]),
        Field(min_length=1),
    ] = (IntensityZScore(name="zscore"),)
    """How values are normalised; one entry for all channels or a list with one per channel."""
    crop: CropConfig | None = None
    """Foreground crop; null uses the whole image."""
    interpolation: Literal["cubic", "linear"] = "cubic"
    """Interpolation of the image when spacing is changed; masks go label by label, linearly."""


class AugmentConfig(Section):
    """Random changes of the training patches. A preset gives the defaults; a key here overrides it."""

    preset: Literal["none", "mirror", "nnunet"] = "nnunet"
    """`nnunet`: the list and probabilities of nnU-Net v2; `mirror`: flips only; `none`."""
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    """Axes that may be flipped, 0 first; null: all for `nnunet` and `mirror`. Left and right organs: leave out x."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest rotation about each axis."""
    rotation_probability: Fraction | None = None
    """Share of patches that are rotated."""
    scale_range: tuple[PositiveFloat, PositiveFloat] | None = None
    """Smallest and largest zoom."""
    scale_probability: Fraction | None = None
    """Share of patches that are zoomed."""
    intensity_strength: Annotated[float, Field(ge=0, le=2)] | None = None
    """Multiplies the probabilities of noise, blur, brightness, contrast, low resolution and gamma; 1 as in nnU-Net."""


class SgdConfig(Section):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    lr: PositiveFloat = 0.01
    """Learning rate at the start."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Momentum."""
    nesterov: bool = True
    """Nesterov's variant."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    """L2 penalty."""


class AdamWConfig(Section):
    """Adam with decoupled weight decay (Loshchilov 2019)."""

    name: Literal["adamw"]
    lr: PositiveFloat = 1e-3
    """Learning rate at the start."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay."""


OptimizerConfig = Annotated[SgdConfig | AdamWConfig, Field(discriminator="name")]


class PolyConfig(Section):
    """lr * (1 - progress) ** power, as in nnU-Net."""

    name: Literal["poly"]
    power: PositiveFloat = 0.9
    """Exponent."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training during which the rate rises linearly from 0."""


class CosineConfig(Section):
    """Half a cosine from lr to 0."""

    name: Literal["cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training during which the rate rises linearly from 0."""


class ConstantConfig(Section):
    """The same learning rate throughout."""

    name: Literal["constant"]
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the training during which the rate rises linearly from 0."""


ScheduleConfig = Annotated[PolyConfig | CosineConfig | ConstantConfig, Field(discriminator="name")]


class TrainConfig(Section):
    """How the network is trained."""

    patch_size: tuple[Positive, ...] = (128, 128, 96)
    """Voxels per axis that the network sees at once; of them `unet2015` segments all but its margin (92 on each side
    in 2D, 44 in 3D)."""
    batch_size: Positive = 2
    """Patches per step."""
    epochs: Positive = 500
    """Number of epochs; `budget` may end the training earlier."""
    iterations_per_epoch: Positive = 250
    """Steps per epoch."""
    budget: (
        Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? *(s|sec|min|h)$", examples=["90s", "30min", "12h"])] | None
    ) = None
    """Time for the training, such as 30min or 12h; the schedule is drawn over it. Null: `epochs` decides."""
    foreground: Fraction = 0.33
    """Share of each batch that is centred on a labelled voxel (nnU-Net: 0.33)."""
    optimizer: OptimizerConfig = SgdConfig(name="sgd")
    """Optimizer."""
    schedule: ScheduleConfig = PolyConfig(name="poly")
    """How the learning rate falls."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the device computes it natively, fp16 on older GPUs, else fp32."""
    clip_norm: PositiveFloat | None = 12.0
    """Largest norm of the gradient; null: no clipping."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that prepare patches; 0: a thread of this process. `auto`: 0 on a CPU."""


class ValidateConfig(Section):
    """How the held-out cases are scored during training: whole, in their original grid."""

    every: Positive = 10
    """Epochs between two validations; the last epoch is always validated."""
    metric: Literal["dice"] = "dice"
    """What decides which epoch is best: mean over foreground labels and cases."""
    cases: Positive | None = None
    """At most so many cases during training (the last validation uses all); null: all."""


class InferenceConfig(Section):
    """Defaults for prediction; the command line may override them."""

    overlap: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Overlap of neighbouring windows, as a share of the patch. Means nothing for `unet2015`, whose tiles adjoin."""
    tta: bool = False
    """Average over mirrored copies (as many as 2 to the number of mirrored axes)."""
    batch_size: Positive = 1
    """Windows per forward pass."""


class LargestComponentConfig(Section):
    """Keep the largest connected component of one label."""

    name: Literal["largest_component"]
    label: str
    """Name of the label."""


class RemoveSmallConfig(Section):
    """Remove connected components of one label that are smaller than a volume."""

    name: Literal["remove_small"]
    label: str
    """Name of the label."""
    ml: PositiveFloat
    """Components smaller than this many millilitres are removed."""


class FillHolesConfig(Section):
    """Fill the holes of one label that are enclosed by it on all sides."""

    name: Literal["fill_holes"]
    label: str
    """Name of the label."""


PostprocessStep = Annotated[LargestComponentConfig | RemoveSmallConfig | FillHolesConfig, Field(discriminator="name")]


class LoggingConfig(Section):
    """What is recorded beside metrics.jsonl and train.log."""

    tensorboard: bool = False
    """Write TensorBoard events into the run folder (needs the extra `tensorboard`)."""
    mlflow: None = None
    """Reserved; only null is valid in this version."""


class Config(Section):
    """A whole training configuration."""

    name: Annotated[str, Field(min_length=1)]
    """Short name of the task, for example ct_liver."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Start of all random numbers."""
    deterministic: bool = False
    """Bit-identical results on the same machine, at some cost in speed."""
    data: DataConfig = DataConfig()
    labels: dict[str, int | Annotated[tuple[int, ...], Field(min_length=1)]]
    """Names to values in the mask files. A list merges values into one label; lists that share values are labels inside
    of each other (whole, core); the name `ignore` marks voxels whose label is unknown."""
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    network: NetworkConfig = UNetConfig()
    """Which network, and its options."""
    loss: Annotated[
        tuple[LossTerm, ...],
        BeforeValidator(as_tuple, json_schema_input_type=LossTerm | tuple[LossTerm, ...]),
        Field(min_length=1),
    ] = (
        DiceLossConfig(name="dice"),
        CrossEntropyConfig(name="cross_entropy"),
    )
    """Loss terms that are added up."""
    train: TrainConfig = TrainConfig()
    validation: ValidateConfig = Field(default=ValidateConfig(), alias="validate")
    inference: InferenceConfig = InferenceConfig()
    postprocess: tuple[PostprocessStep, ...] = ()
    """Steps applied to the finished mask, in order."""
    logging: LoggingConfig = LoggingConfig()
