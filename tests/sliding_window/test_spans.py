"""Where windows and tiles stand along an axis."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medunet.errors import DataError
from medunet.sliding_window.spans import gaussian_weights, tile_spans, tile_starts, weighted_spans, window_starts


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


def test_the_gaussian_is_centred_as_nnunet_s_and_falls_by_an_eighth_of_the_patch() -> None:
    for patch in (1, 2, 7, 16):
        weights = gaussian_weights(patch)
        assert float(weights[patch // 2]) == 1
        odd = weights[1 - patch % 2 :]  # of even patches the first voxel is one farther from the centre than the last
        assert torch.equal(odd, odd.flip(0))
        assert float(weights.min()) > 0
        assert float(weights.max()) <= 1
    weights = gaussian_weights(17)
    assert float(weights[8]) == 1
    assert float(weights[8 + 2]) == pytest.approx(math.exp(-0.5 * (2 / (17 / 8)) ** 2))


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 40), st.floats(0, 0.9))
def test_shares_of_all_windows_add_up_to_one(size: int, patch: int, overlap: float) -> None:
    total = torch.zeros(size)
    for span in weighted_spans(size, patch, overlap):
        assert span.high - span.low + sum(span.pad) == max(patch, span.high - span.low)
        total[span.first : span.stop] += span.share
    torch.testing.assert_close(total, torch.ones(size))


def test_a_short_axis_stands_in_the_middle_of_zeros() -> None:
    (span,) = weighted_spans(3, 8, 0.5)
    assert (span.low, span.high, span.pad, span.first, span.stop, span.skip) == (0, 3, (2, 3), 0, 3, 2)


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


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_tiles_fill_every_voxel_once(size: int, tile: int, margin: int, stride: int) -> None:
    spans = tile_spans(size, tile + 2 * margin, margin, stride)
    assert [voxel for span in spans for voxel in range(span.first, span.stop)] == list(range(size))
    assert all(0 <= span.low < span.high <= size for span in spans)


def test_a_window_that_is_all_margin_is_refused() -> None:
    with pytest.raises(DataError, match="all margin"):
        tile_spans(30, 40, 20, 4)
