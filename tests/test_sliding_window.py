"""Windows over a volume: all of it is seen, and the result is the weighted mean that it claims to be."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medunet.config.networks import UNet2015Config, UNetConfig
from medunet.errors import DataError
from medunet.networks.unet2015 import UNet2015
from medunet.sliding_window import (
    TileGrid,
    WindowGrid,
    gaussian_weights,
    network_logits,
    outer,
    overlap_tile,
    pad_to,
    sliding_window,
    tile_starts,
    window_starts,
    with_mirrors,
)

CASES = pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((21, 17, 13), (8, 8, 8)),
        ((8, 9, 30), (8, 4, 10)),
        ((30, 22), (8, 10)),
        ((5, 30, 3), (8, 8, 8)),
        ((7, 3), (8, 8)),
    ],
    ids=str,
)


def local(patches: Tensor) -> Tensor:
    """Two labels from each voxel alone: the same wherever the window stands."""
    return torch.cat([patches.sum(1, keepdim=True), patches.square().sum(1, keepdim=True)], dim=1)


def convolution(rank: int, kernel: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
    return layer(2, 3, kernel, padding="same", padding_mode="zeros").requires_grad_(False)


# where windows stand


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 0.95))
def test_windows_cover_the_axis_and_end_at_it(size: int, patch: int, overlap: float) -> None:
    size = max(size, patch)
    starts = window_starts(size, patch, overlap)
    assert starts[0] == 0
    assert starts[-1] == size - patch
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= math.ceil(max(1, patch * (1 - overlap))) for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "starts"),
    [
        (10, 10, 0.5, [0]),
        (16, 8, 0.5, [0, 4, 8]),
        (17, 8, 0.5, [0, 3, 6, 9]),
        (16, 8, 0.0, [0, 8]),
        (12, 10, 0.9, [0, 1, 2]),
        (400, 100, 0.7, list(range(0, 301, 30))),
        (110, 100, 0.9, [0, 10]),
    ],
)
def test_steps_are_those_of_nnunet(size: int, patch: int, overlap: float, starts: list[int]) -> None:
    assert window_starts(size, patch, overlap) == starts


@CASES
def test_a_grid_counts_its_windows_and_stays_inside(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    grid = WindowGrid.over(shape, patch, 0.5)
    windows = list(grid.windows())
    assert len(windows) == len(grid)
    count = torch.zeros(grid.padded)
    for window in windows:
        assert count[window].shape == patch
        count[window] += 1
    assert count.min() >= 1


def test_the_gaussian_is_symmetric_and_falls_by_an_eighth_of_the_patch() -> None:
    for patch in (1, 2, 7, 16):
        weights = gaussian_weights(patch)
        assert torch.equal(weights, weights.flip(0))
        assert float(weights.min()) > 0
        assert float(weights.max()) <= 1
    weights = gaussian_weights(17)
    assert float(weights[8]) == 1
    assert float(weights[8 + 2]) == pytest.approx(math.exp(-0.5 * (2 / (17 / 8)) ** 2))


@CASES
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_the_product_of_axis_sums_is_the_explicit_sum_over_windows(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    grid = WindowGrid.over(shape, patch, overlap)
    explicit = torch.zeros(grid.padded)
    weight = outer([gaussian_weights(p) for p in patch])
    for window in grid.windows():
        explicit[window] += weight
    torch.testing.assert_close(outer(grid.axis_sums()), explicit)


# what comes out


@CASES
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_a_network_that_looks_at_single_voxels_is_reproduced_everywhere(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    image = torch.randn(2, *shape)
    logits = sliding_window(image, local, patch, overlap=overlap)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, local(image[None])[0], atol=1e-5, rtol=1e-4)


@CASES
def test_constants_stay_constant(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    logits = sliding_window(torch.randn(1, *shape), lambda x: torch.full((len(x), 4, *patch), -7.0), patch)
    torch.testing.assert_close(logits, torch.full((4, *shape), -7.0))


@pytest.mark.parametrize("shape", [(8, 10, 6), (8, 10)])
def test_one_window_is_the_network_itself(shape: tuple[int, ...]) -> None:
    network, image = convolution(len(shape)), torch.randn(2, *shape)
    torch.testing.assert_close(sliding_window(image, network, shape), network(image[None])[0])


@pytest.mark.parametrize("shape", [(5, 9, 3), (5, 9)])
def test_a_volume_smaller_than_the_patch_stands_in_the_middle_of_zeros(shape: tuple[int, ...]) -> None:
    patch = (8, 8, 8)[: len(shape)]
    image = torch.randn(2, *shape)
    grid = WindowGrid.over(shape, patch, 0.5)
    padded = pad_to(image, grid)
    assert padded.shape == (2, *grid.padded)
    assert grid.pad == (1, 0, 2)[: len(shape)]
    assert float(padded.square().sum()) == pytest.approx(float(image.square().sum()), rel=1e-5)
    network = convolution(len(shape))
    expected = sliding_window(padded, network, patch)
    inside = tuple(slice(p, p + n) for p, n in zip(grid.pad, shape, strict=True))
    torch.testing.assert_close(sliding_window(image, network, patch), expected[(slice(None), *inside)])


@CASES
@pytest.mark.parametrize("batch_size", [2, 3, 1000])
def test_the_batch_size_changes_nothing(shape: tuple[int, ...], patch: tuple[int, ...], batch_size: int) -> None:
    network, image = convolution(len(shape)), torch.randn(2, *shape)
    one = sliding_window(image, network, patch)
    torch.testing.assert_close(sliding_window(image, network, patch, batch_size=batch_size), one)


def test_batches_are_no_larger_than_asked_for() -> None:
    sizes: list[int] = []

    def watch(patches: Tensor) -> Tensor:
        sizes.append(len(patches))
        return patches

    sliding_window(torch.zeros(1, 20, 20), watch, (8, 8), batch_size=3)
    assert sizes == [3] * 5 + [1]


@CASES
def test_the_memory_order_of_the_logits_changes_nothing(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    image = torch.randn(2, *shape)

    def channels_last(patches: Tensor) -> Tensor:
        return local(patches).movedim(1, -1).contiguous().movedim(-1, 1)

    torch.testing.assert_close(sliding_window(image, channels_last, patch), sliding_window(image, local, patch))


def test_low_precision_logits_are_added_in_float32() -> None:
    image = torch.randn(2, 20, 18)
    logits = sliding_window(image, lambda x: local(x).bfloat16(), (8, 8))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, local(image[None])[0], atol=0.1, rtol=0.02)


@pytest.mark.parametrize(("shape", "patch"), [((32, 24, 16), (16, 16, 8)), ((32, 24), (16, 16))])
def test_the_result_is_that_of_monai(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """At sizes where both put their windows at the same places. MONAI raises weights below 0.001 to that."""
    from monai.inferers.utils import sliding_window_inference

    network, image = convolution(len(shape), kernel=5), torch.randn(2, *shape)
    ours = sliding_window(image, network, patch, overlap=0.5)
    weight = outer([gaussian_weights(p) for p in patch])[None, None]
    exact = sliding_window_inference(image[None], patch, 4, network, overlap=0.5, roi_weight_map=weight)[0]
    torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.argmax(0), exact.argmax(0))
    theirs = sliding_window_inference(image[None], patch, 4, network, overlap=0.5, mode="gaussian")[0]
    assert (ours.argmax(0) == theirs.argmax(0)).float().mean() > 0.97


# mirrors


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_mirrors_of_a_symmetric_network_change_nothing(axes: tuple[int, ...]) -> None:
    image = torch.randn(2, 2, 6, 7, 8)
    torch.testing.assert_close(with_mirrors(local, axes)(image), local(image))


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_mirrors_are_the_mean_of_all_views(axes: tuple[int, ...]) -> None:
    network, image = convolution(3), torch.randn(1, 2, 6, 7, 8)
    views = [subset for n in range(len(axes) + 1) for subset in itertools.combinations(axes, n)]
    assert len(views) == 2 ** len(axes)
    expected = torch.stack(
        [network(image.flip([a + 2 for a in view])).flip([a + 2 for a in view]) for view in views]
    ).mean(0)
    mirrored = with_mirrors(network, axes)
    torch.testing.assert_close(mirrored(image), expected)
    flipped = [axis + 2 for axis in axes]
    torch.testing.assert_close(mirrored(image.flip(flipped)).flip(flipped), expected)  # the mean has no side


def test_a_flat_network_goes_through_a_volume_slice_by_slice() -> None:
    network, volume = convolution(2), torch.randn(2, 20, 18, 5)
    logits = network_logits(volume, network, (8, 8), overlap=0.5, batch_size=3, mirror_axes=(0,))
    assert logits.shape == (3, 20, 18, 5)
    for index in range(5):
        alone = network_logits(volume[..., index], network, (8, 8), overlap=0.5, batch_size=1, mirror_axes=(0,))
        torch.testing.assert_close(logits[..., index], alone)


# overlap-tile

VALID = pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((33, 41), (52, 48)),  # tiles of 12 x 8
        ((64, 17), (48, 60)),
        ((7, 1), (44, 52)),  # smaller than a tile
        ((100, 2), (44, 44)),
        ((13, 9, 18), (22, 20, 26)),
        ((1, 30, 3), (24, 32, 18)),
    ],
    ids=str,
)


def valid_network(dims: int, channels: tuple[int, ...] | None = None) -> tuple[UNet2015Config, UNet2015]:
    """A U-Net with valid convolutions: margin 20 and stride 4 in 2D, 8 and 2 in 3D."""
    torch.manual_seed(0)
    channels = channels or ((4, 6, 8) if dims == 2 else (6, 8))
    options = UNet2015Config(name="unet2015", dims=dims, channels=channels)  # type: ignore[arg-type]
    network = UNet2015(options, 2, 3).eval().requires_grad_(False)
    for name, value in network.state_dict().items():
        if name.endswith(("bias", "running_mean", "running_var")):
            value.uniform_(0.1, 0.6)
    return options, network


def tiled(image: Tensor, patch: tuple[int, ...], *, batch_size: int = 1, mirror_axes: tuple[int, ...] = ()) -> Tensor:
    options, network = valid_network(len(patch))
    return network_logits(
        image, network.interior, patch, overlap=0.5, batch_size=batch_size, mirror_axes=mirror_axes, network=options
    )


def same(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of float32, whose convolutions add up in another order where the window has another size."""
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@given(st.integers(1, 400), st.integers(1, 60), st.sampled_from([1, 2, 4, 8, 16]))
def test_tiles_cover_the_axis_in_whole_strides_and_none_is_idle(size: int, tile: int, stride: int) -> None:
    starts = tile_starts(size, tile, stride)
    assert starts[0] == 0
    assert starts[-1] < size <= starts[-1] + tile
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(0 < step <= tile for step in steps)
    assert all(step % stride == 0 for step in steps if tile >= stride)
    assert len(starts) == 1 or starts[-2] + tile < size


@pytest.mark.parametrize(
    ("size", "starts"), [(388, [0]), (389, [0, 384]), (772, [0, 384]), (773, [0, 384, 768]), (1, [0])]
)
def test_tiles_of_the_paper_stand_384_pixels_apart(size: int, starts: list[int]) -> None:
    assert tile_starts(size, 388, 16) == starts


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_every_voxel_gets_its_own_output(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 6)] * rank)
    shape, tile, margin = data.draw(st.tuples(*[st.integers(1, 14)] * rank)), data.draw(several), data.draw(several)
    patch = tuple(t + 2 * m for t, m in zip(tile, margin, strict=True))
    grid = TileGrid.over(shape, patch, margin, data.draw(several))
    image = torch.arange(2 * math.prod(shape), dtype=torch.float32).reshape(2, *shape)

    def middle(patches: Tensor) -> Tensor:
        assert tuple(patches.shape[2:]) == patch
        assert set(patches[:, :1].flatten().tolist()) <= set(image[:1].flatten().tolist())  # mirrored, never zeros
        cut = tuple(slice(m, m + t) for m, t in zip(margin, tile, strict=True))
        where = (slice(None), slice(None), *cut)
        return patches[where]

    assert torch.equal(overlap_tile(image, middle, grid, batch_size=data.draw(st.integers(1, 5))), image)


@VALID
@pytest.mark.parametrize("batch_size", [1, 4])
def test_tiles_are_one_big_pass_over_the_mirrored_image(
    shape: tuple[int, ...], patch: tuple[int, ...], batch_size: int
) -> None:
    _, network = valid_network(len(shape))
    image = torch.randn(2, *shape)
    logits = tiled(image, patch, batch_size=batch_size)
    assert logits.shape == (3, *shape)
    same(logits, network(image[None])[0])


@pytest.mark.parametrize(("size", "patch"), [((84, 92), (52, 56)), ((34, 30, 38), (24, 22, 30))])
def test_tiles_are_one_big_pass_on_the_interior(size: tuple[int, ...], patch: tuple[int, ...]) -> None:
    options, network = valid_network(len(size))
    image = torch.randn(2, *size)
    inside = tuple(slice(m, n - m) for m, n in zip(options.margin, size, strict=True))
    where = (slice(None), *inside)
    same(tiled(image, patch)[where], network.interior(image[None])[0])


def test_tiles_that_are_no_whole_strides_are_pooled_on_one_grid_all_the_same() -> None:
    """As in the paper, where 388 is no multiple of 16; with four levels the stride is 8."""
    options, network = valid_network(2, (3, 4, 4, 4))
    image, patch = torch.randn(2, 41, 30), (108, 100)
    assert TileGrid.over((41, 30), patch, options.margin, options.stride).starts == ((0, 16, 32), (0, 8, 16, 24))
    logits = network_logits(image, network.interior, patch, overlap=0.5, batch_size=1, mirror_axes=(), network=options)
    same(logits, network(image[None])[0])


@VALID
def test_mirrored_views_of_tiles_are_those_of_one_tile(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    axes = tuple(range(len(shape)))
    options, _ = valid_network(len(shape))
    needed = [n + 2 * m for n, m in zip(shape, options.margin, strict=True)]
    whole = tuple(p + s * max(0, math.ceil((n - p) / s)) for n, p, s in zip(needed, patch, options.stride, strict=True))
    image = torch.randn(2, *shape)
    assert len(TileGrid.over(shape, whole, options.margin, options.stride)) == 1
    averaged = tiled(image, patch, mirror_axes=axes)
    same(averaged, tiled(image, whole, mirror_axes=axes))
    assert not torch.allclose(averaged, tiled(image, patch), atol=1e-3)


def test_a_flat_network_with_a_margin_goes_through_a_volume_slice_by_slice() -> None:
    _, network = valid_network(2)
    volume = torch.randn(2, 21, 30, 5)
    logits = tiled(volume, (48, 52), batch_size=3)
    assert logits.shape == (3, 21, 30, 5)
    for index in range(5):
        same(logits[..., index], network(volume[None, ..., index])[0])


def test_without_a_margin_the_network_changes_nothing() -> None:
    image, network = torch.randn(2, 20, 18), convolution(2)
    options = UNetConfig(dims=2)
    plain = network_logits(image, network, (8, 8), overlap=0.5, batch_size=3, mirror_axes=())
    told = network_logits(image, network, (8, 8), overlap=0.5, batch_size=3, mirror_axes=(), network=options)
    assert torch.equal(told, plain)


def test_a_window_that_is_all_margin_is_refused() -> None:
    with pytest.raises(DataError, match=r"\(40, 44\) is all margin: the network needs \(20, 20\)") as caught:
        tiled(torch.zeros(2, 30, 30), (40, 44))
    assert "patch_size" in caught.value.hint
