"""Convolutions that are fast for a single small image and right for a short one.

Fast: torch leaves a float32 convolution on a CPU to oneDNN only if there are two images or a large one
(`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp: more than 20,480 numbers in channels and the first two axes).
Otherwise it unrolls the image, which makes a small 3D patch two to four times slower (docs/benchmarks.md), gives up
channels last, and rounds differently, so that an image got other logits alone than beside another one.

Right: oneDNN's bfloat16 convolutions read memory that nobody wrote where the padded image barely holds the kernel, as
at the bottom of a U-Net: a depth of 2 under a kernel of 3 gives a wrong or infinite gradient of the weights (torch 2.13
on AVX-512 without AMX), an output one voxel wide a wrong result (on AMX). Such images are small: they are padded
beforehand and convolved in float32 (docs/decisions/0022-short-axes-in-float32.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from medunet.networks.layout import is_recorded

_Convolve = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _goes_direct(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether it is one image that torch might unroll, and run rather than recorded, forecast or cast."""
    if is_recorded() or type(x) not in (Tensor, nn.Parameter):
        return False
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.shape[0] == 1 and layer.padding_mode == "zeros" and torch.backends.mkldnn.is_available()


def _computes_in_bfloat16(x: Tensor) -> bool:
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return x.dtype == torch.bfloat16


def _margins(layer: nn.Conv2d | nn.Conv3d) -> list[int]:
    """Zeros around the image as `pad` takes them: before and after the last axis, before and after the one before."""
    return layer._reversed_padding_repeated_twice


def _is_short(layer: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Whether oneDNN would compute it in bfloat16 with an axis that is shorter than the kernel or comes out as one."""
    if x.device.type != "cpu" or layer.padding_mode != "zeros" or not _computes_in_bfloat16(x):
        return False
    margins = _margins(layer)[::-2]
    for size, margin, kernel, stride, dilation in zip(
        x.shape[2:], margins, layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        reach = dilation * (kernel - 1) + 1
        if size < reach or size + 2 * margin < reach + stride:
            return True
    return False


def _convolve(
    layer: nn.Conv2d | nn.Conv3d, convolve: _Convolve, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """`convolve` of torch's layer, or the way around it that this image needs."""
    if _goes_direct(layer, x):
        margins = cast("tuple[int, ...]", layer.padding)
        result: Tensor = torch.mkldnn_convolution(x, weight, bias, margins, layer.stride, layer.dilation, layer.groups)
        return result
    if _is_short(layer, x):
        function = nn.functional.conv2d if x.ndim == 4 else nn.functional.conv3d
        with torch.autocast("cpu", enabled=False):
            padded, bias = nn.functional.pad(x.float(), _margins(layer)), None if bias is None else bias.float()
            whole = function(padded, weight.float(), bias, layer.stride, 0, layer.dilation, layer.groups)
            return whole.to(torch.bfloat16)
    return convolve(x, weight, bias)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, same weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(self, super()._conv_forward, input, weight, bias)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, same weights."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _convolve(self, super()._conv_forward, input, weight, bias)


_OURS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Conv2d, nn.Conv3d: Conv3d}


def adopt_convolutions(network: nn.Module) -> None:
    """Make torch's convolutions in a network of another library's ours, in place; weights and their names stay.

    Changing the class is what `torch.nn.utils.parametrize` does, too: the layers differ in nothing else.
    """
    for module in network.modules():
        if type(module) in _OURS:
            module.__class__ = _OURS[type(module)]
