"""Labels from logits that are interpolated first: what is chosen box by box is what all logits at once would give."""

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
from medunet.transforms import choose as choose_module
from medunet.transforms.choose import resample_argmax, resample_nested
from medunet.transforms.resample import Line, lines_over, resample

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
    with patch.object(choose_module, "_BOX", voxels):
        largest = resample_argmax(logits, lines)
        nested = resample_nested(logits, lines, beside, np.eye(labels + 1, dtype=bool))
    values = resample(logits, target, "linear")
    assert torch.equal(largest.long(), values.argmax(0))
    top, index = values.max(0)
    assert torch.equal(nested.long(), torch.where(top > 0, index + 1, 0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_give_some_label(value: float) -> None:
    logits = torch.randn(3, 6, 6, 6)
    logits[1, 2] = value
    for size in ((9, 8, 5), (6, 6, 6)):
        assert int(resample_argmax(logits, linear(logits, size)).max()) < 3


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
    able = [index for index in range(len(column)) if shares[index] >= least[index]]
    return max(able, key=lambda index: column[index], default=0)


LEAST = [
    (0.0, 0.6, 0.0, 0.0),
    (0.0, 0.4, 0.45, 0.3),
    (0.9, 0.0, 0.0, 0.99),
    (0.0, 0.1, 0.01, 0.5),
    (0.7, 0.5, 0.5, 0.5),
    (0.6, 0.0, 0.0, 0.0),
]


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
    for least in ((0.0,) * 5, (0.1999, 0.0, 0.0, 0.0, 0.0), (0.0, 0.2, 0.0, 0.1999, 0.0)):
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
