"""Convolutions that are fast for a single small image, too.

torch leaves a float32 convolution on a CPU to oneDNN only if there are two images or a large one
(`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp: more than 20,480 numbers in channels and the first two axes).
Otherwise it unrolls the image, which makes a small 3D patch two to four times slower (docs/benchmarks.md), gives up
channels last, and rounds differently, so that an image got other logits alone than beside another one.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from medunet.networks.layout import is_recorded


def _goes_direct(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether it is one image that torch might unroll, and run rather than recorded, forecast or cast."""
    if is_recorded() or type(x) not in (Tensor, nn.Parameter):
        return False
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.shape[0] == 1 and layer.padding_mode == "zeros" and torch.backends.mkldnn.is_available()


def _direct(layer: nn.Conv2d | nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padding = cast("tuple[int, ...]", layer.padding)
    result: Tensor = torch.mkldnn_convolution(x, weight, bias, padding, layer.stride, layer.dilation, layer.groups)
    return result


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, same weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        direct = _goes_direct(self, input)
        return _direct(self, input, weight, bias) if direct else super()._conv_forward(input, weight, bias)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, same weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        direct = _goes_direct(self, input)
        return _direct(self, input, weight, bias) if direct else super()._conv_forward(input, weight, bias)
