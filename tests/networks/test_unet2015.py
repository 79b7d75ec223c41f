"""The U-Net of 2015 and its sister of 2016 are those of the papers, and they segment images of any size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medunet.config.networks import UNet2015Config
from medunet.errors import DataError
from medunet.networks.contract import parameter_count
from medunet.networks.registry import NETWORKS, build_network
from medunet.networks.unet2015 import UNet2015

RANKS = pytest.mark.parametrize("dims", [2, 3])
SMALL = {2: (4, 6, 8), 3: (6, 8)}
LEVELS = pytest.mark.parametrize("channels", [(2, 3), (2, 3, 4), (2, 2, 3, 3), (2, 2, 2, 2, 3)], ids=len)
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def build(in_channels: int, out_channels: int, **options: Any) -> UNet2015:
    torch.manual_seed(0)
    network = build_network(UNet2015Config(name="unet2015", **options), in_channels, out_channels)
    assert isinstance(network, UNet2015)
    return network


def small(dims: int, **options: Any) -> UNet2015:
    """Two channels, three labels; biases and running statistics that are not those of a fresh network."""
    network = build(2, 3, dims=dims, channels=SMALL[dims], **options).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if name.endswith(("bias", "running_mean", "running_var")):
            value.uniform_(0.1, 0.6)
    return network


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float(expected.std()) > 0.01  # a network whose units are all dead would agree with anything
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


def inside(x: Tensor, network: UNet2015) -> Tensor:
    cut = tuple(slice(m, n - m) for m, n in zip(network.margin, x.shape[2:], strict=True))
    return x[(slice(None), slice(None), *cut)]


# as published


def test_572_pixels_become_388_with_31_million_parameters() -> None:
    with torch.device("meta"):
        network = build(1, 2, dims=2)
        assert network.train()(torch.zeros(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert network.margin == (92, 92)
    assert parameter_count(network) == 31_030_658
    assert sum(isinstance(module, _CONVOLUTIONS) for module in network.modules()) == 23  # section 2


def test_the_volume_of_the_3d_paper_becomes_44_by_44_by_28() -> None:
    with torch.device("meta"):
        network = build(3, 3, dims=3)
        assert network.train()(torch.zeros(2, 3, 132, 132, 116)).shape == (2, 3, 44, 44, 28)
        bare = build(3, 3, dims=3, norm="none")
    assert parameter_count(bare) == 19_069_955
    normalised = sum(2 * m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm3d))
    biases = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm3d))
    assert parameter_count(network) == 19_069_955 + normalised - biases  # the norm's bias is that of the convolution


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        (2, [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]),
        (3, [32, 64, 64, 128, 128, 256, 256, 512]),
    ],
)
def test_features_grow_as_published(dims: int, expected: list[int]) -> None:
    with torch.device("meta"):
        network = build(1, 2, dims=dims)
    convolutions = [m for m in network.encoder.modules() if isinstance(m, _CONVOLUTIONS)]
    assert [m.out_channels for m in convolutions] == expected
    assert {m.kernel_size for m in convolutions} == {(3,) * dims}


@RANKS
def test_the_last_two_levels_of_the_contracting_path_end_in_dropout(dims: int) -> None:
    network = build(1, 2, dims=dims, channels=(2, 3, 4, 5), dropout=0.5).train()
    shapes: list[int] = []
    network.dropout.register_forward_hook(lambda _, __, out: shapes.append(out.shape[1]))
    image = torch.randn(1, 1, *network.minimum_size)
    first, second = network(image), network(image)
    assert shapes == [4, 5] * 2
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network.interior(image), network.interior(image))


def test_only_the_flat_one_has_dropout_and_only_the_deep_one_a_norm_unless_told() -> None:
    flat, deep = build(1, 2, dims=2, channels=(2, 3)), build(1, 2, dims=3, channels=(2, 3))
    assert (flat.dropout.p, deep.dropout.p) == (0.5, 0)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in flat.modules())
    assert sum(isinstance(m, nn.BatchNorm3d) for m in deep.modules()) == 6
    told = build(1, 2, dims=2, channels=(2, 3), norm="batch", dropout=0.1)
    assert told.dropout.p == 0.1
    assert sum(isinstance(m, nn.BatchNorm2d) for m in told.modules()) == 6


@RANKS
def test_weights_are_drawn_with_the_deviation_of_he(dims: int) -> None:
    network = build(1, 64, dims=dims, channels=(64, 128) if dims == 2 else (16, 32))
    seen = 0
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS) and module.weight.numel() > 1000:
            transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
            summed = module.in_channels if transposed else module.in_channels * math.prod(module.kernel_size)
            assert float(module.weight.detach().std()) == pytest.approx(math.sqrt(2 / summed), rel=0.1)
            assert module.bias is None or not module.bias.any()
            seen += 1
    assert seen >= 6


# sizes


@RANKS
@LEVELS
def test_margin_and_smallest_size_are_those_that_the_network_has(dims: int, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = build(1, 2, dims=dims, channels=channels).train()
        for more in (0, 3):
            size = tuple(least + more * step for least, step in zip(network.minimum_size, network.stride, strict=True))
            logits = network.outputs(torch.zeros(2, 1, *size))[0]
            assert tuple(logits.shape[2:]) == tuple(n - 2 * m for n, m in zip(size, network.margin, strict=True))
        smaller = tuple(least - step for least, step in zip(network.minimum_size, network.stride, strict=True))
        with pytest.raises(RuntimeError):
            network.outputs(torch.zeros(2, 1, *smaller))


@pytest.mark.parametrize("size", [(44, 44), (45, 50), (3, 71), (1, 1), (20, 2), (7, 9, 11), (1, 26, 3)], ids=str)
def test_an_image_of_any_size_is_mirrored_outwards_and_gets_logits_of_its_size(size: tuple[int, ...]) -> None:
    network = small(len(size))
    image = torch.randn(1, 2, *size)
    wanted = [n + 2 * m for n, m in zip(size, network.margin, strict=True)]
    taken = [
        m + s * math.ceil((n - m) / s) for n, m, s in zip(wanted, network.minimum_size, network.stride, strict=True)
    ]
    sides = [(m, big - n - m) for n, m, big in zip(size, network.margin, taken, strict=True)]
    padded = torch.from_numpy(np.pad(image.numpy(), [(0, 0), (0, 0), *sides], mode="reflect"))
    expected = network.interior(padded)[(..., *(slice(n) for n in size))]
    logits = network(image)
    assert logits.shape == (1, 3, *size)
    assert_close(logits, expected)


@RANKS
def test_the_inside_of_an_image_knows_nothing_of_its_mirror(dims: int) -> None:
    network = small(dims)  # few levels: the margin is a multiple of the stride, so both are pooled on one grid
    image = torch.randn(1, 2, *(n + 2 * s for n, s in zip(network.minimum_size, network.stride, strict=True)))
    assert_close(network.interior(image), inside(network(image), network))


@RANKS
def test_mirrored_kernels_see_the_mirrored_image(dims: int) -> None:
    """Skips that were cropped off their centre would shift."""
    network = small(dims)
    image = torch.randn(1, 2, *network.minimum_size)
    expected = network.interior(image)
    axes = tuple(range(2, dims + 2))
    for module in network.modules():
        if isinstance(module, _CONVOLUTIONS):
            module.weight.data = module.weight.flip(axes)
    assert_close(network.interior(image.flip(axes)).flip(axes), expected)


# training


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((44, 44), (4, 4)),
        ((48, 45), (8, 5)),
        ((47, 41), (7, 1)),
        ((40, 60), (40, 20)),  # 40 voxels are all margin, so they get mirrored context
        ((1, 3), (1, 3)),
        ((18, 19, 20), (2, 3, 4)),
        ((16, 18, 1), (16, 2, 1)),
    ],
    ids=str,
)
def test_in_training_mode_the_inside_gets_logits_or_all_where_there_is_none(
    size: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    network = small(len(size), dropout=0.0, norm="none")
    image = torch.randn(2, 2, *size)
    whole = network(image)
    logits = network.train()(image)
    assert logits.shape == (2, 3, *expected)
    before = [(n - kept) // 2 for n, kept in zip(size, expected, strict=True)]
    centre = whole[(..., *(slice(b, b + kept) for b, kept in zip(before, expected, strict=True)))]
    assert_close(logits, centre)


@RANKS
def test_the_gradient_reaches_every_parameter(dims: int) -> None:
    network = build(2, 3, dims=dims, channels=(4, 6, 8) if dims == 2 else (4, 8), norm="batch").train()
    logits = network(torch.randn(2, 2, *(n + s for n, s in zip(network.minimum_size, network.stride, strict=True))))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().max()) > 0, name


@RANKS
def test_in_bfloat16_the_logits_are_nearly_the_same(dims: int) -> None:
    network = small(dims)
    image = torch.randn(1, 2, *network.minimum_size)
    exact = network.interior(image)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network.interior(image)
    assert float((rough - exact).norm() / exact.norm()) < 0.05


@RANKS
def test_pooling_keeps_half_precision(dims: int) -> None:
    """torch's own, under autocast, would keep a copy in float32 of what it pools in 3D."""
    network = small(dims)
    found: list[torch.dtype] = []
    network.pool.register_forward_hook(lambda _, __, out: found.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        network.interior(torch.randn(1, 2, *network.minimum_size))
    assert found == [torch.bfloat16] * (len(SMALL[dims]) - 1)


# the edges of the contract


@RANKS
def test_a_window_off_the_grid_is_refused_with_the_size_to_pad_to(dims: int) -> None:
    network = small(dims)
    size = {2: (44, 46), 3: (18, 19, 20)}[dims]
    with pytest.raises(DataError) as caught:
        network.interior(torch.zeros(1, 2, *size))
    assert str(size) in caught.value.message
    assert caught.value.hint == {2: "Pad to (44, 48).", 3: "Pad to (18, 20, 20)."}[dims]


@RANKS
@pytest.mark.parametrize("name", ["forward", "interior"])
def test_other_channels_or_axes_are_refused(dims: int, name: str) -> None:
    network = small(dims)
    for shape in ((1, 3, *network.minimum_size), (1, 2, 44), (2, *network.minimum_size)):
        with pytest.raises(DataError, match="2 channels"):
            getattr(network, name)(torch.zeros(shape))


class Interior(nn.Module):
    def __init__(self, network: UNet2015) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.interior(x)


@RANKS
def test_both_ways_to_run_it_export(dims: int) -> None:
    network = small(dims)
    image = torch.randn(1, 2, *network.minimum_size)
    for module in (Interior(network).eval(), network):
        program = torch.export.export(module, (image,)).module()
        assert_close(program(image), module(image))


def test_the_table_says_where_it_comes_from() -> None:
    assert "Ronneberger 2015" in NETWORKS["unet2015"].source
