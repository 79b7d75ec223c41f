"""MONAI's networks behind the contract: U-Net++, SegResNet, DynUNet, V-Net, Swin UNETR and MedNeXt.

MONAI's own outputs differ (a list even in evaluation mode, one stacked tensor, a tuple) and some of its networks
hold parameters that no output depends on. The adapters take MONAI's layers as they are and differ only in which
outputs are computed: all of them in training mode, the finest alone otherwise. MONAI is imported when one of them is
built, for it takes seconds. Knows nothing of files, labels or losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from medunet.config.network_options import NORM_GROUPS, NetworkOptions
from medunet.config.networks import (
    DynUNetConfig,
    MedNeXtConfig,
    SegResNetConfig,
    SwinUNETRConfig,
    UNetPlusPlusConfig,
    VNetConfig,
)
from medunet.networks.blocks import DROPOUT, LEAKY_SLOPE, MaxPool
from medunet.networks.contract import Network, called_parts
from medunet.networks.instance_norm import InstanceNorm

_LEVELS = 5
"""Levels of U-Net++ and of MedNeXt."""

_Layer = str | tuple[str, dict[str, Any]]
"""A layer as MONAI's factories take it: a name, or a name and its arguments."""

_NORMS: dict[str, _Layer | None] = {
    "instance": ("instance", {"affine": True}),
    "batch": "batch",
    "group": ("group", {"num_groups": NORM_GROUPS}),
    "none": None,
}
_ACTIVATIONS: dict[str, _Layer] = {
    "leaky_relu": ("leakyrelu", {"negative_slope": LEAKY_SLOPE, "inplace": True}),
    "relu": ("relu", {"inplace": True}),
    "prelu": "prelu",
    "gelu": "gelu",
    "silu": "swish",
}


class MonaiNetwork(Network):
    """A network of MONAI that gives one tensor, or several finest first.

    Args:
        options: sizes and rank.
        in_channels, out_channels: image channels and labels.
        net: the network; its parameters are named `net.*`.
        training_outputs: tensors in training mode.
    """

    def __init__(
        self, options: NetworkOptions, in_channels: int, out_channels: int, net: nn.Module, training_outputs: int = 1
    ) -> None:
        super().__init__(options, in_channels, out_channels)
        _replace(net, (nn.InstanceNorm2d, nn.InstanceNorm3d), _own_instance_norm)
        self.net: Any = net
        self.training_outputs = training_outputs

    def stages(self) -> Iterator[nn.Module]:
        """Those of `net`."""
        return called_parts(self.net)

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits finest first."""
        result = self.net(x)
        return (result,) if isinstance(result, Tensor) else tuple(result)


def _replace(net: nn.Module, kinds: Any, make: Callable[[Any], nn.Module]) -> None:
    """Put `make(layer)` in the place of every layer of these kinds, under the same name."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, kinds):
                setattr(module, name, make(child))


def _own_instance_norm(norm: Any) -> nn.Module:
    """Ours, which is faster for a single image, for one of torch's; one without parameters stays."""
    return InstanceNorm(norm.num_features) if norm.affine else norm


class UNetPlusPlus(MonaiNetwork):
    """U-Net++ (Zhou 2018): node (i, j) lies on level i after j upsamplings; every (0, j) gives an output.

    All outputs have the size of the image; that of the deepest nesting comes first. MONAI's forward computes all four
    at any time, which multiplies the memory of the logits by four in prediction, so the nodes are walked here.
    """

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of (0, 4), (0, 3), (0, 2) and (0, 1)."""
        rows: list[list[Tensor]] = [[] for _ in range(_LEVELS)]
        for depth in range(_LEVELS):
            x = getattr(self.net, f"conv_{depth}_0")(x)
            rows[depth].append(x)
            for nesting in range(1, depth + 1):
                row = depth - nesting
                up = getattr(self.net, f"upcat_{row}_{nesting}")
                rows[row].append(up(rows[row + 1][nesting - 1], torch.cat(rows[row], dim=1)))
        wanted = self.training_outputs if self.training else 1
        nestings = range(_LEVELS - 1, _LEVELS - 1 - wanted, -1)
        return tuple(getattr(self.net, f"final_conv_0_{nesting}")(rows[0][nesting]) for nesting in nestings)


def build_unetpp(config: UNetPlusPlusConfig, in_channels: int, out_channels: int) -> UNetPlusPlus:
    """MONAI's BasicUNetPlusPlus without the heads that are not trained."""
    from monai.networks.nets.basic_unet import UpCat
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    net = BasicUNetPlusPlus(
        spatial_dims=config.dims,
        in_channels=in_channels,
        out_channels=out_channels,
        features=(*config.channels, config.channels[0]),
        act=_ACTIVATIONS[config.activation],
        norm=_NORMS[config.norm],
        bias=config.norm in {"none", "group"},  # the other norms take every constant away
        dropout=config.dropout or None,
    )
    if not config.deep_supervision:
        del net.final_conv_0_1, net.final_conv_0_2, net.final_conv_0_3
    _replace(net, nn.Dropout, lambda _: DROPOUT[config.dims](config.dropout))  # MONAI's drops single values
    _replace(net, (nn.MaxPool2d, nn.MaxPool3d), lambda _: MaxPool((2,) * config.dims))
    for module in net.modules():
        if isinstance(module, UpCat):
            module.is_pad = False  # sizes are on the grid; padding by nothing would copy every feature map
    return UNetPlusPlus(config, in_channels, out_channels, net, _LEVELS - 1 if config.deep_supervision else 1)


class SegResNet(MonaiNetwork):
    """SegResNet (Myronenko 2018) with an output at every level of the decoder."""

    def train(self, mode: bool = True) -> SegResNet:
        """Switch the coarser heads on or off with the mode: MONAI's would be computed and thrown away."""
        super().train(mode)
        self.net.dsdepth = self.training_outputs if mode else 1
        return self


def build_segresnet(config: SegResNetConfig, in_channels: int, out_channels: int) -> SegResNet:
    """MONAI's SegResNetDS, with one head where there is no deep supervision."""
    from monai.networks.nets.segresnet_ds import SegResNetDS

    heads = len(config.blocks) - 1 if config.deep_supervision else 1
    net = SegResNetDS(
        spatial_dims=config.dims,
        init_filters=config.filters,
        in_channels=in_channels,
        out_channels=out_channels,
        norm=_NORMS[config.norm],
        blocks_down=config.blocks,
        dsdepth=heads,
    )
    return SegResNet(config, in_channels, out_channels, net, heads)


class DynUNet(MonaiNetwork):
    """MONAI's DynUNet (nnU-Net v1, Isensee 2021); each output has the size of its decoder level.

    MONAI's forward resizes all outputs to the image and stacks them into one tensor, and leaves the coarser ones in a
    list from step to step; its recursive layers name every weight twice. So its levels are walked here.
    """

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits finest first."""
        net = self.net
        skips = []
        for block in (net.input_block, *net.downsamples):
            x = block(x)
            skips.append(x)
        x = net.bottleneck(x)
        heads = [net.output_block, *(net.deep_supervision_heads if self.training_outputs > 1 else ())]
        found: list[Tensor] = []
        for level, block in zip(reversed(range(len(skips))), net.upsamples, strict=True):
            x = block(x, skips[level])
            if level == 0 or (self.training and level < len(heads)):
                found.append(heads[level](x))
        return tuple(reversed(found))


def build_dynunet(config: DynUNetConfig, in_channels: int, out_channels: int) -> DynUNet:
    """MONAI's DynUNet; deep supervision trains every decoder level but the coarsest, as `unet` does."""
    from monai.networks.nets.dynunet import DynUNet as MonaiDynUNet

    outputs = max(1, len(config.channels) - 2) if config.deep_supervision else 1
    net = MonaiDynUNet(
        spatial_dims=config.dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=config.level_kernels,
        strides=config.level_strides,
        upsample_kernel_size=config.level_strides[1:],
        filters=config.channels,
        dropout=config.dropout or None,
        norm_name=_NORMS[config.norm],
        deep_supervision=outputs > 1,
        deep_supr_num=max(1, outputs - 1),
        res_block=config.residual,
    )
    del net.skip_layers
    net.heads.clear()
    if config.dropout:
        for head in (net.output_block, *(net.deep_supervision_heads if outputs > 1 else ())):
            head.conv.adn = nn.Identity()  # MONAI's would drop logits
        _replace(net, nn.Dropout, lambda _: DROPOUT[config.dims](config.dropout))  # MONAI's drops single values
    return DynUNet(config, in_channels, out_channels, net, outputs)


class _AnyChannels(nn.Module):
    """V-Net's first stage, (B, C_in, *S) to (B, 16, *S), for any C_in.

    The shortcut is the image, repeated until it has 16 channels and cut there. MONAI's only takes counts that 16 is a
    multiple of; with those the two are equal.
    """

    def __init__(self, convolution: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.conv_block = convolution
        self.act_function = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, *S) to (B, 16, *S)."""
        result = self.conv_block(x)
        times = -(-result.shape[1] // x.shape[1])
        shortcut = torch.cat((x,) * times, dim=1)[:, : result.shape[1]]
        activated: Tensor = self.act_function(result + shortcut)
        return activated


def build_vnet(config: VNetConfig, in_channels: int, out_channels: int) -> MonaiNetwork:
    """MONAI's VNet for any number of channels.

    Its dropouts are put in anew: MONAI's are 3D in 2D too, where they drop whole images instead of feature maps, and
    keep the probability of 0.5 in the two finest levels whatever is asked for.
    """
    from monai.networks.blocks import Convolution
    from monai.networks.nets.vnet import VNet

    net = VNet(spatial_dims=config.dims, in_channels=1, out_channels=out_channels)
    first = Convolution(config.dims, in_channels, 16, kernel_size=5, act=None, norm="batch", bias=False)
    net.in_tr = _AnyChannels(first, net.in_tr.act_function)
    _replace(net, nn.Dropout3d, lambda _: DROPOUT[config.dims](config.dropout))
    return MonaiNetwork(config, in_channels, out_channels, net)


def build_swin_unetr(config: SwinUNETRConfig, in_channels: int, out_channels: int) -> MonaiNetwork:
    """MONAI's SwinUNETR; its instance norm has no parameters, as published."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    net = SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=config.feature_size,
        norm_name="instance" if config.norm == "instance" else _NORMS[config.norm],
        drop_rate=config.dropout,
        use_checkpoint=config.checkpointing,
        spatial_dims=config.dims,
        use_v2=config.version == 2,
    )
    return MonaiNetwork(config, in_channels, out_channels, net)


class MedNeXt(MonaiNetwork):
    """MedNeXt (Roy 2023) with outputs at every level of the decoder and at the bottleneck."""

    def train(self, mode: bool = True) -> MedNeXt:
        """Switch the coarser heads on or off with the mode: MONAI's would be computed and thrown away."""
        super().train(mode)
        self.net.do_ds = mode and self.training_outputs > 1
        return self


def build_mednext(config: MedNeXtConfig, in_channels: int, out_channels: int) -> MedNeXt:
    """MONAI's MedNeXt in one of the published sizes."""
    from monai.networks.nets.mednext import create_mednext

    net = create_mednext(
        config.size,
        spatial_dims=config.dims,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=config.kernel_size,
        deep_supervision=config.deep_supervision,
    )
    return MedNeXt(config, in_channels, out_channels, net, _LEVELS if config.deep_supervision else 1)
