"""Objects that are told apart, split and merged; the same figures as scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error

from medunet.errors import GeometryError
from medunet.metrics import score_partition
from medunet.metrics.partitions import grown, rand_scores


def cells(*walls: int) -> NDArray[np.bool_]:
    """A strip of 12 x 20 with walls at some columns."""
    mask = np.ones((12, 20), bool)
    mask[:, list(walls)] = False
    return mask


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), many=st.integers(1, 12), rank=st.sampled_from([2, 3]))
def test_the_figures_are_those_of_scikit_image(seed: int, many: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    truth, found = (rng.integers(0, many + 1, (9,) * rank) for _ in range(2))
    error, precision, recall = adapted_rand_error(truth, found, ignore_labels=(0,))
    split, merge, f_score = rand_scores(found, truth)
    assert f_score == pytest.approx(1 - error)
    assert (split, merge) == (pytest.approx(precision), pytest.approx(recall))


def test_the_same_objects_are_perfect() -> None:
    score = score_partition(cells(6, 13), cells(6, 13))
    assert (score.rand_split, score.rand_merge, score.rand_f, score.pixel_error) == (1.0, 1.0, 1.0, 0.0)


def test_one_hole_in_a_wall_merges_two_objects_and_costs_one_pixel() -> None:
    leaking = cells(10)
    leaking[5, 10] = True
    score = score_partition(leaking, cells(10))
    assert score.pixel_error == pytest.approx(1 / 240)
    assert score.rand_split == pytest.approx(1.0)
    assert score.rand_merge == pytest.approx(0.5, abs=0.01)


def test_a_wall_too_many_splits_an_object() -> None:
    score = score_partition(cells(5, 10), cells(10))
    assert score.rand_merge == pytest.approx(1.0, abs=0.06)
    assert score.rand_split is not None
    assert score.rand_split < 0.8


def test_the_width_of_walls_does_not_count_unless_asked() -> None:
    broad = score_partition(cells(9, 10, 11), cells(10))
    assert broad.rand_f == pytest.approx(1.0)
    assert broad.pixel_error == pytest.approx(24 / 240)
    assert score_partition(cells(9, 10, 11), cells(10), thin=False).rand_f == pytest.approx(0.9, abs=0.06)


def test_nothing_found_is_one_object_and_no_truth_is_no_score() -> None:
    nothing = np.zeros((12, 20), bool)
    assert score_partition(nothing, cells(10)).rand_split == pytest.approx(1.0)
    assert score_partition(nothing, cells(10)).rand_merge == pytest.approx(0.5, abs=0.01)
    assert score_partition(cells(10), nothing).rand_f is None


def test_growing_keeps_objects_and_fills_everything() -> None:
    objects = np.zeros((5, 9), int)
    objects[2, 1], objects[2, 7] = 4, 9
    filled = grown(objects)
    assert set(np.unique(filled)) == {4, 9}
    assert (filled[:, :4] == 4).all()
    assert (filled[:, 5:] == 9).all()
    assert not grown(np.zeros((3, 3), int)).any()


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(GeometryError, match="cannot be compared"):
        score_partition(np.ones((3, 4), bool), np.ones((4, 3), bool))
