"""What the options of several networks have in common, and the sizes that follow from them.

A size that a network takes is `minimum_size + k * stride` for whole k >= 0, per axis.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from medunet.config.section import Positive, Section

NORM_GROUPS = 8
"""Groups of `norm: group` (Wu 2018 uses 32; 8 leaves four channels per group at the usual finest 32)."""

Norm = Literal["instance", "batch", "group", "none"]
Sizes = tuple[int, ...]
Options = TypeVar("Options", bound="NetworkOptions")


class NetworkOptions(Section):
    """What every network's options have in common."""

    name: str
    """Which network."""
    dims: Literal[2, 3] = 3
    """Spatial rank of the convolutions; 2 on volumes works slice by slice along the last axis."""

    @property
    def stride(self) -> Sizes:
        """Step between the sizes that the network takes, per axis: by how much its deepest level is smaller."""
        raise NotImplementedError

    @property
    def minimum_size(self) -> Sizes:
        """Smallest size that the network takes, per axis; smaller images are padded to it."""
        return self.stride

    @property
    def margin(self) -> Sizes:
        """Voxels on each side that the network sees but gives no output for, per axis; 0 with padded convolutions."""
        return (0,) * self.dims

    @property
    def features(self) -> Sizes:
        """Features that the option `norm` acts on; empty where there is no such option."""
        return ()

    def as_trained(self: Options) -> Options:
        """The options as a trained model states them: without what only the start of a training needs."""
        return self

    def fits(self, size: Sizes) -> bool:
        """Whether the network takes an image of this size as it is, without padding."""
        return len(size) == self.dims and tuple(size) == self.padded(size)

    def padded(self, size: Sizes) -> Sizes:
        """The smallest size that the network takes and that holds `size`."""
        return self._on_grid(size, math.ceil)

    def nearest(self, size: Sizes) -> Sizes:
        """The size that the network takes and that is nearest to `size`."""
        return self._on_grid(size, round)

    def _on_grid(self, size: Sizes, rounded: Any) -> Sizes:
        return tuple(
            least + step * max(0, rounded((n - least) / step))
            for n, least, step in zip(size, self.minimum_size, self.stride, strict=True)
        )


def per_axis(values: tuple[int | Sizes, ...], dims: int) -> tuple[Sizes, ...]:
    """One entry per level, each a number or one per axis, as one per level and axis."""
    return tuple((value,) * dims if isinstance(value, int) else value for value in values)


class LevelsOptions(NetworkOptions):
    """Options of networks whose levels, strides and kernels are free."""

    channels: Annotated[tuple[Positive, ...], Field(min_length=2)] = (32, 64, 128, 256, 320)
    """Features per level, finest first."""
    strides: tuple[Positive | tuple[Positive, ...], ...] | None = None
    """Step of the first convolution of each level; a number or one per axis. Null: 1, then 2 on every axis."""
    kernel_size: Positive | tuple[Positive | tuple[Positive, ...], ...] = 3
    """Kernel of every convolution, or one entry per level (a number or one per axis), odd."""

    @property
    def features(self) -> Sizes:
        """Those of the levels."""
        return self.channels

    @property
    def level_strides(self) -> tuple[Sizes, ...]:
        """Stride of every level per axis, the first level included."""
        if self.strides is None:
            return ((1,) * self.dims,) + ((2,) * self.dims,) * (len(self.channels) - 1)
        return per_axis(self.strides, self.dims)

    @property
    def level_kernels(self) -> tuple[Sizes, ...]:
        """Kernel of every level per axis."""
        kernels = self.kernel_size
        return per_axis((kernels,) * len(self.channels) if isinstance(kernels, int) else kernels, self.dims)

    @property
    def stride(self) -> Sizes:
        """Product of the strides of all levels, per axis."""
        result = (1,) * self.dims
        for level in self.level_strides:
            result = tuple(a * b for a, b in zip(result, level, strict=True))
        return result


class HalvingOptions(NetworkOptions):
    """Options of networks that halve every axis a fixed number of times."""

    halvings: ClassVar[int]

    @property
    def stride(self) -> Sizes:
        """2 to the number of halvings."""
        return (2**self.halvings,) * self.dims


class EncoderOptions(NetworkOptions):
    """Options of networks whose encoder may come from another training."""

    encoder_weights: Annotated[str, Field(min_length=1)] | None = None
    """Local file (.safetensors, or .pt/.pth of tensors) with weights of the encoder, as torchvision, timm or MONAI
    name them; read once, when a training starts. Null starts from random ones."""
    frozen_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start during which the encoder keeps its weights and only the rest learns."""

    def as_trained(self: Options) -> Options:
        """Without the file, which is needed once."""
        return self.model_copy(update={"encoder_weights": None})
