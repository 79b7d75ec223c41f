"""From the `network:` section to a network: one literal table that names every network.

The contract that all of them keep stands in `networks.contract`. A new one takes an options class in
`config.networks`, a builder, and a row here: docs/how-to/add-a-network.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from medunet.config.network_options import NetworkOptions
from medunet.config.networks import (
    AttentionUNetConfig,
    DynUNetConfig,
    EfficientUNetConfig,
    MedNeXtConfig,
    NetworkConfig,
    ResidualUNetConfig,
    SegResNetConfig,
    SwinUNETRConfig,
    UNet2015Config,
    UNetConfig,
    UNetPlusPlusConfig,
    VNetConfig,
)
from medunet.networks.contract import Network
from medunet.networks.convolution import adopt_convolutions
from medunet.networks.efficient_unet import build_efficient_unet
from medunet.networks.monai_nets import (
    build_dynunet,
    build_mednext,
    build_segresnet,
    build_swin_unetr,
    build_unetpp,
    build_vnet,
)
from medunet.networks.unet import build_unet
from medunet.networks.unet2015 import build_unet2015


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        options: class of its `network:` section.
        build: from options, image channels and output channels to the network with fresh weights.
        source: where it was published, and whose code it is.
        export: whether it exports through `torch.export`.
    """

    options: type[NetworkOptions]
    build: Callable[[Any, int, int], Network]
    source: str
    export: bool = True


NETWORKS: dict[str, Row] = {
    "unet": Row(UNetConfig, build_unet, "Isensee 2021, 2024; ours"),
    "unet2015": Row(UNet2015Config, build_unet2015, "Ronneberger 2015, Cicek 2016; ours"),
    "attention_unet": Row(AttentionUNetConfig, build_unet, "Oktay 2018; ours"),
    "residual_unet": Row(ResidualUNetConfig, build_unet, "Isensee 2024; ours"),
    "unetpp": Row(UNetPlusPlusConfig, build_unetpp, "Zhou 2018; MONAI BasicUNetPlusPlus, adapted"),
    "efficient_unet": Row(EfficientUNetConfig, build_efficient_unet, "Tan 2019, He 2016; MONAI FlexibleUNet, adapted"),
    "segresnet": Row(SegResNetConfig, build_segresnet, "Myronenko 2018, 2022; MONAI SegResNetDS, adapted"),
    "dynunet": Row(DynUNetConfig, build_dynunet, "Isensee 2021; MONAI DynUNet, adapted"),
    "vnet": Row(VNetConfig, build_vnet, "Milletari 2016; MONAI VNet, adapted"),
    "swin_unetr": Row(SwinUNETRConfig, build_swin_unetr, "Hatamizadeh 2022, He 2023; MONAI SwinUNETR"),
    "mednext": Row(MedNeXtConfig, build_mednext, "Roy 2023; MONAI MedNeXt, adapted"),
}


def build_network(config: NetworkConfig, in_channels: int, out_channels: int) -> Network:
    """Build the network that `config.name` names, with fresh weights from torch's global generator.

    Args:
        config: the `network:` section.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
    """
    network = NETWORKS[config.name].build(config, in_channels, out_channels)
    adopt_convolutions(network)
    return network
