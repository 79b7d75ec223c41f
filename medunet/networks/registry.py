"""From the `network:` section to a network: one literal table that names every network.

The contract of all of them: (B, C_in, *S) float in; in evaluation mode one tensor of logits (B, C_out, *S);
in training mode a tuple, finest first, if deep supervision is on; attribute `stride`, of which every spatial
size is a multiple.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from medunet.config.derived import level_kernels, level_strides
from medunet.config.schema import UNetConfig
from medunet.networks.unet import UNet, UNetOptions


def _per_level(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    return (value,) * levels if isinstance(value, int) else value


def build_unet(config: UNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    """The configurable U-Net of `networks.unet`.

    Deep supervision trains every decoder level but the coarsest, as nnU-Net does.
    """
    levels = len(config.channels)
    decoder = config.decoder_blocks if config.decoder_blocks is not None else (1 if config.residual else 2)
    return UNet(
        UNetOptions(
            dims=config.dims,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=config.channels,
            strides=level_strides(config),
            kernels=level_kernels(config),
            blocks=_per_level(config.blocks, levels),
            decoder_blocks=_per_level(decoder, levels - 1),
            residual=config.residual,
            norm=config.norm,
            activation=config.activation,
            dropout=config.dropout,
            heads=max(1, levels - 2) if config.deep_supervision else 1,
        )
    )


NETWORKS: dict[str, Callable[[UNetConfig, int, int], nn.Module]] = {
    "unet": build_unet,
}


def build_network(config: UNetConfig, in_channels: int, out_channels: int) -> nn.Module:
    """Build the network that `config.name` names, with fresh weights.

    Args:
        config: the `network:` section.
        in_channels: image channels.
        out_channels: labels, background included.
    """
    return NETWORKS[config.name](config, in_channels, out_channels)
