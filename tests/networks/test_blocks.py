"""Pooling, interpolation and normalisation against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medunet.config.network_options import Sizes
from medunet.networks.blocks import (
    InterpolatedUp,
    Layers,
    MaxPool,
    MeanPool,
    build_up,
    interpolate,
    over_blocks,
)

STRIDES: list[Sizes] = [(2, 2), (1, 3), (2, 2, 2), (2, 2, 1), (1, 4, 3)]
POOLS = {
    2: (nn.functional.max_pool2d, nn.functional.avg_pool2d),
    3: (nn.functional.max_pool3d, nn.functional.avg_pool3d),
}
FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def image_for(stride: Sizes, times: int = 3) -> Tensor:
    torch.manual_seed(0)
    shape = (2, 4, *(times * step for step in stride))
    return torch.randn(shape).contiguous(memory_format=FORMATS[len(stride)]).requires_grad_()


def gradient(output: Tensor, x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return torch.autograd.grad(output, x, torch.randn(output.shape), retain_graph=True)[0]


@pytest.mark.parametrize("stride", STRIDES)
def test_pooling_and_its_gradient_are_those_of_torch(stride: Sizes) -> None:
    x = image_for(stride)
    maximum, mean = (pool(x, stride) for pool in POOLS[len(stride)])
    for found, wanted in (
        (MaxPool(stride)(x), maximum),
        (over_blocks(torch.maximum, x, stride), maximum),
        (MeanPool(stride)(x), mean),
    ):
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradient(found, x), gradient(wanted, x))
        assert found.is_contiguous(memory_format=FORMATS[len(stride)])


@pytest.mark.parametrize("stride", STRIDES)
def test_pooling_keeps_bfloat16_under_autocast(stride: Sizes) -> None:
    x = image_for(stride).detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for pool in (MaxPool(stride), MeanPool(stride)):
            found = pool(x)
            assert found.dtype == torch.bfloat16
            assert gradient(found.float(), x).abs().max() > 0
        torch.testing.assert_close(MaxPool(stride)(x).float(), POOLS[len(stride)][0](x.float(), stride))  # exact


def test_the_gradient_of_a_maximum_can_be_made_deterministic() -> None:
    """Before 2.13 torch refuses that of its own pooling on CUDA; any device but the CPU shows which way is taken."""
    x = torch.empty(1, 4, 4, 4, 4, device="meta", requires_grad=True)
    ways = []
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        try:
            pooled = MaxPool((2, 2, 2))(x)
        finally:
            torch.use_deterministic_algorithms(False)
        assert pooled.shape == (1, 4, 2, 2, 2)
        assert pooled.grad_fn is not None
        ways.append(pooled.grad_fn.name())
    assert ways == ["MaxPool3DWithIndicesBackward0", "MaximumBackward0"]


@pytest.mark.parametrize("how", ["bilinear", "nearest"])
@pytest.mark.parametrize("stride", STRIDES)
def test_interpolation_and_convolution_may_change_places(stride: Sizes, how: str) -> None:
    x = image_for(stride)
    up = build_up(Layers(len(stride)), (4, 3), stride, how)
    assert isinstance(up, InterpolatedUp)
    nn.init.normal_(up.conv.bias)  # type: ignore[arg-type]
    found, wanted = up(x), up.conv(interpolate(x, stride, how))
    assert found.shape == (2, 3, *(n * step for n, step in zip(x.shape[2:], stride, strict=True)))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, x), gradient(wanted, x))


def test_linear_interpolation_takes_voxels_as_areas() -> None:
    ramp = torch.tensor([0.0, 4.0, 8.0]).view(1, 1, 3, 1).expand(1, 1, 3, 2)
    expected = torch.tensor([0, 1, 3, 5, 7, 8.0])
    torch.testing.assert_close(interpolate(ramp, (2, 1))[0, 0, :, 0], expected)
    torch.testing.assert_close(interpolate(ramp[..., None], (2, 1, 1))[0, 0, :, 0, 0], expected)
    nearest = interpolate(ramp, (2, 1), "nearest")[0, 0, :, 0]
    torch.testing.assert_close(nearest, torch.tensor([0, 0, 4, 4, 8, 8.0]))


def test_a_level_of_the_same_size_is_not_interpolated() -> None:
    x = image_for((2, 2))
    assert interpolate(x, (1, 1)) is x
