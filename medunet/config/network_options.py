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

    fixed_norm: ClassVar[Norm] = "instance"
    """What normalises the features where there is no option `norm`."""

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
    def least_patch(self) -> Sizes:
        """Smallest patch to train on, per axis.

        With a margin it leaves at least a stride inside, so that tiles that adjoin stand on one grid of poolings.
        """
        tile = (2 * side + step if side else 1 for side, step in zip(self.margin, self.stride, strict=True))
        return self.padded(tuple(tile))

    @property
    def features(self) -> Sizes:
        """Features of the levels, finest first; empty where no option tells them."""
        return ()

    @property
    def coarsest_features(self) -> int:
        """The fewest features of a level with the deepest level's grid."""
        return min(self.features[-1:], default=1)

    @property
    def normalisation(self) -> Norm:
        """What normalises the features: the option `norm`, where there is one."""
        chosen: Norm | None = getattr(self, "norm", None)
        return chosen or self.fixed_norm

    def as_trained(self: Options) -> Options:
        """The options as a trained model states them: without what only the start of a training needs."""
        return self

    def fits(self, size: Sizes) -> bool:
        """Whether the network takes an image of this size as it is, without padding.

        One that leaves its norm a single value (`leaves_one_value`) it pads all the same.
        """
        return len(size) == self.dims and tuple(size) == self.padded(size)

    def padded(self, size: Sizes) -> Sizes:
        """The smallest size that the network takes and that holds `size`."""
        return self._on_grid(size, math.ceil)

    def leaves_one_value(self, size: Sizes, batch: int) -> bool:
        """Whether the norm at the deepest level has a single value to go by in training; torch refuses that.

        Args:
            size: of the images, one that the network takes.
            batch: images at a time.
        """
        voxels = math.prod(n // step for n, step in zip(size, self.stride, strict=True))
        per_voxel = {"instance": 1, "batch": batch, "group": max(1, self.coarsest_features // NORM_GROUPS), "none": 2}
        return voxels * per_voxel[self.normalisation] < 2

    def nearest_patch(self, size: Sizes, batch: int) -> Sizes:
        """The patch to train on, `batch` at a time, that is nearest to `size`."""
        patch = self._on_grid(tuple(map(max, size, self.least_patch)), round)
        if not self.leaves_one_value(patch, batch):
            return patch
        larger = [n + step for n, step in zip(patch, self.stride, strict=True)]
        axis = min(range(self.dims), key=lambda axis: larger[axis] - size[axis])
        return (*patch[:axis], larger[axis], *patch[axis + 1 :])

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
        """The option `channels`."""
        return self.channels

    @property
    def coarsest_features(self) -> int:
        """The fewest features of a level with the deepest level's grid: strides may be 1."""
        last = max((level for level, steps in enumerate(self.level_strides) if max(steps) > 1), default=0)
        return min(self.channels[last:])

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
    name them, or a model folder, run folder or zipped model with the same encoder; read once, when a training starts.
    Null starts from random ones."""
    frozen_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start during which the encoder keeps its weights and only the rest learns."""

    def as_trained(self: Options) -> Options:
        """Without the file, which is needed once."""
        return self.model_copy(update={"encoder_weights": None})
