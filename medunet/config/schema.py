"""The typed YAML: every key, its type, its range and its default.

One class per section, frozen; unknown keys are refused. The sections of networks, losses, training and clean-up stand
in modules of their own, rules that join several keys in `config.rules`, reading and error messages in `config.load`.
Knows nothing of torch.

Spatial lists (`spacing`, `patch_size`, kernels, strides) are in the axis order of
`preprocess.orientation`: with RAS that is x (right), y (anterior), z (superior).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medunet.config.losses import CrossEntropyConfig, DiceLossConfig, LossTerm
from medunet.config.networks import NetworkConfig, UNetConfig
from medunet.config.pictures import Colours, PairsConfig, RleConfig, Text
from medunet.config.postprocess import PostprocessStep
from medunet.config.section import Finite, Fraction, Positive, PositiveFloat, Section, as_tuple
from medunet.config.series import SeriesRules
from medunet.config.terms import TermConfig
from medunet.config.training import Duration, Metric, TrainConfig
from medunet.config.tuning import SpaceConfig


class DataConfig(Section):
    """Where the cases are and how they are split."""

    root: str = ""
    """Data set: folder or CSV file, seen from this file; `--data` sets it. `${VAR}`, `${VAR:-other}`, `~` work."""
    format: Literal["auto", "decathlon", "nnunet", "csv", "folders", "dicom", "pairs", "voc", "coco", "rle"] = "auto"
    """Layout of the data set; `auto` takes `pairs` where that is given, and looks for dataset.json, imagesTr, *.csv (a
    list of files, or runs), images/ + labels/, JPEGImages/ + SegmentationClass/, JSON as of COCO, `x.jpg` +
    `x_mask.png`, and folders of DICOM studies, each with a segmentation or structure set."""
    pairs: PairsConfig | None = None
    """How the files of a case are named, for any other layout; null: by the layout."""
    rle: RleConfig = RleConfig()
    """Columns of a table of runs, and how it is meant."""
    images: Text | None = None
    """For `coco` and `rle`: the folder of the pictures, seen from the data set; null: wherever below it they are."""
    lists: bool = False
    """For `voc`: hold out in fold 0 what val.txt lists and in fold 1 what train.txt lists, instead of folds by lot."""
    colours: dict[str, Colours] = Field(default_factory=dict)
    """What the colours of RGB masks mean: label to a colour, [128, 64, 128] or "#804080", or a list of such. A colour
    of no label is an error. Empty: masks hold values."""
    resize_label: bool = False
    """Bring masks and regions of another size than their picture to its size, by the nearest pixel, whatever their
    proportions; false: they are errors."""
    grey_edges: bool = True
    """In masks with two values that are at least 64 apart, take up to 20 % of other values for smoothed edges (JPEG,
    antialiasing): each goes to the nearer of the two, and a warning says so; false: they are errors."""
    modality: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("CT",)
    """One name per image channel, for example [CT] or [T1, T2, FLAIR]."""
    series: SeriesRules | None = None
    """Which series of a DICOM export is meant, in training and, through the model, in prediction; null: the only
    volume."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which fold is held out for validation, from 0."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Number of folds."""
    group: Annotated[str, Field(examples=["{group}_*"])] | None = None
    """Cases that stay in one fold, such as the pictures of one patient: a pattern of their ids, in which `*` stands for
    anything and `{group}` for what tells one group from another; of `{group}_*` it is all up to the last underscore.
    Null: the groups that the data set states, if it does."""
    annotated: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Cases that were not annotated for all labels: pattern of case ids (`amos_*`) to the labels that were. In them
    the background may hold the other structures, which is neither rewarded nor punished."""
    cache: str | None = None
    """Folder for preprocessed cases, shared between runs; null keeps them in the run folder."""
    memory: Literal["auto", "ram", "disk"] = "auto"
    """Where preprocessed cases are read from while training: `ram` holds all, `disk` reads what a patch needs; `auto`
    takes ram where all cases fill at most half of what is free."""


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


class IntensityFixed(Section):
    """(value / scale - mean) / std with the same figures for every image; for weights that were trained so."""

    name: Literal["fixed"]
    scale: PositiveFloat = 255.0
    """Value that is white, and becomes 1 before the rest: 255 in pictures of 8 bits per channel, 65535 in those of 16
    (values are taken as they stand in the file); 1 where `mean` and `std` are in units of the image."""
    mean: Finite = 0.0
    """Subtracted from the scaled value; timm's EfficientNets that were trained with AdvProp expect 0.5, and 0.5 for
    `std`."""
    std: PositiveFloat = 1.0
    """What the difference is divided by."""


class IntensityImageNet(Section):
    """`fixed` with the figures of torchvision's and most of timm's weights: means of red, green and blue 0.485, 0.456,
    0.406, deviations 0.229, 0.224, 0.225. One channel takes the mean of the three; other numbers take them in turn."""

    name: Literal["imagenet"]
    scale: PositiveFloat = 255.0
    """Value that is white: 255 in pictures of 8 bits per channel, 65535 in those of 16."""


Intensity = Annotated[
    IntensityNone | IntensityCtWindow | IntensityPercentile | IntensityZScore | IntensityFixed | IntensityImageNet,
    Field(discriminator="name"),
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
    size: tuple[Positive, ...] | None = None
    """Pixels (width, height) that every picture is brought to, whatever its proportions; of volumes, whose slices are
    brought to it, the third axis stays as it is. Masks come back in the size of the image. Null: by `spacing`."""
    neighbours: Annotated[int, Field(ge=0, le=16)] = 0
    """For 2D networks on volumes: slices on either side that the network sees beside the one it segments, as channels
    (2.5D). Beyond the ends the volume is mirrored."""
    intensity: Annotated[
        tuple[Intensity, ...],
        BeforeValidator(as_tuple, json_schema_input_type=Intensity | tuple[Intensity, ...]),
        Field(min_length=1),
    ] = (IntensityZScore(name="zscore"),)
    """How values are normalised; one entry for all channels or a list with one per channel."""
    crop: CropConfig | None = None
    """Foreground crop; null uses the whole image."""
    interpolation: Literal["cubic", "linear"] = "cubic"
    """Interpolation of the image when spacing is changed; masks go label by label, linearly. With `size`, sides that
    shrink are averaged over the pixels that become one."""


class ElasticConfig(Section):
    """Displacements drawn at the points of a coarse grid, with cubic splines between them (Ronneberger 2015)."""

    probability: Fraction = 0.5
    """Share of patches that are deformed."""
    points: Annotated[int, Field(ge=2, le=64)] = 3
    """Points along each axis of the patch (the paper: 3)."""
    sigma: PositiveFloat = 10.0
    """Standard deviation of the displacement of each point, in voxels (the paper: 10)."""


class AugmentConfig(Section):
    """Random changes of the training patches. A preset gives the defaults; a key here overrides it."""

    preset: Literal["none", "mirror", "nnunet", "photo"] = "nnunet"
    """`nnunet`: the list and probabilities of nnU-Net v2; `photo`: for photographs, with strong changes of place and
    colour, cut-outs, and left-to-right flips only; `mirror`: flips only; `none`."""
    mirror_axes: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    """Axes that may be flipped, 0 first; null: all for `nnunet` and `mirror`, [0] for `photo`. Left and right organs:
    leave out x."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest rotation about each axis."""
    rotation_probability: Fraction | None = None
    """Share of patches that are rotated."""
    scale_range: tuple[PositiveFloat, PositiveFloat] | None = None
    """Smallest and largest zoom."""
    scale_probability: Fraction | None = None
    """Share of patches that are zoomed."""
    shift: Annotated[float, Field(ge=0, le=1)] | None = None
    """Largest shift along each axis, as a share of the patch; for patches that hold the whole image, whose place is
    otherwise always the same."""
    shear_degrees: Annotated[float, Field(ge=0, lt=45)] | None = None
    """Largest shear in the plane of the first two axes, where patches are rotated or zoomed."""
    outside: Literal["zero", "mirror"] | None = None
    """What patches hold that reach beyond the image: 0, or the image mirrored; null: `mirror` for `photo`, else
    `zero`, as in nnU-Net."""
    elastic: ElasticConfig | None = None
    """Smooth deformation (Ronneberger 2015, section 3.1); null: none."""
    intensity_strength: Annotated[float, Field(ge=0, le=2)] | None = None
    """Multiplies the probabilities of noise, blur, brightness, contrast, low resolution and gamma; 1 as in nnU-Net."""
    colour_strength: Annotated[float, Field(ge=0, le=3)] | None = None
    """How far brightness, contrast, saturation, hue and the balance of the channels are changed, all at once in most
    patches; 0: not at all. For pictures."""
    cutout_probability: Fraction | None = None
    """Share of patches of which some rectangles are blanked out, so that the network learns to do without."""
    collage_probability: Fraction | None = None
    """Share of patches that are put together of parts of four."""
    paste_probability: Fraction | None = None
    """Share of patches onto which the structures of another case are pasted (Ghiasi 2021)."""


class ValidateConfig(Section):
    """How the held-out cases are scored during training: whole, in their original grid."""

    every: Positive = 10
    """Epochs between two validations; the last epoch is always validated."""
    metric: Metric = "dice"
    """What decides which epoch is best: `dice` (mean over foreground labels and cases), `dice/LABEL`, or
    `validation_loss` (of patches of held-out cases)."""
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
    skip_air: bool = True
    """Run the network once, not each time, on windows that hold nothing: of one value throughout, as air is where
    `preprocess.intensity` clips, which changes nothing; and in CT those of noise that nowhere reaches half-way from air
    to the dimmest structure of the training cases, if the network decides the same without the noise."""


class ImagesConfig(Section):
    """Slices of held-out cases: image, truth, prediction."""

    cases: Positive = 2
    """How many cases: the first of the held-out ones."""
    every: Positive = 5
    """Every how many validations."""


class MlflowConfig(Section):
    """An MLflow run."""

    tracking_uri: Annotated[str, Field(min_length=1, examples=["http://mlflow.hospital:5000", "sqlite:///mlflow.db"])]
    """Tracking server or database. `${VAR}` works."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Name of the experiment; null takes the name of the configuration."""
    run: Annotated[str, Field(min_length=1)] | None = None
    """Name of the run; null takes the name of the run folder."""
    model: bool = True
    """Store the model folder, too."""


def _as_tracking_uri(value: Any) -> Any:
    return {"tracking_uri": value} if isinstance(value, str) else value


class LoggingConfig(Section):
    """What is recorded beside metrics.jsonl and train.log."""

    tensorboard: bool | Literal["auto"] = "auto"
    """Write TensorBoard events into the run folder; `auto`: where the extra `tensorboard` is installed."""
    images: ImagesConfig | None = ImagesConfig()
    """Slices of held-out cases for TensorBoard and MLflow; null: none."""
    mlflow: Annotated[
        MlflowConfig | None, BeforeValidator(_as_tracking_uri, json_schema_input_type=MlflowConfig | str | None)
    ] = None
    """Record parameters, metrics, figures and the model in MLflow (needs the extra `mlflow`): its tracking URI, or a
    mapping; null: do not."""
    monitor: Duration | None = "5s"
    """Time between two samples of processor, memory, disk and GPU (resources.jsonl, and the bar); null: none."""


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
    terms: dict[str, TermConfig] = Field(default_factory=dict)
    """What labels are called in DICOM objects, by their names, where those do not tell, and their colours."""
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
    """Clean-up of the mask: steps in order, before which thresholds are applied."""
    logging: LoggingConfig = LoggingConfig()
    tune: dict[str, SpaceConfig] = Field(default_factory=dict)
    """What `medunet tune` varies: paths of keys (`train.optimizer.lr`) to what they may be. A training takes no notice
    of it."""
