"""Clean-up of masks: components and holes, one label at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.postprocess import (
    FillHolesConfig,
    LargestComponentConfig,
    PostprocessStep,
    RemoveSmallConfig,
    SmoothConfig,
    ThresholdConfig,
)
from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.postprocess import least_probabilities, postprocess
from medunet.postprocess.steps import STEPS

LABELS = LabelMap.from_mapping({"background": 0, "liver": 205, "tumour": 4})
LARGEST = LargestComponentConfig(name="largest_component", label="liver")
HOLES = FillHolesConfig(name="fill_holes", label="liver")
RANKS = pytest.mark.parametrize("rank", [2, 3])


BRATS = LabelMap.from_mapping({"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3, "cyst": 4})
CORE, WHOLE, ENHANCING, CYST = 1, 2, 3, 4
"""Indices: the order of the labels is not that of their nesting."""


def small(ml: float) -> RemoveSmallConfig:
    return RemoveSmallConfig(name="remove_small", label="liver", ml=ml)


def clean(
    array: NDArray[Any], steps: Sequence[PostprocessStep], labels: LabelMap, spacing: Sequence[float] = ()
) -> NDArray[Any]:
    """A cleaned copy; 10 mm between voxels, so that one is 1 ml."""
    result = array.copy()
    postprocess(result, steps, labels, spacing or (10.0,) * array.ndim)
    return result


def run(array: NDArray[Any], *steps: PostprocessStep, spacing: Sequence[float] = ()) -> NDArray[Any]:
    return clean(array, steps, LABELS, spacing)


def mask(rank: int, *boxes: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Array of 12 voxels per axis with boxes (first, last, label) along the diagonal."""
    array = np.zeros((12,) * rank, np.uint8)
    for first, last, label in boxes:
        array[(slice(first, last + 1),) * rank] = label
    return array


def test_the_table_names_every_step_that_a_config_may_name() -> None:
    assert set(STEPS) == {"largest_component", "remove_small", "fill_holes", "smooth", "watershed"}


@RANKS
def test_only_the_largest_component_of_the_label_stays(rank: int) -> None:
    array = mask(rank, (0, 3, 1), (6, 8, 1), (10, 11, 2))
    np.testing.assert_array_equal(run(array, LARGEST), mask(rank, (0, 3, 1), (10, 11, 2)))


@RANKS
def test_components_that_touch_at_a_corner_are_one(rank: int) -> None:
    array = mask(rank, (0, 3, 1), (4, 5, 1))
    np.testing.assert_array_equal(run(array, LARGEST), array)


@RANKS
def test_of_two_equal_components_the_first_stays(rank: int) -> None:
    np.testing.assert_array_equal(run(mask(rank, (0, 2, 1), (6, 8, 1)), LARGEST), mask(rank, (0, 2, 1)))


@RANKS
def test_components_below_a_volume_go(rank: int) -> None:
    array = mask(rank, (0, 3, 1), (6, 7, 1), (10, 10, 1))
    voxels, spacing = 2**rank, (500.0,) + (1.0,) * (rank - 1)  # half a millilitre each
    np.testing.assert_array_equal(run(array, small(voxels * 0.5), spacing=spacing), mask(rank, (0, 3, 1), (6, 7, 1)))
    np.testing.assert_array_equal(run(array, small(voxels * 0.5 + 0.01), spacing=spacing), mask(rank, (0, 3, 1)))
    assert not run(array, small(1e9)).any()


@RANKS
def test_holes_are_filled_and_other_labels_in_them_kept(rank: int) -> None:
    array = mask(rank, (1, 7, 1), (3, 5, 0), (4, 4, 2))
    expected = mask(rank, (1, 7, 1), (4, 4, 2))
    np.testing.assert_array_equal(run(array, HOLES), expected)


@RANKS
def test_a_bay_that_is_open_is_no_hole(rank: int) -> None:
    array = mask(rank, (1, 7, 1), (3, 5, 0))
    array[(4,) * (rank - 1)][5:] = 0  # a channel from the hole to the outside
    np.testing.assert_array_equal(run(array, HOLES), array)


@RANKS
def test_a_cavity_at_the_edge_of_the_image_is_no_hole(rank: int) -> None:
    array = mask(rank, (0, 6, 1))
    array[(slice(0, 3), *[slice(2, 5)] * (rank - 1))] = 0
    np.testing.assert_array_equal(run(array, HOLES), array)


@RANKS
def test_looking_at_the_bounding_box_only_changes_no_result(rank: int) -> None:
    rng = np.random.default_rng(0)
    for density in (0.2, 0.5, 0.7):
        array = np.pad((rng.random((9,) * rank) < density).astype(np.uint8), 2)
        numbered, count = ndimage.label(array, np.ones((3,) * rank))
        largest = 1 + int(np.argmax(ndimage.sum_labels(array, numbered, range(1, count + 1))))
        np.testing.assert_array_equal(run(array, LARGEST), numbered == largest)
        np.testing.assert_array_equal(run(array, HOLES), ndimage.binary_fill_holes(array))


@RANKS
@pytest.mark.parametrize("step", [LARGEST, HOLES, small(1.0)])
def test_a_label_that_is_absent_or_everywhere_is_left_alone(rank: int, step: PostprocessStep) -> None:
    for array in (mask(rank), mask(rank, (0, 3, 2)), mask(rank, (0, 11, 1))):
        np.testing.assert_array_equal(run(array, step), array)


def test_steps_run_in_their_order() -> None:
    """A small component that is connected through a hole-filled ring: the order decides."""
    array = mask(2, (0, 4, 1), (1, 3, 0), (8, 11, 1))  # a ring of 16 voxels and a block of 16
    array[0, 0] = 0  # ring: 15
    filled_first = run(array, HOLES, LARGEST)
    largest_first = run(array, LARGEST, HOLES)
    assert filled_first[2, 2] == 1
    assert filled_first[9, 9] == 0
    assert largest_first[2, 2] == 0
    assert largest_first[9, 9] == 1


@pytest.mark.parametrize("label", ["spleen", "background", "ignore"])
def test_a_step_for_what_is_no_structure_is_a_sentence(label: str) -> None:
    step = LargestComponentConfig(name="largest_component", label=label)
    with pytest.raises(UsageError, match=f'largest_component names "{label}"') as caught:
        run(mask(3), step)
    assert "liver 205" in caught.value.hint


@RANKS
def test_a_removed_part_of_an_inner_label_becomes_what_is_around_it(rank: int) -> None:
    array = mask(rank, (0, 9, WHOLE), (1, 4, CORE), (2, 3, ENHANCING), (7, 8, ENHANCING), (11, 11, CYST))
    largest = LargestComponentConfig(name="largest_component", label="core")
    expected = mask(rank, (0, 9, WHOLE), (1, 4, CORE), (2, 3, ENHANCING), (11, 11, CYST))
    np.testing.assert_array_equal(clean(array, [largest], BRATS), expected)
    step = RemoveSmallConfig(name="remove_small", label="enhancing", ml=1000)
    expected = mask(rank, (0, 9, WHOLE), (1, 4, CORE), (7, 8, CORE), (11, 11, CYST))
    np.testing.assert_array_equal(clean(array, [step], BRATS), expected)


@RANKS
def test_a_removed_part_of_an_outer_label_takes_what_is_inside_with_it(rank: int) -> None:
    array = mask(rank, (0, 5, WHOLE), (1, 4, CORE), (8, 10, WHOLE), (9, 9, ENHANCING), (11, 11, CYST))
    largest = LargestComponentConfig(name="largest_component", label="whole")
    expected = mask(rank, (0, 5, WHOLE), (1, 4, CORE), (11, 11, CYST))
    np.testing.assert_array_equal(clean(array, [largest], BRATS), expected)


@RANKS
def test_a_hole_of_an_inner_label_is_filled_where_only_outer_ones_are_in_it(rank: int) -> None:
    array = mask(rank, (0, 11, WHOLE), (1, 10, CORE), (2, 9, WHOLE), (3, 3, 0), (5, 6, ENHANCING), (8, 8, CYST))
    step = FillHolesConfig(name="fill_holes", label="core")
    expected = mask(rank, (0, 11, WHOLE), (1, 10, CORE), (5, 6, ENHANCING), (8, 8, CYST))
    np.testing.assert_array_equal(clean(array, [step], BRATS), expected)


@RANKS
def test_what_lies_inside_is_no_hole(rank: int) -> None:
    array = mask(rank, (0, 10, WHOLE), (1, 8, CORE), (4, 4, 0))
    step = FillHolesConfig(name="fill_holes", label="whole")
    expected = mask(rank, (0, 10, WHOLE), (1, 8, CORE), (4, 4, WHOLE))
    np.testing.assert_array_equal(clean(array, [step], BRATS), expected)


def test_more_than_256_labels_are_cleaned_too() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, 400)}})
    array = np.zeros((12, 12), np.uint16)
    array[0:3, 0:3], array[6, 6] = 300, 300
    result = clean(array, [LargestComponentConfig(name="largest_component", label="l300")], labels)
    assert (result > 0).sum() == 9
    assert result.dtype == np.uint16


# groups

ORGANS = LabelMap.from_mapping({"background": 0, "left": 1, "right": 2, "heart": 3, "all": [4, 5], "part": 5})
LEFT, RIGHT, HEART, ALL, PART = range(1, 6)


def of_group(name: str, *labels: str, **options: Any) -> Any:
    steps = {
        "largest_component": LargestComponentConfig,
        "remove_small": RemoveSmallConfig,
        "fill_holes": FillHolesConfig,
    }
    return steps[name](name=name, labels=labels, **options)


@RANKS
def test_the_largest_component_of_a_group_may_have_several_labels(rank: int) -> None:
    array = mask(rank, (0, 1, LEFT), (2, 4, RIGHT), (6, 8, LEFT), (10, 10, RIGHT), (11, 11, HEART))
    expected = mask(rank, (0, 1, LEFT), (2, 4, RIGHT), (11, 11, HEART))
    np.testing.assert_array_equal(clean(array, [of_group("largest_component", "left", "right")], ORGANS), expected)
    alone = clean(array, [LargestComponentConfig(name="largest_component", label="left")], ORGANS)
    np.testing.assert_array_equal(alone == LEFT, mask(rank, (6, 8, LEFT)) == LEFT)


@RANKS
def test_components_of_a_group_are_small_together(rank: int) -> None:
    array = mask(rank, (0, 0, LEFT), (1, 1, RIGHT), (5, 5, LEFT), (8, 8, RIGHT), (11, 11, HEART))
    step = of_group("remove_small", "right", "left", mm3=1.5 * 10**rank)
    expected = mask(rank, (0, 0, LEFT), (1, 1, RIGHT), (11, 11, HEART))
    np.testing.assert_array_equal(clean(array, [step], ORGANS), expected)


@RANKS
def test_what_is_removed_from_a_group_falls_back_to_what_is_around_each(rank: int) -> None:
    array = mask(rank, (0, 5, ALL), (1, 2, PART), (4, 4, PART), (7, 7, LEFT), (9, 9, LEFT))
    step = of_group("largest_component", "part", "left")
    np.testing.assert_array_equal(clean(array, [step], ORGANS), mask(rank, (0, 5, ALL), (1, 2, PART)))
    step = of_group("remove_small", "part", "all", ml=1e6)  # a label and what is around it: both go
    np.testing.assert_array_equal(clean(array, [step], ORGANS), mask(rank, (7, 7, LEFT), (9, 9, LEFT)))


@RANKS
def test_a_hole_of_a_group_becomes_what_it_touches_most(rank: int) -> None:
    array = mask(rank, (1, 9, LEFT), (4, 4, 0), (7, 7, 0))
    array[6:] = np.where(array[6:] == LEFT, RIGHT, array[6:])
    between = array.copy()
    between[(5,) + (5,) * (rank - 1)] = 0  # between the two, with more of the left around it
    expected = array.copy()
    expected[(4,) * rank], expected[(7,) * rank] = LEFT, RIGHT
    np.testing.assert_array_equal(clean(between, [of_group("fill_holes", "right", "left")], ORGANS), expected)


@RANKS
def test_a_hole_between_two_of_a_group_is_a_hole_of_neither(rank: int) -> None:
    array = mask(rank, (1, 9, LEFT), (4, 4, 0))
    array[4:] = np.where(array[4:] == LEFT, RIGHT, array[4:])
    for name in ("left", "right"):
        np.testing.assert_array_equal(clean(array, [FillHolesConfig(name="fill_holes", label=name)], ORGANS), array)
    filled = clean(array, [of_group("fill_holes", "left", "right")], ORGANS)
    assert filled[(4,) * rank] == RIGHT
    assert (filled != array).sum() == 1


def test_a_hole_that_touches_two_alike_becomes_the_first_that_is_named() -> None:
    array = np.array([[1, 1, 1], [1, 0, 2], [1, 2, 2]], np.uint8)
    for order, expected in ((("left", "right"), LEFT), (("right", "left"), RIGHT)):
        assert clean(array, [of_group("fill_holes", *order)], ORGANS)[1, 1] == expected


# physical units


def test_cubic_millimetres_are_a_thousandth_of_millilitres() -> None:
    array = mask(3, (0, 1, 1), (4, 4, 1))
    for spacing in ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (0.1, 0.2, 0.3)):
        voxel = float(np.prod(spacing))
        for factor, left in ((1.0, 9), (1.01, 8), (8.0, 8), (8.01, 0)):
            for unit in ({"mm3": factor * voxel}, {"ml": factor * voxel / 1000}):
                step = RemoveSmallConfig(name="remove_small", label="liver", **unit)
                assert run(array, step, spacing=spacing).astype(bool).sum() == left


def test_a_step_sees_what_a_step_before_it_has_made() -> None:
    """Boxes are found once; what an earlier step adds to another structure must lie in that one's box."""
    array = mask(2, (0, 9, WHOLE), (1, 4, CORE), (7, 7, ENHANCING))
    array[9:, 9:] = 0
    array[11, 11] = ENHANCING
    steps = [
        RemoveSmallConfig(name="remove_small", label="enhancing", ml=1000),  # 7, 7 and 11, 11 become core
        LargestComponentConfig(name="largest_component", label="core"),  # and go to the whole
        LargestComponentConfig(name="largest_component", label="whole"),
    ]
    expected = mask(2, (0, 9, WHOLE), (1, 4, CORE))
    expected[9:, 9:] = 0
    np.testing.assert_array_equal(clean(array, steps, BRATS), expected)


def test_boxes_are_found_in_one_pass_however_many_steps_there_are() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, 119)}})
    array = np.zeros((60, 60), np.uint8)
    array[:59:6, :59:6] = np.arange(1, 101).reshape(10, 10)
    steps = [LargestComponentConfig(name="largest_component", label=f"l{n}") for n in range(1, 119)]
    with patch.object(ndimage, "find_objects", wraps=ndimage.find_objects) as find:
        np.testing.assert_array_equal(clean(array, steps, labels), array)
    assert find.call_count == 1


# thresholds


def threshold(label: str, probability: float) -> ThresholdConfig:
    return ThresholdConfig(name="threshold", label=label, probability=probability)


def test_a_threshold_changes_no_finished_mask() -> None:
    array = mask(3, (0, 3, 1))
    np.testing.assert_array_equal(run(array, threshold("liver", 0.9)), array)


def test_thresholds_are_told_by_output() -> None:
    assert least_probabilities([LARGEST], LABELS) is None
    assert least_probabilities([LARGEST, threshold("tumour", 0.7)], LABELS) == (0.0, 0.0, 0.7)
    assert least_probabilities([threshold("background", 0.6)], LABELS) == (0.6, 0.0, 0.0)
    steps = [threshold("whole", 0.7), threshold("cyst", 0.2)]
    assert least_probabilities(steps, BRATS) == (0.5, 0.7, 0.5, 0.2)
    with pytest.raises(UsageError, match='threshold names "spleen"'):
        least_probabilities([threshold("spleen", 0.7)], LABELS)
    with pytest.raises(UsageError, match='threshold names "background"'):
        least_probabilities([threshold("background", 0.7)], BRATS)


# bad input


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (LargestComponentConfig(name="largest_component"), '"label" is missing'),
        (FillHolesConfig(name="fill_holes", label="liver", labels=("tumour",)), '"labels" cannot stand beside label'),
        (of_group("fill_holes", "liver", "liver"), "names liver twice"),
        (of_group("fill_holes", "liver", "spleen"), 'fill_holes names "spleen"'),
        (RemoveSmallConfig(name="remove_small", label="liver"), '"ml" is missing; it must be a volume'),
        (RemoveSmallConfig(name="remove_small", label="liver", ml=1.0, mm3=2.0), '"mm3" cannot stand beside ml'),
        (SmoothConfig(name="smooth", label="spleen", mm=1.0), 'smooth names "spleen"'),
        (LargestComponentConfig(name="largest_component", label="background"), 'names "background"'),
    ],
)
def test_a_step_that_cannot_work_is_a_sentence_and_nothing_is_changed(step: PostprocessStep, words: str) -> None:
    array = mask(2, (0, 3, 1), (5, 5, 1))
    before = array.copy()
    with pytest.raises(UsageError, match=words) as caught:
        postprocess(array, [LARGEST, step], LABELS, (1.0, 1.0))
    assert caught.value.hint
    np.testing.assert_array_equal(array, before)
