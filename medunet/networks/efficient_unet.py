"""U-Net over an EfficientNet or ResNet encoder, whose weights may come from another training; 2D and 3D.

MONAI's FlexibleUNet, put together from its parts, with three differences:

- What its encoders keep for classification (head convolution, fully connected layer) is gone: it has no gradient.
- ResNets of every depth change width with a 1x1 convolution and batch norm (option B of He 2016), as those of
  torchvision and timm do. MONAI's r18 and r34 pad with zeros (option A) and cut the gradient of the shortcut.
- The running statistics of the EfficientNets follow with momentum 0.1 (torch's default) instead of 0.01, which needs
  hundreds of steps: after 100 on small phantoms the Dice in evaluation mode was 0.91, and 0.07 with 0.01.

Paddings are fixed when the network is built: 'same' for the size of image that each EfficientNet was published for,
so that published weights mean the same here. On sizes that are multiples of 32 every level has exactly half the size
of the finer one, and shifting the image by 32 voxels shifts the features. Squeeze-and-excitation looks at the mean over
the whole patch, so an EfficientNet (not a ResNet) gives a voxel other logits in a patch of another size.

MONAI is imported when one is built, for it takes seconds. Knows nothing of files: `encoder_weights` fits weights into
the encoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from medunet.config.networks import EfficientUNetConfig
from medunet.networks.contract import Network

_RESNETS: dict[str, tuple[str, list[int], int]] = {
    "r18": ("basic", [2, 2, 2, 2], 1),
    "r34": ("basic", [3, 4, 6, 3], 1),
    "r50": ("bottleneck", [3, 4, 6, 3], 4),
}
"""Kind of block, blocks per stage, and how much wider a block's output is than its middle (He 2016, table 1)."""

_RESNET_WIDTHS = [64, 128, 256, 512]
_CLASSIFIER = ("_conv_head", "_conv_head_padding", "_bn1", "_avg_pooling", "_dropout", "_fc")
_MOMENTUM = 0.1
_EPS = 1e-3


class ResNetStages(nn.Module):
    """A ResNet without pooling and classifier: features after the stem and after each of its four stages.

    Args:
        net: MONAI's ResNet; its layers keep their names.
    """

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act, self.maxpool = net.conv1, net.bn1, net.act, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, *S) to five tensors (B, C, *S / 2) to (B, C, *S / 32), finest first."""
        features = [self.act(self.bn1(self.conv1(x)))]
        x = self.maxpool(features[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def _resnet(backbone: str, dims: int, in_channels: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The encoder and the features of its five outputs."""
    from monai.networks.nets.resnet import ResNet

    block, layers, expansion = _RESNETS[backbone]
    net = ResNet(
        block=block,
        layers=layers,
        block_inplanes=_RESNET_WIDTHS,
        spatial_dims=dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        shortcut_type="B",
        bias_downsample=False,
        feed_forward=False,
    )
    return ResNetStages(net), (_RESNET_WIDTHS[0], *(expansion * width for width in _RESNET_WIDTHS))


def _efficientnet(backbone: str, dims: int, in_channels: int) -> tuple[nn.Module, tuple[int, ...]]:
    """The encoder and the features of its five outputs."""
    from monai.networks.nets.efficientnet import EfficientNetEncoder

    name = f"efficientnet-{backbone}"
    encoder = EfficientNetEncoder(
        model_name=name,
        pretrained=False,  # true would download
        spatial_dims=dims,
        in_channels=in_channels,
        num_classes=1,
        norm=("batch", {"eps": _EPS, "momentum": _MOMENTUM}),
    )
    for layer in _CLASSIFIER:
        delattr(encoder, layer)
    widths = EfficientNetEncoder.num_channels_per_output()[EfficientNetEncoder.get_encoder_names().index(name)]
    return encoder, tuple(widths)


class EfficientUNet(Network):
    """Encoder with five halvings, decoder that doubles by repeating voxels and joins the skips, 3x3 head.

    Layers are named as in MONAI's FlexibleUNet.

    Args:
        config: the `network:` section; its `encoder_weights` are not looked at.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
    """

    def __init__(self, config: EfficientUNetConfig, in_channels: int, out_channels: int) -> None:
        from monai.networks.nets.flexible_unet import SegmentationHead, UNetDecoder

        super().__init__(config, in_channels, out_channels)
        make = _resnet if config.backbone in _RESNETS else _efficientnet
        self.encoder, widths = make(config.backbone, config.dims, in_channels)
        self.decoder = UNetDecoder(
            spatial_dims=config.dims,
            encoder_channels=(in_channels, *widths),
            decoder_channels=config.decoder_channels,
            act=("relu", {"inplace": True}),
            norm=("batch", {"eps": _EPS, "momentum": _MOMENTUM}),
            dropout=config.dropout,
            bias=False,
            upsample="nontrainable",
            pre_conv="default",
            interp_mode="nearest",
            align_corners=None,
            is_pad=False,  # `Network` pads the image
        )
        self.segmentation_head = SegmentationHead(config.dims, config.decoder_channels[-1], out_channels)

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """One tensor of logits, as large as the image."""
        features = self.encoder(x)
        return (self.segmentation_head(self.decoder(features, len(features) - 1)),)

    def stages(self) -> Iterator[nn.Module]:
        """The blocks of the encoder and of the decoder, and the head."""
        for part in self.encoder.children():
            yield from part.children() if isinstance(part, nn.Sequential) else (part,)
        yield from self.decoder.blocks
        yield self.segmentation_head

    def encoder_module(self) -> nn.Module:
        """The EfficientNet or ResNet."""
        return self.encoder


def build_efficient_unet(config: EfficientUNetConfig, in_channels: int, out_channels: int) -> EfficientUNet:
    """With fresh weights; `encoder_weights` are loaded where a training starts."""
    return EfficientUNet(config, in_channels, out_channels)
