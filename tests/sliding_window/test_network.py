"""Windows over a volume: all of it is seen, and the result is the weighted mean that it claims to be."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medunet.config.networks import UNet2015Config, UNetConfig
from medunet.errors import DataError
from medunet.networks.unet2015 import UNet2015
from medunet.sliding_window.network import Way, best_axis, network_logits
from medunet.sliding_window.spans import gaussian_weights, tile_spans, window_starts
from medunet.sliding_window.stream import Forward, HeldImage, mean_of, outer, rows_together, stream_logits, with_mirrors

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


def sliding_window(
    image: Tensor, forward: Forward, patch: tuple[int, ...], *, overlap: float = 0.5, batch_size: int = 1
) -> Tensor:
    return network_logits(image, forward, Way(patch, overlap, batch_size))


def convolution(rank: int, kernel: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layer = {2: nn.Conv2d, 3: nn.Conv3d}[rank]
    return layer(2, 3, kernel, padding="same", padding_mode="zeros").requires_grad_(False)


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
    patch, before = (8, 8, 8)[: len(shape)], (1, 0, 2)[: len(shape)]
    image = torch.randn(2, *shape)
    padded = torch.zeros(2, *(max(n, p) for n, p in zip(shape, patch, strict=True)))
    inside = (slice(None), *(slice(p, p + n) for p, n in zip(before, shape, strict=True)))
    padded[inside] = image
    network = convolution(len(shape))
    torch.testing.assert_close(sliding_window(image, network, patch), sliding_window(padded, network, patch)[inside])


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
    assert sizes == [3, 1] * 4  # those of one slab go together


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


@pytest.mark.parametrize(
    ("shape", "patch"),
    [((32, 24, 16), (16, 16, 8)), ((32, 24), (16, 16)), ((29, 22, 22), (15, 15, 15)), ((29, 22), (15, 15))],
)
def test_the_result_is_that_of_monai(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    """At sizes where both put their windows at the same places. MONAI raises weights below 0.001 to that, and
    of even patches its own lie half a voxel off ours, which are nnU-Net's.
    """
    from monai.inferers.utils import sliding_window_inference

    network, image = convolution(len(shape), kernel=5), torch.randn(2, *shape)
    ours = sliding_window(image, network, patch, overlap=0.5)
    weight = outer([gaussian_weights(p) for p in patch])[None, None]
    exact = sliding_window_inference(image[None], patch, 4, network, overlap=0.5, roi_weight_map=weight)[0]
    torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-4)
    assert torch.equal(ours.argmax(0), exact.argmax(0))
    if all(p % 2 for p in patch):
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
    logits = network_logits(volume, network, Way((8, 8), 0.5, 3, (0,)))
    assert logits.shape == (3, 20, 18, 5)
    for index in range(5):
        alone = network_logits(volume[..., index], network, Way((8, 8), 0.5, 1, (0,)))
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
    return network_logits(image, network.interior, Way(patch, 0.5, batch_size, mirror_axes, options))


def same(found: Tensor, expected: Tensor) -> None:
    """Within the rounding of float32, whose convolutions add up in another order where the window has another size."""
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_every_voxel_gets_its_own_output(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 6)] * rank)
    shape, tile, margin = data.draw(st.tuples(*[st.integers(1, 14)] * rank)), data.draw(several), data.draw(several)
    patch = tuple(t + 2 * m for t, m in zip(tile, margin, strict=True))
    sides = zip(shape, patch, margin, data.draw(several), strict=True)
    grid = [tile_spans(*side) for side in sides]
    image = torch.arange(2 * math.prod(shape), dtype=torch.float32).reshape(2, *shape)

    def middle(patches: Tensor) -> Tensor:
        assert tuple(patches.shape[2:]) == patch
        assert set(patches[:, :1].flatten().tolist()) <= set(image[:1].flatten().tolist())  # mirrored, never zeros
        cut = tuple(slice(m, m + t) for m, t in zip(margin, tile, strict=True))
        where = (slice(None), slice(None), *cut)
        return patches[where]

    axis = data.draw(st.integers(0, rank - 1))
    parts = stream_logits(HeldImage(image), middle, grid, axis, batch_size=data.draw(st.integers(1, 5)))
    assert torch.equal(torch.cat([part.clone() for part in parts], dim=axis + 1), image)


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
    windows = Way(patch, network=options).windows((41, 30))
    assert [[span.first for span in axis] for axis in windows] == [[0, 16, 32], [0, 8, 16, 24]]
    logits = network_logits(image, network.interior, Way(patch, network=options))
    same(logits, network(image[None])[0])


@VALID
def test_mirrored_views_of_tiles_are_those_of_one_tile(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    axes = tuple(range(len(shape)))
    options, _ = valid_network(len(shape))
    needed = [n + 2 * m for n, m in zip(shape, options.margin, strict=True)]
    whole = tuple(p + s * max(0, math.ceil((n - p) / s)) for n, p, s in zip(needed, patch, options.stride, strict=True))
    image = torch.randn(2, *shape)
    assert [len(axis) for axis in Way(whole, network=options).windows(shape)] == [1] * len(shape)
    averaged = tiled(image, patch, mirror_axes=axes)
    same(averaged, tiled(image, whole, mirror_axes=axes))
    assert not torch.allclose(averaged, tiled(image, patch), atol=1e-3)


@pytest.mark.parametrize("axis", [0, 2])
@pytest.mark.parametrize("neighbours", [1, 2])
def test_a_flat_network_sees_the_neighbours_of_each_slice(axis: int, neighbours: int) -> None:
    image = torch.randn(2, 9, 8, 5)
    slices = 2 * neighbours + 1

    def forward(patches: Tensor) -> Tensor:
        assert patches.shape[1] == 2 * slices
        return torch.stack([patches[:, neighbours], patches[:, :slices].sum(1), patches[:, slices:].sum(1)], dim=1)

    way = Way((6, 6), neighbours=neighbours)
    rows = torch.cat([part.clone() for part in way.rows(HeldImage(image), forward, axis)], dim=axis + 1)
    padded = torch.nn.functional.pad(image, (2, 2, 0, 0, 0, 0), mode="reflect")
    sums = sum(padded[..., 2 + step : 7 + step] for step in range(-neighbours, neighbours + 1))
    assert torch.allclose(rows, torch.cat([image[:1], sums]), atol=1e-5)


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
    plain = network_logits(image, network, Way((8, 8), 0.5, 3))
    told = network_logits(image, network, Way((8, 8), 0.5, 3, network=options))
    assert torch.equal(told, plain)


def test_a_window_that_is_all_margin_is_refused() -> None:
    with pytest.raises(DataError, match="A window of 40 is all margin: the network needs 20 voxels") as caught:
        tiled(torch.zeros(2, 30, 30), (40, 44))
    assert "patch_size" in caught.value.hint


# streams


def collected(parts: Iterator[Tensor], axis: int) -> Tensor:
    return torch.cat([part.clone() for part in parts], dim=axis + 1)


@CASES
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.8])
def test_the_stream_is_the_plain_method_along_every_axis(
    shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    image, network, way = torch.randn(2, *shape), convolution(len(shape), 5), Way(patch, overlap, 2)
    expected = plain(image, network, patch, overlap)
    for axis in range(len(shape)):
        found = collected(way.rows(HeldImage(image), network, axis), axis)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def plain(image: Tensor, forward: Forward, patch: tuple[int, ...], overlap: float) -> Tensor:
    """With buffers for the logits and for the weights of the whole volume."""
    shape = tuple(image.shape[1:])
    padded = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    inside = [slice((big - n) // 2, (big - n) // 2 + n) for n, big in zip(shape, padded, strict=True)]
    whole = torch.zeros(2, *padded)
    whole[(slice(None), *inside)] = image
    total, count = torch.zeros(3, *padded), torch.zeros(padded)
    weight = outer([gaussian_weights(p) for p in patch])
    starts = (window_starts(n, p, overlap) for n, p in zip(padded, patch, strict=True))
    for corner in itertools.product(*starts):
        box = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        total[(slice(None), *box)] += weight * forward(whole[(slice(None), *box)][None])[0]
        count[box] += weight
    return (total / count)[(slice(None), *inside)]


def test_memory_does_not_grow_with_the_length() -> None:
    way = Way((8, 8, 8))
    assert way.held((20, 20, 64), 2) == way.held((20, 20, 640), 2) == 20 * 20 * 8
    assert best_axis([way], (20, 20, 64)) == 2
    assert best_axis([way], (64, 20, 20)) == 0
    assert best_axis([Way((8, 8))], (64, 64, 50)) == 2  # a flat network: slice by slice


def test_rows_are_read_once_and_in_order() -> None:
    asked: list[tuple[int, int]] = []

    class Watched(HeldImage):
        def rows(self, axis: int, low: int, high: int) -> Tensor:
            asked.append((low, high))
            return super().rows(axis, low, high)

    list(Way((8, 8), 0.5).rows(Watched(torch.zeros(1, 20, 30)), lambda x: x, 1))
    assert asked == [(0, 8), (4, 12), (7, 15), (11, 19), (15, 23), (18, 26), (22, 30)]


def test_an_ensemble_is_the_mean_whatever_the_windows_of_its_members() -> None:
    image, network = torch.randn(2, 20, 31), convolution(2, 5)
    ways = [Way((8, 8)), Way((12, 10), 0.3), Way((20, 31))]
    expected = torch.stack([network_logits(image, network, way) for way in ways]).mean(0)
    for axis in (0, 1):
        together = rows_together([way.rows(HeldImage(image), network, axis) for way in ways], axis)
        found = (mean_of(parts) for parts in together)
        torch.testing.assert_close(collected(found, axis), expected)


@CASES
def test_a_box_has_the_logits_that_it_has_in_the_whole(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    image, network, way = torch.randn(2, *shape), convolution(len(shape), 5), Way(patch, 0.5, 2)
    whole = network_logits(image, network, way)
    for axis in range(len(shape)):
        box = tuple((0, n) if number == axis else (n // 3, n - n // 4) for number, n in enumerate(shape))
        inside = (slice(None), *(slice(*side) for side in box))
        found = collected(way.rows(HeldImage(image), network, axis, box), axis)
        torch.testing.assert_close(found, whole[inside], atol=1e-5, rtol=1e-5)


def test_mirrored_views_go_together_as_far_as_the_batch_takes_them() -> None:
    image, asked = torch.randn(2, 1, 12, 10), []

    def forward(patches: Tensor) -> Tensor:
        asked.append(len(patches))
        return patches.cumsum(2) + patches.cumsum(3)

    alone = with_mirrors(forward, (0, 1))(image)
    assert asked == [2] * 4
    asked.clear()
    torch.testing.assert_close(with_mirrors(forward, (0, 1), batch_size=6)(image), alone)
    assert asked == [6, 2]


def test_the_logits_of_a_batch_are_let_go_before_the_next_is_computed() -> None:
    held: list[weakref.ref[Any]] = []

    def network(patches: Tensor) -> Tensor:
        assert [each for each in held if each() is not None] == []
        logits = np.repeat(patches.numpy(), 3, axis=1)  # weak references tell of arrays, not of the memory of tensors
        held.append(weakref.ref(logits))
        return torch.from_numpy(logits)

    way = Way((8, 8, 8), 0.5, batch_size=2)
    for _ in way.rows(HeldImage(torch.randn(1, 24, 16, 16)), network, 0):
        assert held[-1]() is None
    assert len(held) > 10
