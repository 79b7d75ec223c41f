"""Interpolation between grids that cover the same field of view."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medunet.transforms.resample import (
    Kind,
    Line,
    LinearRows,
    along_lines,
    lines_over,
    resample,
    resample_labels,
    taps,
)

KINDS: tuple[Kind, ...] = ("nearest", "linear", "cubic", "area")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
SIZES = st.integers(1, 12)
PAIRS = [
    ((6, 7), (9, 3)),
    ((5, 6, 7), (8, 6, 3)),
    ((5, 6, 7), (3, 11, 14)),
    ((1, 4, 5), (3, 4, 2)),
    ((4, 4, 4), (1, 1, 1)),
]
SHAPES = pytest.mark.parametrize(("shape", "target"), PAIRS)


@settings(deadline=None)
@given(SIZES, SIZES, st.sampled_from(KINDS))
def test_weights_sum_to_one_and_sources_lie_inside(size: int, target: int, kind: Kind) -> None:
    pairs = list(taps(size, target, kind))
    torch.testing.assert_close(sum(weight for _, weight in pairs), torch.ones(target))
    for index, weight in pairs:
        assert index.shape == weight.shape == (target,)
        assert 0 <= int(index.min()) <= int(index.max()) < size


@EVERY_KIND
@SHAPES
def test_the_result_has_the_shape_asked_for_behind_any_leading_axes(
    shape: tuple[int, ...], target: tuple[int, ...], kind: Kind
) -> None:
    assert resample(torch.rand(2, 3, *shape), target, kind).shape == (2, 3, *target)
    assert resample(torch.rand(shape), target, kind).shape == target


@EVERY_KIND
def test_the_same_shape_changes_nothing(kind: Kind) -> None:
    array = torch.randn(2, 5, 6, 7)
    assert torch.equal(resample(array, (5, 6, 7), kind), array)


@EVERY_KIND
@SHAPES
def test_the_input_is_not_changed(shape: tuple[int, ...], target: tuple[int, ...], kind: Kind) -> None:
    array = torch.randn(2, *shape)
    before = array.clone()
    resample(array, target, kind)
    assert torch.equal(array, before)


@EVERY_KIND
@SHAPES
def test_constants_stay_constant(shape: tuple[int, ...], target: tuple[int, ...], kind: Kind) -> None:
    torch.testing.assert_close(resample(torch.full(shape, -1024.0), target, kind), torch.full(target, -1024.0))


@SHAPES
def test_linear_is_what_torch_computes(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    array = torch.randn(2, *shape)
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    expected = torch.nn.functional.interpolate(array[None], size=target, mode=mode, align_corners=False)[0]
    torch.testing.assert_close(resample(array, target, "linear"), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "target"), [((31, 20), (9, 7)), ((30, 7), (10, 20)), ((100, 3), (8, 3)), ((9, 9), (8, 10))]
)
def test_area_is_what_torch_computes_with_antialiasing(shape: tuple[int, int], target: tuple[int, int]) -> None:
    array = torch.randn(2, *shape)
    expected = torch.nn.functional.interpolate(
        array[None], size=target, mode="bilinear", align_corners=False, antialias=True
    )[0]
    torch.testing.assert_close(resample(array, target, "area"), expected, atol=1e-5, rtol=1e-5)


@SHAPES
def test_nearest_is_what_torch_computes(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    array = torch.randn(2, *shape)
    expected = torch.nn.functional.interpolate(array[None], size=target, mode="nearest-exact")[0]
    assert torch.equal(resample(array, target, "nearest"), expected)


@pytest.mark.parametrize("size", [(16, 40), (16, 24), (20, 30)])
def test_cubic_reproduces_a_parabola_away_from_the_edges(size: tuple[int, int]) -> None:
    """Keys' kernel with a = -1/2 is exact for quadratics."""
    source, target = size

    def parabola(length: int) -> Tensor:
        x = (torch.arange(length) + 0.5) * (source / length) - 0.5
        return 0.3 * x**2 - 2 * x + 1

    result = resample(parabola(source).repeat(3, 1), (3, target), "cubic")
    inside = slice(target // 5, -target // 5)
    torch.testing.assert_close(result[:, inside], parabola(target).repeat(3, 1)[:, inside], atol=1e-4, rtol=1e-5)


def test_cubic_keeps_the_samples_that_it_hits() -> None:
    array = torch.randn(9)
    tripled = resample(array.repeat(2, 1), (2, 27), "cubic")[0]
    torch.testing.assert_close(tripled[1::3], array)


def test_enlarging_moves_nothing() -> None:
    """The centre of mass of a blob keeps its place in the field of view."""
    array = torch.zeros(20, 20, 20)
    array[4:7, 10:12, 15:18] = 1
    big = resample(array, (40, 30, 50), "linear")
    for axis, (small, large) in enumerate(zip(array.shape, big.shape, strict=True)):
        others = [a for a in range(3) if a != axis]
        before = (array.sum(others) * (torch.arange(small) + 0.5) / small).sum() / array.sum()
        after = (big.sum(others) * (torch.arange(large) + 0.5) / large).sum() / big.sum()
        assert float(after) == pytest.approx(float(before), abs=1e-3)


def by_hand(labels: Tensor, shape: tuple[int, ...], count: int) -> Tensor:
    shares = torch.stack([(labels == index).float() for index in range(count)])
    return resample(shares, shape, "linear")


@SHAPES
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_each_voxel_gets_the_label_with_the_largest_share(
    shape: tuple[int, ...], target: tuple[int, ...], dtype: torch.dtype
) -> None:
    labels = torch.randint(0, 5, shape).to(dtype)
    labels[labels == 3] = 4  # a label that is absent
    result = resample_labels(labels, target)
    assert result.dtype == dtype
    shares = by_hand(labels, target, 5)
    assert torch.equal(result.long(), shares.argmax(0))


def test_labels_of_the_same_grid_are_left_alone() -> None:
    labels = torch.randint(0, 5, (4, 5, 6))
    assert torch.equal(resample_labels(labels, (4, 5, 6)), labels)


def test_ignored_voxels_are_one_more_label() -> None:
    labels = torch.zeros(4, 6, dtype=torch.uint8)
    labels[:, 3:] = 255
    assert resample_labels(labels, (8, 12))[0].tolist() == [0] * 6 + [255] * 6


def test_a_border_stays_where_it_is() -> None:
    labels = torch.zeros(10, 4, dtype=torch.int32)
    labels[5:] = 1
    assert resample_labels(labels, (40, 4))[:, 0].tolist() == [0] * 20 + [1] * 20
    assert resample_labels(labels, (2, 4))[:, 0].tolist() == [0, 1]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_part_is_that_of_the_whole_bit_for_bit(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    sizes, shape = (data.draw(st.tuples(*[SIZES] * rank)) for _ in range(2))
    axis, kind = data.draw(st.integers(0, rank - 1)), data.draw(st.sampled_from(KINDS))
    first = data.draw(st.integers(0, shape[axis] - 1))
    stop = data.draw(st.integers(first + 1, shape[axis]))
    array, lines = torch.rand(sizes), list(lines_over(sizes, shape, kind))
    low, high, lines[axis] = lines[axis].part(first, stop)
    assert 0 <= low < high <= sizes[axis]
    found = along_lines(array.narrow(axis, low, high - low), lines)
    assert torch.equal(found, resample(array, shape, kind).narrow(axis, first, stop - first))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_rows_that_come_piece_by_piece_are_interpolated_as_soon_as_they_can(data: st.DataObject) -> None:
    size, target, most = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 60)), data.draw(st.integers(1, 9))
    array, linear = torch.rand(3, size, 2), LinearRows(size, target)
    expected = resample(array, (target, 2), "linear")
    come = done = 0
    while come < size:
        step = data.draw(st.integers(1, size - come))
        for first, stop, rows, line in linear(array[:, come : come + step], most):
            assert first == done
            assert 1 <= stop - first <= most
            torch.testing.assert_close(along_lines(rows, (line, Line(()))), expected[:, first:stop])
            done = stop
        come += step
        assert (done == target) if come == size else (done + 1) * size / target >= come - 1.5
    assert done == target
