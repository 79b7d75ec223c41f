"""The additive attention gate of the Attention U-Net (Oktay 2018).

Knows nothing of levels: `networks.unet` puts a gate on a skip connection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medunet.config.network_options import Sizes
from medunet.networks.blocks import CONV, Layers, build_norm, interpolate

OPEN = 3.0
"""Bias before the sigmoid of a fresh gate: it lets 95 % through where nothing speaks for or against."""


class AttentionGate(nn.Module):
    """Weakens what a skip connection carries where the coarser decoder level sees nothing of interest.

    Grid attention as in figure 2 of Oktay 2018: `theta`, a convolution that steps by `stride`, brings the skip to
    the grid of the gating signal, and `phi`, 1x1, brings the gating signal to the same features. Their sum goes
    through ReLU, `psi` (1x1, to one channel) and a sigmoid, and is interpolated linearly back to the skip's grid.
    The skip times these coefficients goes through `output`, a 1x1 convolution and a normalisation.

    MONAI's AttentionUnet has no gate on a grid: it interpolates the gating signal to the skip's size first.

    Args:
        layers: rank and normalisation.
        channels: features of the skip and of the gating signal.
        stride: how many times finer the skip's grid is, per axis.
    """

    def __init__(self, layers: Layers, channels: tuple[int, int], stride: Sizes) -> None:
        super().__init__()
        conv = CONV[layers.dims]
        skip, gating = channels
        between = max(1, skip // 2)
        self.stride = stride
        self.theta = conv(skip, between, stride, stride, bias=False)
        self.phi = conv(gating, between, 1)
        self.psi = conv(between, 1, 1)
        self.output = nn.Sequential(conv(skip, skip, 1), build_norm(layers, skip))

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Skip (B, C, *S) and gating signal (B, C_g, *S / stride) to the gated skip (B, C, *S)."""
        result: Tensor = self.output(skip * self.coefficients(skip, gating))
        return result

    def coefficients(self, skip: Tensor, gating: Tensor) -> Tensor:
        """How much of each voxel of the skip is let through: (B, 1, *S), from 0 to 1."""
        seen = nn.functional.relu(self.theta(skip) + self.phi(gating))
        return interpolate(torch.sigmoid(self.psi(seen)), self.stride)

    def open(self) -> None:
        """Let nearly everything through, which is how the paper starts to train."""
        nn.init.constant_(self.psi.bias, OPEN)  # type: ignore[arg-type]
