"""The `network:` section: one options class per network.

Knows nothing of torch: `networks.registry` builds what is described here.
"""

from __future__ import annotations

from inspect import get_annotations
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Discriminator, Field, Tag

from medunet.config.network_options import EncoderOptions, HalvingOptions, LevelsOptions, NetworkOptions, Norm, Sizes
from medunet.config.section import Positive

Halved = Annotated[int, Field(ge=2)]

PLAIN_BLOCKS = 2
"""Convolutions per level of a U-Net, from the first on (Ronneberger 2015)."""
RESIDUAL_BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the finest levels of nnU-Net's ResEnc (Isensee 2024); all others have as many as the last."""


class UNetOptions(LevelsOptions):
    """Options of the configurable U-Net and of its presets."""

    blocks: Positive | tuple[Positive, ...] | None = None
    """Convolutions (plain) or residual blocks per encoder level; null: 2 (plain) or 1, 3, 4, 6, 6, 6, ... (residual),
    as in nnU-Net."""
    decoder_blocks: Positive | tuple[Positive, ...] | None = None
    """Convolutions per decoder level, finest first; null: 2 (plain) or 1 (residual)."""
    residual: bool = False
    """Residual blocks in the encoder, as in nnU-Net's ResEnc."""
    attention: bool = False
    """Additive attention gates on all skip connections but the finest (Oktay 2018)."""
    down: Literal["stride", "maxpool"] = "stride"
    """How a level gets smaller: the first convolution steps, or a max-pooling goes before it."""
    up: Literal["transpose", "bilinear", "nearest"] = "transpose"
    """How a level gets larger: transposed convolution, or interpolation (in 3D trilinear) and a 1x1 convolution."""
    norm: Norm = "instance"
    """Normalisation after each convolution."""
    activation: Literal["leaky_relu", "relu", "prelu", "gelu", "silu"] = "leaky_relu"
    """Activation function."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which whole feature maps are dropped after each convolution."""
    deep_supervision: bool = True
    """Train the coarser decoder levels too."""

    @property
    def level_blocks(self) -> Sizes:
        """Convolutions or residual blocks of every encoder level."""
        levels = len(self.channels)
        if self.blocks is not None:
            return (self.blocks,) * levels if isinstance(self.blocks, int) else self.blocks
        if not self.residual:
            return (PLAIN_BLOCKS,) * levels
        return (*RESIDUAL_BLOCKS, *RESIDUAL_BLOCKS[-1:] * levels)[:levels]

    @property
    def level_decoder_blocks(self) -> Sizes:
        """Convolutions of every decoder level, finest first."""
        blocks = self.decoder_blocks if self.decoder_blocks is not None else 1 if self.residual else PLAIN_BLOCKS
        return (blocks,) * (len(self.channels) - 1) if isinstance(blocks, int) else blocks


class UNetConfig(UNetOptions):
    """The configurable U-Net: plain, residual or with attention gates; nnU-Net's topology (Isensee 2021)."""

    name: Literal["unet"] = "unet"


class AttentionUNetConfig(UNetOptions):
    """Attention U-Net (Oktay 2018): `unet` with `attention: true`."""

    name: Literal["attention_unet"]
    attention: bool = True
    """Additive attention gates on all skip connections but the finest (Oktay 2018)."""


class ResidualUNetConfig(UNetOptions):
    """U-Net with residual encoder, as nnU-Net's ResEnc (Isensee 2024): `unet` with `residual: true`."""

    name: Literal["residual_unet"]
    residual: bool = True
    """Residual blocks in the encoder, as in nnU-Net's ResEnc."""


class UNet2015Config(NetworkOptions):
    """The U-Net as published, valid convolutions and all: Ronneberger 2015 in 2D, Cicek 2016 in 3D.

    `train.patch_size` is what the network reads (572 in the paper); what it segments is smaller by `margin` on each
    side (388), and the border of the image is mirrored outwards to fill it.
    """

    name: Literal["unet2015"]
    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] | None = None
    """Features per level, finest first; null: [64, 128, 256, 512, 1024] in 2D, [64, 128, 256, 512] in 3D."""
    norm: Literal["none", "batch"] | None = None
    """Normalisation after each convolution; null: none in 2D, batch in 3D, as published."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Probability with which values at the end of the contracting path (its last two levels) are dropped; null: 0.5 in
    2D, 0 in 3D, as published."""

    @property
    def level_channels(self) -> Sizes:
        """The option `channels`, or those published."""
        if self.channels is not None:
            return self.channels
        return (64, 128, 256, 512, 1024) if self.dims == 2 else (64, 128, 256, 512)

    @property
    def features(self) -> Sizes:
        """Those of the levels."""
        return self.level_channels

    @property
    def normalisation(self) -> Norm:
        """The option `norm`, or what was published."""
        return self.norm or ("none" if self.dims == 2 else "batch")

    @property
    def stride(self) -> Sizes:
        """2 to the number of poolings."""
        return (2 ** (len(self.level_channels) - 1),) * self.dims

    @property
    def margin(self) -> Sizes:
        """Each level loses 2 voxels per side going down and 2 going up, of its own size; the deepest loses 2 once."""
        poolings = len(self.level_channels) - 1
        return (4 * (2**poolings - 1) + 2 * 2**poolings,) * self.dims

    @property
    def minimum_size(self) -> Sizes:
        """Input whose output is the smallest that exists: every level has at least one voxel left."""
        poolings = len(self.level_channels) - 1
        deepest = 3 if poolings == 1 else 4  # after its two convolutions; doubling and losing 4 must leave something
        size = deepest + 4
        for _ in range(poolings):
            size = 2 * size + 4
        return (size,) * self.dims


class UNetPlusPlusConfig(HalvingOptions):
    """U-Net++ (Zhou 2018): nested skip connections, an output after each nesting."""

    name: Literal["unetpp"]
    halvings: ClassVar[int] = 4
    channels: Annotated[tuple[Halved, ...], Field(min_length=5, max_length=5)] = (32, 64, 128, 256, 512)
    """Features of the five levels, finest first; at least 2, for they are halved on the way up."""
    norm: Norm = "instance"
    """Normalisation after each convolution."""
    activation: Literal["leaky_relu", "relu", "prelu", "gelu", "silu"] = "leaky_relu"
    """Activation function."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which whole feature maps are dropped after each convolution."""
    deep_supervision: bool = True
    """Train the outputs of the shallower nestings too; all have the size of the image."""

    @property
    def features(self) -> Sizes:
        """Those of the levels."""
        return self.channels


class EfficientUNetConfig(EncoderOptions):
    """U-Net over an EfficientNet (Tan 2019) or ResNet (He 2016) encoder, whose weights may come from a file."""

    name: Literal["efficient_unet"]
    fixed_norm: ClassVar[Norm] = "batch"
    backbone: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "r18", "r34", "r50"] = "b0"
    """Encoder: EfficientNet b0 to b7, or ResNet with 18, 34 or 50 layers."""
    decoder_channels: Annotated[tuple[Positive, ...], Field(min_length=5, max_length=5)] = (256, 128, 64, 32, 16)
    """Features of the decoder, coarsest first."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which values are dropped after each convolution of the decoder."""

    @property
    def stride(self) -> Sizes:
        """Five halvings."""
        return (32,) * self.dims


class SegResNetConfig(NetworkOptions):
    """SegResNet (Myronenko 2018), in the form that won HECKTOR 2022 (deep supervision, Myronenko 2022)."""

    name: Literal["segresnet"]
    filters: Positive = 32
    """Features of the finest level; they double with every level."""
    blocks: Annotated[tuple[Positive, ...], Field(min_length=2)] = (1, 2, 2, 4, 4)
    """Residual blocks per encoder level, finest first."""
    norm: Literal["instance", "batch", "group"] = "instance"
    """Normalisation after each convolution."""
    deep_supervision: bool = True
    """Train the coarser decoder levels too."""

    @property
    def features(self) -> Sizes:
        """Doubling per level."""
        return tuple(self.filters * 2**level for level in range(len(self.blocks)))

    @property
    def stride(self) -> Sizes:
        """One halving per level but the first."""
        return (2 ** (len(self.blocks) - 1),) * self.dims


class DynUNetConfig(LevelsOptions):
    """MONAI's DynUNet: nnU-Net v1's topology (Isensee 2021), with residual blocks on demand."""

    name: Literal["dynunet"]
    residual: bool = False
    """Residual blocks in encoder and decoder."""
    norm: Literal["instance", "batch", "group"] = "instance"
    """Normalisation after each convolution."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which whole feature maps are dropped after each convolution."""
    deep_supervision: bool = True
    """Train the coarser decoder levels too."""


class VNetConfig(HalvingOptions):
    """V-Net (Milletari 2016): residual stages of 5x5x5 convolutions."""

    name: Literal["vnet"]
    fixed_norm: ClassVar[Norm] = "batch"
    halvings: ClassVar[int] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Probability with which whole feature maps are dropped in the deeper stages."""


class SwinUNETRConfig(HalvingOptions):
    """Swin UNETR (Hatamizadeh 2022): windowed self-attention in the encoder, convolutions in the decoder."""

    name: Literal["swin_unetr"]
    halvings: ClassVar[int] = 5  # patch embedding, then four mergings
    feature_size: Annotated[int, Field(gt=0, multiple_of=12)] = 24
    """Features after the first stage, a multiple of 12."""
    version: Literal[1, 2] = 1
    """2 adds a convolution block before each stage (He 2023)."""
    norm: Literal["instance", "batch", "group"] = "instance"
    """Normalisation of the convolutions."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability with which values are dropped in the attention blocks."""
    checkpointing: bool = False
    """Compute activations of the encoder again in the backward pass instead of keeping them: less memory, slower."""

    @property
    def features(self) -> Sizes:
        """Doubling per stage."""
        return tuple(self.feature_size * 2**stage for stage in range(5))


class MedNeXtConfig(HalvingOptions):
    """MedNeXt (Roy 2023): ConvNeXt blocks in a U-Net."""

    name: Literal["mednext"]
    fixed_norm: ClassVar[Norm] = "instance"  # MONAI's GroupNorm of as many groups as features
    halvings: ClassVar[int] = 4
    size: Literal["S", "B", "M", "L"] = "S"
    """Published size."""
    kernel_size: Literal[3, 5] = 3
    """Kernel of the depth-wise convolutions."""
    deep_supervision: bool = True
    """Train the coarser decoder levels too."""


def _name(value: Any) -> str | None:
    name = value.get("name", "unet") if isinstance(value, dict) else getattr(value, "name", None)
    return name if isinstance(name, str) else None


NetworkConfig = Annotated[
    Annotated[UNetConfig, Tag("unet")]
    | Annotated[UNet2015Config, Tag("unet2015")]
    | Annotated[AttentionUNetConfig, Tag("attention_unet")]
    | Annotated[ResidualUNetConfig, Tag("residual_unet")]
    | Annotated[UNetPlusPlusConfig, Tag("unetpp")]
    | Annotated[EfficientUNetConfig, Tag("efficient_unet")]
    | Annotated[SegResNetConfig, Tag("segresnet")]
    | Annotated[DynUNetConfig, Tag("dynunet")]
    | Annotated[VNetConfig, Tag("vnet")]
    | Annotated[SwinUNETRConfig, Tag("swin_unetr")]
    | Annotated[MedNeXtConfig, Tag("mednext")],
    Discriminator(_name),
]
"""What `network:` may hold; without a name it is `unet`."""


def option_classes() -> dict[str, type[NetworkOptions]]:
    """Options class by the name of the network."""
    return {tag.tag: kind for kind, tag in (get_args(choice) for choice in get_args(get_args(NetworkConfig)[0]))}


def shared_options(one: Any, other: Any) -> frozenset[str]:
    """Options that mean the same to two networks, because they are defined once for both; without `name`."""
    classes = option_classes()
    if one not in classes or other not in classes:
        return frozenset()
    pair = classes[one], classes[other]
    common = set(pair[0].model_fields) & set(pair[1].model_fields) - {"name"}
    return frozenset(key for key in common if _defined_by(pair[0], key) is _defined_by(pair[1], key))


def _defined_by(kind: type[NetworkOptions], key: str) -> type:
    return next(parent for parent in kind.__mro__ if key in get_annotations(parent))
