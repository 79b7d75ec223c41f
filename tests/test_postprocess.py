"""Clean-up of masks: components and holes, one label at a time."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.schema import FillHolesConfig, LargestComponentConfig, PostprocessStep, RemoveSmallConfig
from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.postprocess import STEPS, postprocess

LABELS = LabelMap.from_mapping({"background": 0, "liver": 205, "tumour": 4})
LARGEST = LargestComponentConfig(name="largest_component", label="liver")
HOLES = FillHolesConfig(name="fill_holes", label="liver")
RANKS = pytest.mark.parametrize("rank", [2, 3])


BRATS = LabelMap.from_mapping({"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3, "cyst": 4})
CORE, WHOLE, ENHANCING, CYST = 1, 2, 3, 4
"""Indices: the order of the labels is not that of their nesting."""


def small(ml: float) -> RemoveSmallConfig:
    return RemoveSmallConfig(name="remove_small", label="liver", ml=ml)


def run(array: NDArray[np.uint8], *steps: PostprocessStep, voxel_ml: float = 1.0) -> NDArray[np.generic]:
    before = array.copy()
    result = postprocess(array, steps, LABELS, voxel_ml)
    np.testing.assert_array_equal(array, before)  # the input is not changed
    assert result.dtype == array.dtype
    return result


def mask(rank: int, *boxes: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Array of 12 voxels per axis with boxes (first, last, label) along the diagonal."""
    array = np.zeros((12,) * rank, np.uint8)
    for first, last, label in boxes:
        array[(slice(first, last + 1),) * rank] = label
    return array


def test_the_table_names_every_step_that_a_config_may_name() -> None:
    assert set(STEPS) == {"largest_component", "remove_small", "fill_holes"}


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
    voxels = 2**rank
    np.testing.assert_array_equal(run(array, small(voxels * 0.5), voxel_ml=0.5), mask(rank, (0, 3, 1), (6, 7, 1)))
    np.testing.assert_array_equal(run(array, small(voxels * 0.5 + 0.01), voxel_ml=0.5), mask(rank, (0, 3, 1)))
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


def test_no_steps_give_the_array_itself() -> None:
    array = mask(3, (0, 3, 1))
    assert postprocess(array, (), LABELS, 1.0) is array


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
    np.testing.assert_array_equal(postprocess(array, [largest], BRATS, 1.0), expected)
    step = RemoveSmallConfig(name="remove_small", label="enhancing", ml=1000)
    expected = mask(rank, (0, 9, WHOLE), (1, 4, CORE), (7, 8, CORE), (11, 11, CYST))
    np.testing.assert_array_equal(postprocess(array, [step], BRATS, 1.0), expected)


@RANKS
def test_a_removed_part_of_an_outer_label_takes_what_is_inside_with_it(rank: int) -> None:
    array = mask(rank, (0, 5, WHOLE), (1, 4, CORE), (8, 10, WHOLE), (9, 9, ENHANCING), (11, 11, CYST))
    largest = LargestComponentConfig(name="largest_component", label="whole")
    expected = mask(rank, (0, 5, WHOLE), (1, 4, CORE), (11, 11, CYST))
    np.testing.assert_array_equal(postprocess(array, [largest], BRATS, 1.0), expected)


@RANKS
def test_a_hole_of_an_inner_label_is_filled_where_only_outer_ones_are_in_it(rank: int) -> None:
    array = mask(rank, (0, 11, WHOLE), (1, 10, CORE), (2, 9, WHOLE), (3, 3, 0), (5, 6, ENHANCING), (8, 8, CYST))
    step = FillHolesConfig(name="fill_holes", label="core")
    expected = mask(rank, (0, 11, WHOLE), (1, 10, CORE), (5, 6, ENHANCING), (8, 8, CYST))
    np.testing.assert_array_equal(postprocess(array, [step], BRATS, 1.0), expected)


@RANKS
def test_what_lies_inside_is_no_hole(rank: int) -> None:
    array = mask(rank, (0, 10, WHOLE), (1, 8, CORE), (4, 4, 0))
    step = FillHolesConfig(name="fill_holes", label="whole")
    expected = mask(rank, (0, 10, WHOLE), (1, 8, CORE), (4, 4, WHOLE))
    np.testing.assert_array_equal(postprocess(array, [step], BRATS, 1.0), expected)


def test_more_than_256_labels_are_cleaned_too() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, 400)}})
    array = np.zeros((12, 12), np.uint16)
    array[0:3, 0:3], array[6, 6] = 300, 300
    result = postprocess(array, [LargestComponentConfig(name="largest_component", label="l300")], labels, 1.0)
    assert (result > 0).sum() == 9
    assert result.dtype == np.uint16
