"""The configurable U-Net, 2D and 3D: plain, with residual encoder, with attention gates.

The plain form follows nnU-Net's PlainConvUNet (Isensee 2021; Ronneberger 2015 with strided convolutions
and instance norm), the residual form its ResidualEncoderUNet (Isensee 2024): a stem, then post-activation
residual blocks (average pooling and 1x1 convolution on the shortcut) in the encoder, plain convolutions in
the decoder. Either may have the gates of the Attention U-Net (Oktay 2018) on its skips. Receives numbers, returns
logits; knows nothing of files, labels or losses.

The names of the weights are those of the first release, whatever options came later.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medunet.config.network_options import Sizes
from medunet.config.networks import UNetOptions
from medunet.networks.attention import AttentionGate
from medunet.networks.blocks import (
    CONV,
    LEAKY_SLOPE,
    ConvNormAct,
    Layers,
    MaxPool,
    ResidualBlock,
    build_up,
)
from medunet.networks.contract import Network


@dataclass(frozen=True)
class UNetNumbers:
    """Built numbers of a U-Net; every sequence has one entry per level, finest first.

    Attributes:
        layers: rank, norm, activation and dropout of all layers.
        channels: features.
        strides: per axis; the first level's is normally 1.
        kernels: per axis, odd.
        blocks: convolutions or residual blocks in the encoder.
        decoder_blocks: convolutions in the decoder, finest first, one entry fewer.
        residual, attention, down, up: as in the config.
        heads: number of outputs in training mode, finest first; 1 switches deep supervision off.
    """

    layers: Layers
    channels: Sizes
    strides: tuple[Sizes, ...]
    kernels: tuple[Sizes, ...]
    blocks: Sizes
    decoder_blocks: Sizes
    residual: bool = False
    attention: bool = False
    down: str = "stride"
    up: str = "transpose"
    heads: int = 1


class UNet(Network):
    """Encoder, decoder with skip connections, one 1x1 convolution per output.

    Args:
        config: the `network:` section.
        numbers: all numbers that follow from it.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
    """

    def __init__(self, config: UNetOptions, numbers: UNetNumbers, in_channels: int, out_channels: int) -> None:
        super().__init__(config, in_channels, out_channels)
        self.numbers = numbers
        self.training_outputs = numbers.heads
        layers, channels = numbers.layers, numbers.channels
        first = in_channels
        self.stem: nn.Module = nn.Identity()
        if numbers.residual:
            self.stem = ConvNormAct(layers, (first, channels[0]), numbers.kernels[0], layers.ones)
            first = channels[0]
        self.pools = nn.ModuleList(_pool(numbers, level) for level in range(len(channels)))
        self.encoder = nn.ModuleList(
            _encoder_level(numbers, level, features) for level, features in enumerate((first, *channels[:-1]))
        )
        self.up = nn.ModuleList(
            build_up(layers, (coarser, finer), stride, numbers.up)
            for (finer, coarser), stride in zip(itertools.pairwise(channels), numbers.strides[1:], strict=True)
        )
        self.decoder = nn.ModuleList(_decoder_level(numbers, level) for level in range(len(channels) - 1))
        self.heads = nn.ModuleList(
            CONV[layers.dims](features, out_channels, 1) for features in channels[: numbers.heads]
        )
        self.gates = nn.ModuleDict({str(level): _gate(numbers, level) for level in _gated_levels(numbers)})
        self.apply(_he_init)

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits finest first; each as large as its decoder level."""
        x = self.stem(x)
        skips = []
        for pool, stage in zip(self.pools, self.encoder, strict=True):
            x = stage(pool(x))
            skips.append(x)
        found: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            skip = skips[level]
            if str(level) in self.gates:
                skip = self.gates[str(level)](skip, x)
            x = self.decoder[level](torch.cat((self.up[level](x), skip), dim=1))
            if level < len(self.heads) and (self.training or level == 0):
                found.append(self.heads[level](x))
        return tuple(reversed(found))


def _pool(numbers: UNetNumbers, level: int) -> nn.Module:
    """What goes before a level's convolutions: nothing if the first of them steps."""
    stride = numbers.strides[level]
    return MaxPool(stride) if numbers.down == "maxpool" and stride != numbers.layers.ones else nn.Identity()


def _encoder_level(numbers: UNetNumbers, level: int, channels_in: int) -> nn.Sequential:
    block: Callable[..., nn.Module] = ResidualBlock if numbers.residual else ConvNormAct
    stride = numbers.strides[level] if numbers.down == "stride" else numbers.layers.ones
    blocks: list[nn.Module] = []
    for _ in range(numbers.blocks[level]):
        channels = (channels_in, numbers.channels[level])
        blocks.append(block(numbers.layers, channels, numbers.kernels[level], stride))
        channels_in, stride = channels[1], numbers.layers.ones
    return nn.Sequential(*blocks)


def _decoder_level(numbers: UNetNumbers, level: int) -> nn.Sequential:
    features = numbers.channels[level]
    sizes = [2 * features] + [features] * numbers.decoder_blocks[level]
    return nn.Sequential(
        *(
            ConvNormAct(numbers.layers, channels, numbers.kernels[level], numbers.layers.ones)
            for channels in itertools.pairwise(sizes)
        )
    )


def _gated_levels(numbers: UNetNumbers) -> range:
    """All with a skip but the finest, whose features are no use to a gate (Oktay 2018, section 3)."""
    skips = len(numbers.channels) - 1
    return range(min(1, skips - 1), skips) if numbers.attention else range(0)


def _gate(numbers: UNetNumbers, level: int) -> AttentionGate:
    finer, coarser = numbers.channels[level : level + 2]
    return AttentionGate(numbers.layers, (finer, coarser), numbers.strides[level + 1])


def _he_init(module: nn.Module) -> None:
    """He 2015 for leaky ReLU, biases at zero; residual blocks start as their shortcut. All as nnU-Net does."""
    if isinstance(module, AttentionGate):
        module.open()
    if isinstance(module, ResidualBlock):
        for last in module.second[-1].parameters(recurse=False):
            nn.init.zeros_(last)
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_unet(config: UNetOptions, in_channels: int, out_channels: int) -> UNet:
    """The configurable U-Net; deep supervision trains every decoder level but the coarsest, as nnU-Net does."""
    numbers = UNetNumbers(
        layers=Layers(config.dims, config.norm, config.activation, config.dropout),
        channels=config.channels,
        strides=config.level_strides,
        kernels=config.level_kernels,
        blocks=config.level_blocks,
        decoder_blocks=config.level_decoder_blocks,
        residual=config.residual,
        attention=config.attention,
        down=config.down,
        up=config.up,
        heads=max(1, len(config.channels) - 2) if config.deep_supervision else 1,
    )
    return UNet(config, numbers, in_channels, out_channels)
