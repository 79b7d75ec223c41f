"""The configurable U-Net, 2D and 3D, plain or with residual encoder.

The plain form follows nnU-Net's PlainConvUNet (Isensee 2021; Ronneberger 2015 with strided convolutions
and instance norm), the residual form its ResidualEncoderUNet (Isensee 2024): a stem, then post-activation
residual blocks (average pooling and 1x1 convolution on the shortcut) in the encoder, plain convolutions in
the decoder. Receives numbers, returns logits; knows nothing of files, labels or losses.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.errors import DataError

_Layer = dict[int, Callable[..., nn.Module]]
_CONV: _Layer = {2: nn.Conv2d, 3: nn.Conv3d}
_UP: _Layer = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL: _Layer = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_DROPOUT: _Layer = {2: nn.Dropout2d, 3: nn.Dropout3d}
_BATCH: _Layer = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

NORM_GROUPS = 8
LEAKY_SLOPE = 0.01


@dataclass(frozen=True)
class UNetOptions:
    """Built numbers of a U-Net; every sequence has one entry per level, finest first.

    Attributes:
        dims: spatial rank, 2 or 3.
        in_channels, out_channels: image channels and labels (background included).
        channels: features.
        strides: per axis; the first level's is normally 1.
        kernels: per axis, odd.
        blocks: convolutions or residual blocks in the encoder.
        decoder_blocks: convolutions in the decoder, finest first, one entry fewer.
        residual, norm, activation, dropout: as in the config.
        heads: number of outputs in training mode, finest first; 1 switches deep supervision off.
    """

    dims: int
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]
    residual: bool = False
    norm: str = "instance"
    activation: str = "leaky_relu"
    dropout: float = 0.0
    heads: int = 1


def _norm(options: UNetOptions, channels: int) -> nn.Module:
    match options.norm:
        case "instance":
            return InstanceNorm(channels)
        case "batch":
            return _BATCH[options.dims](channels)
        case "group":
            return nn.GroupNorm(NORM_GROUPS, channels)
        case _:
            return nn.Identity()


def _activation(name: str) -> nn.Module:
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


class InstanceNorm(nn.Module):
    """Instance normalisation with affine parameters, named as torch's, so that weights are interchangeable.

    torch's own copies a channels-last tensor twice. A single sample, as in prediction, goes through batch norm,
    which is the same sum over the same voxels and works in place of memory order: 1.5 times faster for the whole
    network on a CPU (docs/benchmarks.md).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S), every sample and channel to mean 0 and deviation 1, then scaled and shifted."""
        if x.shape[0] == 1:
            return nn.functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=1e-5)
        return nn.functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=1e-5)


class ConvNormAct(nn.Sequential):
    """Convolution, dropout, norm, activation: (B, C_in, *S) to (B, C_out, *S / stride)."""

    def __init__(
        self,
        options: UNetOptions,
        channels: tuple[int, int],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        *,
        activate: bool = True,
    ) -> None:
        padding = tuple(k // 2 for k in kernel)
        layers: list[nn.Module] = [_CONV[options.dims](*channels, kernel, stride, padding)]
        if options.dropout:
            layers.append(_DROPOUT[options.dims](options.dropout))
        layers.append(_norm(options, channels[1]))
        if activate:
            layers.append(_activation(options.activation))
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, activation after the sum (He 2016, ResNet-D shortcut of He 2019)."""

    def __init__(
        self, options: UNetOptions, channels: tuple[int, int], kernel: tuple[int, ...], stride: tuple[int, ...]
    ) -> None:
        super().__init__()
        ones = (1,) * options.dims
        self.first = ConvNormAct(options, channels, kernel, stride)
        self.second = ConvNormAct(options, (channels[1], channels[1]), kernel, ones, activate=False)
        shortcut: list[nn.Module] = []
        if any(s > 1 for s in stride):
            shortcut.append(_POOL[options.dims](stride, stride))
        if channels[0] != channels[1]:
            shortcut.append(_CONV[options.dims](*channels, 1, bias=False))
            shortcut.append(_norm(options, channels[1]))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = _activation(options.activation)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, C_out, *S / stride)."""
        result: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return result


def _encoder_level(options: UNetOptions, level: int, channels_in: int) -> nn.Sequential:
    block: Callable[..., nn.Module] = ResidualBlock if options.residual else ConvNormAct
    ones = (1,) * options.dims
    blocks: list[nn.Module] = []
    for index in range(options.blocks[level]):
        stride = options.strides[level] if index == 0 else ones
        blocks.append(block(options, (channels_in, options.channels[level]), options.kernels[level], stride))
        channels_in = options.channels[level]
    return nn.Sequential(*blocks)


class UNet(nn.Module):
    """Encoder, decoder with skip connections, one 1x1 convolution per output.

    In evaluation mode `forward` gives logits (B, C_out, *S). In training mode it gives a tuple of
    `options.heads` tensors, finest first, each as large as its decoder level, if there is more than one.

    Args:
        options: all numbers.
    """

    def __init__(self, options: UNetOptions) -> None:
        super().__init__()
        self.options = options
        ones = (1,) * options.dims
        channels = options.channels
        levels = len(channels)
        first = options.in_channels
        self.stem: nn.Module = nn.Identity()
        if options.residual:
            self.stem = ConvNormAct(options, (first, channels[0]), options.kernels[0], ones)
            first = channels[0]
        self.encoder = nn.ModuleList(
            _encoder_level(options, level, first if level == 0 else channels[level - 1]) for level in range(levels)
        )
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in range(levels - 1):
            stride = options.strides[level + 1]
            self.up.append(_UP[options.dims](channels[level + 1], channels[level], stride, stride))
            sizes = [2 * channels[level]] + [channels[level]] * options.decoder_blocks[level]
            self.decoder.append(
                nn.Sequential(
                    *(ConvNormAct(options, (a, b), options.kernels[level], ones) for a, b in itertools.pairwise(sizes))
                )
            )
        self.heads = nn.ModuleList(
            _CONV[options.dims](channels[level], options.out_channels, 1) for level in range(options.heads)
        )
        self.apply(_he_init)

    @property
    def stride(self) -> tuple[int, ...]:
        """Every spatial size must be a multiple of this."""
        return total_stride(self.options.strides)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits of (B, C_in, *S); see the class.

        Raises:
            DataError: a spatial size that is no multiple of `stride`.
        """
        self._check(x)
        x = self.stem(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        outputs: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](torch.cat((self.up[level](x), skips[level]), dim=1))
            if level < len(self.heads) and (self.training or level == 0):
                outputs.append(self.heads[level](x))
        return tuple(reversed(outputs)) if len(outputs) > 1 else outputs[0]

    def _check(self, x: Tensor) -> None:
        sizes = tuple(x.shape[2:])
        if any(size % step for size, step in zip(sizes, self.stride, strict=True)):
            padded = tuple(-(-size // step) * step for size, step in zip(sizes, self.stride, strict=True))
            raise DataError(
                f"The network needs spatial sizes that are multiples of {self.stride}, but got {sizes}.",
                f"Pad to {padded}.",
            )


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Product of the strides of all levels, per axis."""
    result = [1] * len(strides[0])
    for stride in strides:
        result = [a * b for a, b in zip(result, stride, strict=True)]
    return tuple(result)


def _he_init(module: nn.Module) -> None:
    """He 2015 for leaky ReLU, biases at zero; residual blocks start as their shortcut. All as nnU-Net does."""
    if isinstance(module, ResidualBlock):
        for last in module.second[-1].parameters(recurse=False):
            nn.init.zeros_(last)
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
