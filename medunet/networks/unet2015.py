"""The U-Net as published, with valid convolutions: Ronneberger 2015 in 2D, Cicek 2016 in 3D.

Both see more than they segment: the convolutions are not padded, so the logits are smaller than the image by a margin
on each side (92 in 2D: 572 to 388; 44 in 3D: 132x132x116 to 44x44x28), and the skip connections are cropped to their
centre. MONAI's U-Nets pad every convolution. Receives numbers, returns logits; knows nothing of files, labels or
losses.

Where a paper and the network that its authors released differ, this is the paper's: the 2D release (phseg_v5) has a
ReLU after each up-convolution and twice the features in the last one. The paper says "at the end of the contracting
path" of the dropout; which levels, the release tells.

| | 2D (arXiv 1505.04597) | 3D (arXiv 1606.06650) |
|---|---|---|
| up-convolution, no ReLU after it | halves the features | keeps them; no bias |
| first convolution of a level | as many features as the second | half as many: they double before pooling |
| dropout | 0.5 after the last two levels of the contracting path | none |
| normalisation | none | batch, before each ReLU |
| parameters | 31,030,658 (1 channel, 2 labels) | 19,069,955 (3 and 3), without normalisation |

Weights are drawn from a Gaussian of deviation sqrt(2 / N), N the numbers that one output value is summed over (He
2015); biases start at 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medunet.config.networks import UNet2015Config
from medunet.errors import DataError
from medunet.mirror import mirrored
from medunet.networks.blocks import CONV, TRANSPOSED, Layers, MaxPool, build_norm
from medunet.networks.contract import Network

DROPPED_LEVELS = 2
"""Levels of the contracting path, counted from the deepest, that end in dropout."""


class UNet2015(Network):
    """Contracting path, expanding path, 1x1 convolution; see the module.

    In evaluation mode an image of any size gets logits of its size: its border is mirrored outwards, without repeating
    the voxel at the edge, by the margin and up to the next size that the network takes. So the network sees no zeros.

    In training mode an axis of n voxels gets logits for its inner `n - 2 * margin`, computed from true context alone;
    where n is not on the grid the mirrored border fills it up at the end. An axis of no more than `2 * margin` voxels
    has no such inside: all of it gets logits, with mirrored context as in evaluation. Either way the logits lie at
    the centre of the image.

    The running statistics of batch normalisation are used in evaluation mode. Cicek 2016 used those of the window at
    hand, with which neighbouring tiles would disagree.

    Args:
        config: the `network:` section.
        in_channels: image channels.
        out_channels: labels, background included, or nested structures.
    """

    def __init__(self, config: UNet2015Config, in_channels: int, out_channels: int) -> None:
        super().__init__(config, in_channels, out_channels)
        dims, channels, flat = config.dims, config.level_channels, config.dims == 2
        layers = Layers(dims, config.normalisation)
        firsts = channels if flat else tuple(max(1, features // 2) for features in channels)
        entering = (in_channels, *channels)
        self.encoder = nn.ModuleList(
            _convolutions(layers, path) for path in zip(entering, firsts, channels, strict=False)
        )
        self.pool = MaxPool((2,) * dims)
        dropout = config.dropout if config.dropout is not None else 0.5 if flat else 0.0
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for fine, coarse in itertools.pairwise(channels):
            risen = fine if flat else coarse
            self.up.append(TRANSPOSED[dims](coarse, risen, 2, 2, bias=flat))
            self.decoder.append(_convolutions(layers, (risen + fine, fine, fine)))
        self.head = CONV[dims](channels[0], out_channels, 1)
        self.apply(_he_init)

    def forward(self, x: Tensor) -> Tensor:
        """See the class.

        Raises:
            DataError: another number of channels or axes than the network takes.
        """
        self.check(x)
        size = tuple(x.shape[2:])
        inner = tuple(n - 2 * m if self.training and n > 2 * m else n for n, m in zip(size, self.margin, strict=True))
        target = self.padded(tuple(n + 2 * m for n, m in zip(inner, self.margin, strict=True)))
        for axis, (n, kept, m, length) in enumerate(zip(size, inner, self.margin, target, strict=True)):
            if length != n:
                first = -m if kept == n else 0
                seen = torch.tensor(mirrored(first, first + length, n).tolist(), device=x.device)
                x = x.index_select(axis + 2, seen)
        logits = self.outputs(x)[0]
        return _box(logits, [slice(n) for n in inner])

    def interior(self, x: Tensor) -> Tensor:
        """Logits (B, C_out, *(S - 2 * margin)) of (B, C_in, *S), S on the grid; no border is mirrored.

        Raises:
            DataError: another number of channels or axes, or a size off the grid.
        """
        self.check(x)
        size = tuple(x.shape[2:])
        padded = self.padded(size)
        if size != padded:
            raise DataError(
                f"The network takes sizes of {self.minimum_size} plus multiples of {self.stride}, but got {size}.",
                f"Pad to {padded}.",
            )
        return self.outputs(x)[0]

    def outputs(self, x: Tensor) -> tuple[Tensor]:
        """Logits (B, C_out, *(S - 2 * margin)) of (B, C_in, *S), S on the grid."""
        skips: list[Tensor] = []
        levels = len(self.encoder)
        for level, stage in enumerate(self.encoder):
            x = stage(self.pool(x) if level else x)
            if level >= levels - DROPPED_LEVELS:
                x = self.dropout(x)
            skips.append(x)
        for level in reversed(range(levels - 1)):
            risen = self.up[level](x)
            x = self.decoder[level](torch.cat((risen, _centre(skips[level], risen.shape[2:])), dim=1))
        return (self.head(x),)


def build_unet2015(config: UNet2015Config, in_channels: int, out_channels: int) -> UNet2015:
    """The U-Net as published."""
    return UNet2015(config, in_channels, out_channels)


def _convolutions(layers: Layers, features: Sequence[int]) -> nn.Sequential:
    """Valid 3x3 convolutions through these features, each with ReLU; 2 voxels per convolution and axis are lost."""
    modules: list[nn.Module] = []
    bare = layers.norm == "none"  # a norm has a bias of its own
    for before, after in itertools.pairwise(features):
        modules.append(CONV[layers.dims](before, after, 3, bias=bare))
        if not bare:
            modules.append(build_norm(layers, after))
        modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


def _centre(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle `size` voxels of (B, C, *S); as many are cut off on both sides."""
    return _box(x, [slice((n - kept) // 2, (n + kept) // 2) for n, kept in zip(x.shape[2:], size, strict=True)])


def _box(x: Tensor, box: Sequence[slice]) -> Tensor:
    where = (slice(None), slice(None), *box)
    return x[where]


def _he_init(module: nn.Module) -> None:
    """A value of an up-convolution is a sum over the features alone: its kernels do not overlap."""
    if not isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return
    transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
    summed = module.in_channels * (1 if transposed else math.prod(module.kernel_size))
    nn.init.normal_(module.weight, std=math.sqrt(2 / summed))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
