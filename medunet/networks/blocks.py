"""The building blocks of the U-Nets: normalisation, activation, convolution blocks, steps down and up.

Every block takes and gives arrays (B, C, *S) in 2D and 3D, keeps the memory order channels last and works under
autocast. Knows nothing of levels, skips or heads: `networks.unet` puts the blocks together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.config.network_options import NORM_GROUPS, Sizes
from medunet.networks.convolution import Conv2d, Conv3d
from medunet.networks.instance_norm import InstanceNorm

_Layer = dict[int, Callable[..., nn.Module]]

CONV: _Layer = {2: Conv2d, 3: Conv3d}
TRANSPOSED: _Layer = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
DROPOUT: _Layer = {2: nn.Dropout2d, 3: nn.Dropout3d}
_BATCH: _Layer = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_MAX: dict[int, Callable[..., Tensor]] = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}

LEAKY_SLOPE = 0.01


@dataclass(frozen=True)
class Layers:
    """What all layers of one network have in common.

    Attributes:
        dims: spatial rank, 2 or 3.
        norm: instance, batch, group or none.
        activation: leaky_relu, relu, prelu, gelu or silu.
        dropout: probability with which a whole feature map is dropped after a convolution.
    """

    dims: int
    norm: str = "instance"
    activation: str = "leaky_relu"
    dropout: float = 0.0

    @property
    def ones(self) -> Sizes:
        """A stride that leaves the size as it is."""
        return (1,) * self.dims


def build_norm(layers: Layers, channels: int) -> nn.Module:
    """Normalisation of (B, channels, *S)."""
    match layers.norm:
        case "instance":
            return InstanceNorm(channels)
        case "batch":
            return _BATCH[layers.dims](channels)
        case "group":
            return nn.GroupNorm(NORM_GROUPS, channels)
        case _:
            return nn.Identity()


def build_activation(name: str) -> nn.Module:
    """Activation function by its name in the config."""
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "prelu":
            return nn.PReLU()
        case "gelu":
            return nn.GELU()
        case "silu":
            return nn.SiLU(inplace=True)
        case _:
            return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


class ConvNormAct(nn.Sequential):
    """Convolution, dropout, norm, activation: (B, C_in, *S) to (B, C_out, *S / stride)."""

    def __init__(
        self, layers: Layers, channels: tuple[int, int], kernel: Sizes, stride: Sizes, *, activate: bool = True
    ) -> None:
        padding = tuple(k // 2 for k in kernel)
        modules: list[nn.Module] = [CONV[layers.dims](*channels, kernel, stride, padding)]
        if layers.dropout:
            modules.append(DROPOUT[layers.dims](layers.dropout))
        modules.append(build_norm(layers, channels[1]))
        if activate:
            modules.append(build_activation(layers.activation))
        super().__init__(*modules)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, activation after the sum (He 2016, ResNet-D shortcut of He 2019)."""

    def __init__(self, layers: Layers, channels: tuple[int, int], kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.first = ConvNormAct(layers, channels, kernel, stride)
        self.second = ConvNormAct(layers, (channels[1], channels[1]), kernel, layers.ones, activate=False)
        shortcut: list[nn.Module] = []
        if any(s > 1 for s in stride):
            shortcut.append(MeanPool(stride))
        if channels[0] != channels[1]:
            shortcut.append(CONV[layers.dims](*channels, 1, bias=False))
            shortcut.append(build_norm(layers, channels[1]))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = build_activation(layers.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S / stride)."""
        result: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return result


class MeanPool(nn.Module):
    """Mean over blocks of the size of `stride`: (B, C, *S) to (B, C, *S / stride), S a multiple of `stride`.

    torch's AvgPool3d has no bfloat16 on a CPU, gives up channels last, and has no deterministic gradient on CUDA.
    Adding the strided views is the same mean without these, and faster.
    """

    def __init__(self, stride: Sizes) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        count = functools.reduce(int.__mul__, self.stride)
        return over_blocks(torch.add, x, self.stride) / count


class MaxPool(nn.Module):
    """Maximum over blocks of the size of `stride`: (B, C, *S) to (B, C, *S / stride), S a multiple of `stride`.

    Autocast would pool in float32 in 3D and keep that copy for the gradient; a maximum is exact in every type.
    Where determinism is asked for, strided views are compared on all devices but a CPU: PyTorch 2.13 has a
    deterministic gradient for MaxPool3d on CUDA (says the documentation of `torch.use_deterministic_algorithms`), but
    older ones refuse it.
    """

    def __init__(self, stride: Sizes) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if torch.are_deterministic_algorithms_enabled() and x.device.type != "cpu":
            return over_blocks(torch.maximum, x, self.stride)
        pool = _MAX[len(self.stride)]
        if x.dtype == torch.float32:
            return pool(x, self.stride)
        with torch.autocast(x.device.type, enabled=False):
            return pool(x, self.stride)


def over_blocks(operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, stride: Sizes) -> Tensor:
    """Reduce (B, C, *S) over blocks of the size of `stride` by an operation on pairs: (B, C, *S / stride)."""
    for axis, step in enumerate(stride, start=2):
        views = [x[(slice(None),) * axis + (slice(first, None, step),)] for first in range(step)]
        x = functools.reduce(operation, views)
    return x


def build_up(layers: Layers, channels: tuple[int, int], stride: Sizes, how: str) -> nn.Module:
    """The step up from a level: (B, C_in, *S) to (B, C_out, *S * stride).

    Args:
        layers: rank.
        channels: features of the coarser level and of the finer one.
        stride: between them, per axis.
        how: transpose (a transposed convolution), bilinear or nearest (interpolation and a 1x1 convolution).
    """
    if how == "transpose":
        return TRANSPOSED[layers.dims](*channels, stride, stride)
    return InterpolatedUp(layers, channels, stride, how)


class InterpolatedUp(nn.Module):
    """Interpolation by `stride` and a 1x1 convolution: (B, C_in, *S) to (B, C_out, *S * stride).

    The convolution goes first. That gives the same numbers, since the weights of an interpolation add up to one,
    and works on the fewer voxels of the coarser level.
    """

    def __init__(self, layers: Layers, channels: tuple[int, int], stride: Sizes, how: str) -> None:
        super().__init__()
        self.conv = CONV[layers.dims](*channels, 1)
        self.stride = stride
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return interpolate(self.conv(x), self.stride, self.how)


def interpolate(x: Tensor, stride: Sizes, how: str = "bilinear") -> Tensor:
    """(B, C, *S) to (B, C, *S * stride), voxels as areas (their corners are not aligned).

    Args:
        x: 2D or 3D.
        stride: whole factor per axis.
        how: bilinear (in 3D trilinear) or nearest.
    """
    if all(step == 1 for step in stride):
        return x
    factors = [float(step) for step in stride]
    mode = how if how == "nearest" else _LINEAR[len(stride)]
    return nn.functional.interpolate(x, scale_factor=factors, mode=mode)
