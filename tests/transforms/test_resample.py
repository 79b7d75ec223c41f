"""Interpolation between grids that cover the same field of view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medunet.labels import LabelMap
from medunet.transforms import resample as resample_module
from medunet.transforms.resample import (
    Kind,
    Line,
    LinearRows,
    along_lines,
    lines_over,
    resample,
    resample_argmax,
    resample_labels,
    resample_nested,
    taps,
)

KINDS: tuple[Kind, ...] = ("nearest", "linear", "cubic")
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


def linear(array: Tensor, shape: Sequence[int]) -> tuple[Line, ...]:
    return lines_over(array.shape[1:], shape, "linear")


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


@SHAPES
@pytest.mark.parametrize("labels", [1, 2, 7])
@pytest.mark.parametrize("memory", ["channels first", "channels last"])
def test_the_largest_of_the_interpolated_logits_wins(
    shape: tuple[int, ...], target: tuple[int, ...], labels: int, memory: str
) -> None:
    logits = torch.randn(labels, *shape)
    if memory == "channels last":
        logits = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    for size in (target, shape):
        result = resample_argmax(logits, linear(logits, size))
        assert result.dtype == torch.uint8
        assert torch.equal(result.long(), resample(logits, size, "linear").argmax(0))


@settings(deadline=None)
@given(
    shape=st.tuples(SIZES, SIZES, SIZES),
    target=st.tuples(SIZES, SIZES, SIZES),
    voxels=st.integers(1, 400),
    labels=st.integers(1, 6),
)
def test_many_boxes_choose_as_one(shape: tuple[int, ...], target: tuple[int, ...], voxels: int, labels: int) -> None:
    logits = torch.randn(labels, *shape).cumsum(1)  # some labels are hopeless in some boxes
    lines, beside = linear(logits, target), [range(1, labels + 1)]
    with patch.object(resample_module, "_BOX", voxels):
        largest = resample_argmax(logits, lines)
        nested = resample_nested(logits, lines, beside, np.eye(labels + 1, dtype=bool))
    values = resample(logits, target, "linear")
    assert torch.equal(largest.long(), values.argmax(0))
    top, index = values.max(0)
    assert torch.equal(nested.long(), torch.where(top > 0, index + 1, 0))


@SHAPES
def test_equal_logits_go_to_the_lowest_label(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    logits = torch.randn(1, *shape).repeat(3, *(1,) * len(shape))
    for size in (target, shape):
        assert resample_argmax(logits, linear(logits, size)).max() == 0


def test_more_than_256_labels_need_a_wider_type() -> None:
    logits = torch.zeros(300, 2, 2)
    logits[299] = 1
    assert resample_argmax(logits, linear(logits, (3, 3)), torch.int32).unique().tolist() == [299]
    assert resample_argmax(logits, linear(logits, (2, 2)), torch.int32).unique().tolist() == [299]


FORESTS = [
    {"a": 1},
    {"a": 1, "b": 2},
    {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    {"core": [2, 3], "enhancing": 3, "whole": [1, 2, 3]},
    {"tumour": 2, "liver": [1, 2], "cyst": 4, "spleen": [3, 4]},
    {"body": [1, 2, 3, 4, 5, 6], "liver": [2, 3], "tumour": 3, "kidney": [4, 5, 6], "stone": 5, "mass": 6, "table": 7},
]


def chosen(logits: Sequence[float], sets: Sequence[frozenset[int]]) -> int:
    """The rule for one voxel, in words and sets: index 0 is the background, `sets` are the values of each index."""
    now = 0
    for depth in range(len(sets)):
        able = []
        for index in range(1, len(sets)):
            lies_in = sum(sets[index] < other for other in sets[1:])
            over_stranger = now > 0 and not sets[index] < sets[now]
            if lies_in == depth and logits[index - 1] > (logits[now - 1] if over_stranger else 0):
                able.append(index)
        now = max(able, key=lambda index: logits[index - 1], default=now)
    return now


def nested_labels(structures: dict[str, Any]) -> LabelMap:
    return LabelMap.from_mapping({"background": 0, **structures})


@SHAPES
@pytest.mark.parametrize("structures", FORESTS, ids="-".join)
def test_nested_structures_are_painted_by_the_rule(
    shape: tuple[int, ...], target: tuple[int, ...], structures: dict[str, Any]
) -> None:
    labels = nested_labels(structures)
    sets = [frozenset(label.values) for label in labels.labels]
    logits = torch.randn(len(structures), *shape)
    for size in (target, shape):
        result = resample_nested(logits, linear(logits, size), labels.levels, labels.membership)
        assert result.dtype == torch.uint8
        columns = resample(logits, size, "linear").flatten(1).T.tolist()
        assert result.flatten().tolist() == [chosen(column, sets) for column in columns]


@pytest.mark.parametrize(
    ("liver", "tumour", "spleen", "expected"),
    [
        (-5.0, 0.1, 8.0, "spleen"),  # a sure spleen beside a tumour that is barely there
        (3.0, 0.1, 8.0, "spleen"),
        (3.0, 0.1, 2.0, "tumour"),  # inside of what is painted, however sure that is
        (-5.0, 9.0, 8.0, "tumour"),
        (-5.0, 0.1, -8.0, "tumour"),
        (3.0, -1.0, 2.0, "liver"),
        (0.0, 0.0, 0.0, "background"),
    ],
)
def test_of_structures_beside_each_other_the_larger_logit_is_painted(
    liver: float, tumour: float, spleen: float, expected: str
) -> None:
    labels = nested_labels({"liver": [1, 2], "tumour": 2, "spleen": 3})
    logits = torch.tensor([liver, tumour, spleen]).reshape(3, 1, 1)
    (index,) = resample_nested(logits, linear(logits, (1, 1)), labels.levels, labels.membership).flatten().tolist()
    assert labels.names[index] == expected


def test_the_order_of_labels_decides_nothing() -> None:
    structures = FORESTS[-1]
    names, logits = list(structures), torch.randn(len(structures), 20, 30)
    found = []
    for order in (names, names[::-1]):
        labels = nested_labels({name: structures[name] for name in order})
        sorted_logits = logits[[names.index(name) for name in order]]
        indices = resample_nested(sorted_logits, linear(sorted_logits, (20, 30)), labels.levels, labels.membership)
        found.append([labels.names[index] for index in indices.flatten().tolist()])
    assert found[0] == found[1]


@pytest.mark.parametrize("choose", ["argmax", "least", "nested"])
def test_labels_are_chosen_without_an_array_of_all_of_them(choose: str) -> None:
    """Tensors that are alive at once stay below two channels of the result, whatever the number of labels."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    logits = torch.randn(50, 4, 4, 4)
    with Watch():
        if choose != "nested":
            least = None if choose == "argmax" else [0.1] * 50
            resample_argmax(logits, linear(logits, (16, 16, 16)), least=least)
        else:
            resample_nested(logits, linear(logits, (16, 16, 16)), [range(1, 20), range(20, 51)], np.eye(51, dtype=bool))
    assert largest <= 16**3


# probabilities that are asked for


def allowed(column: Sequence[float], least: Sequence[float]) -> int:
    """The rule for one voxel of labels beside each other."""
    shares = torch.tensor(column, dtype=torch.float64).softmax(0).tolist()
    able = [index for index in range(len(column)) if index == 0 or shares[index] >= least[index]]
    return max(able, key=lambda index: column[index])


LEAST = [(0.0, 0.6, 0.0, 0.0), (0.0, 0.4, 0.45, 0.3), (0.9, 0.0, 0.0, 0.99), (0.0, 0.1, 0.01, 0.5)]


@SHAPES
@pytest.mark.parametrize("least", LEAST)
def test_a_label_wins_only_with_the_probability_that_is_asked_for(
    shape: tuple[int, ...], target: tuple[int, ...], least: tuple[float, ...]
) -> None:
    logits = torch.randn(4, *shape) * 2
    for size in (target, shape):
        result = resample_argmax(logits, linear(logits, size), least=least)
        assert result.dtype == torch.uint8
        columns = resample(logits, size, "linear").flatten(1).T.tolist()
        assert result.flatten().tolist() == [allowed(column, least) for column in columns]


@SHAPES
def test_asking_for_nothing_or_little_is_the_plain_rule(shape: tuple[int, ...], target: tuple[int, ...]) -> None:
    logits = torch.randn(5, *shape).round()  # with ties
    plain = resample_argmax(logits, linear(logits, target))
    for least in ((0.0,) * 5, (0.5, 0.0, 0.0, 0.0, 0.0), (0.0, 0.2, 0.0, 0.1999, 0.0)):
        assert torch.equal(resample_argmax(logits, linear(logits, target), least=least), plain)
    structures = FORESTS[-1]
    logits = torch.randn(len(structures), *shape)
    labels = nested_labels(structures)
    half = resample_nested(
        logits, linear(logits, target), labels.levels, labels.membership, least=[0.5] * len(structures)
    )
    assert torch.equal(half, resample_nested(logits, linear(logits, target), labels.levels, labels.membership))


@pytest.mark.parametrize(
    ("liver", "tumour", "spleen", "least", "expected"),
    [
        (3.0, 0.8, -9.0, (0.5, 0.7, 0.5), "liver"),  # log(0.7 / 0.3) is 0.847
        (3.0, 0.9, -9.0, (0.5, 0.7, 0.5), "tumour"),
        (0.8, -9.0, -9.0, (0.7, 0.5, 0.5), "background"),
        (-1.0, -9.0, -9.0, (0.2, 0.5, 0.5), "liver"),  # log(0.2 / 0.8) is -1.386
        (-1.0, -9.0, -1.1, (0.2, 0.5, 0.2), "liver"),  # of two that are there the larger logit is painted
        (-1.2, -9.0, -1.1, (0.2, 0.5, 0.2), "spleen"),
        (-1.0, -1.2, -9.0, (0.2, 0.2, 0.5), "tumour"),  # inside of what is painted, however sure that is
        (-9.0, -1.2, -1.1, (0.5, 0.2, 0.2), "spleen"),
        (2.0, -9.0, 1.5, (0.9, 0.5, 0.5), "spleen"),  # the liver would be larger but is not there
        (-1.0, -9.0, -9.0, (0.2, 0.9, 0.9), "liver"),
    ],
)
def test_nested_structures_are_there_above_their_own_probability(
    liver: float, tumour: float, spleen: float, least: tuple[float, ...], expected: str
) -> None:
    labels = nested_labels({"liver": [1, 2], "tumour": 2, "spleen": 3})
    logits = torch.tensor([liver, tumour, spleen]).reshape(3, 1, 1)
    found = resample_nested(logits, linear(logits, (1, 1)), labels.levels, labels.membership, least=least)
    assert labels.names[int(found)] == expected


def test_no_logit_is_too_large_to_be_compared() -> None:
    logits = torch.tensor([[500.0, -500.0], [499.0, 0.0], [-500.0, 1.0]]).unsqueeze(1)  # two voxels
    result = resample_argmax(logits, linear(logits, (1, 2)), least=(0.0, 0.2, 0.8))
    assert result.tolist() == [[0, 1]]


# rows


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
