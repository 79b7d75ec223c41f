"""Metrics: exact cases, properties, a naive implementation, MONAI, and published values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medunet.errors import DataError, GeometryError
from medunet.labels import LabelMap
from medunet.metrics import StructureScore, dice_per_label, score_case, score_structure, score_values

CHAOS = Path(__file__).resolve().parents[2] / "../shared/data/liver_ct/metric_reference"
DISTANCES = ("hd95_mm", "hd_mm", "assd_mm")

spacings = st.tuples(*[st.sampled_from([0.5, 0.7265625, 1.0, 2.0, 5.0])] * 3)
shapes = st.tuples(*[st.integers(1, 6)] * 3)


@st.composite
def mask_pairs(draw):
    shape = draw(shapes)
    return tuple(draw(hnp.arrays(bool, shape)) for _ in range(2))


def box(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def blob(rng, shape=(24, 26, 22)):
    """A random blob that keeps away from the edge."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.normal(size=shape), 2.5)
    centre = np.linalg.norm(np.indices(shape) - np.reshape(shape, (3, 1, 1, 1)) / 2, axis=0)
    return (centre + 40 * smooth < 7) & box(shape, (2, 2, 2), np.subtract(shape, 2))


def naive(prediction, reference, spacing, tolerance):
    """All surface metrics over the whole volume, voxel by voxel, distances by brute force."""

    def border(mask):
        padded = np.pad(mask, 1, constant_values=True)
        return np.array(
            [
                point
                for point in np.argwhere(mask)
                if not all(
                    padded[tuple(point + 1 + step)] for unit in np.eye(mask.ndim, dtype=int) for step in (unit, -unit)
                )
            ]
        ).reshape(-1, mask.ndim)

    p, r = (border(mask) * np.asarray(spacing) for mask in (prediction, reference))
    if not len(p) or not len(r):
        return None
    table = np.linalg.norm(p[:, None] - r[None], axis=2)
    forth, back = table.min(axis=1), table.min(axis=0)
    both = np.concatenate([forth, back])
    return {
        "surface_dice": float((both <= tolerance + 1e-9).mean()),
        "hd95_mm": float(max(np.percentile(forth, 95), np.percentile(back, 95))),
        "hd_mm": float(both.max()),
        "assd_mm": float(both.mean()),
    }


def test_two_overlapping_boxes_have_the_scores_computed_by_hand():
    prediction = box((8, 8, 8), (2, 2, 2), (5, 4, 4))  # 12 voxels
    reference = box((8, 8, 8), (2, 2, 2), (4, 4, 4))  # 8 voxels, all inside
    score = score_structure(prediction, reference, (2.0, 1.0, 1.0))
    assert score.dice == pytest.approx(16 / 20)
    assert score.iou == pytest.approx(8 / 12)
    assert score.precision == pytest.approx(8 / 12)
    assert score.recall == 1.0
    # every voxel is border; the 4 added ones lie 2 mm from the reference, all others at 0
    assert score.hd_mm == 2.0
    assert score.hd95_mm == 2.0
    assert score.assd_mm == pytest.approx(4 * 2 / 20)
    assert score.surface_dice == pytest.approx(16 / 20)
    assert score.prediction_ml == pytest.approx(0.024)
    assert score.reference_ml == pytest.approx(0.016)
    assert score.volume_difference_ml == pytest.approx(0.008)
    assert score.ravd_percent == pytest.approx(50.0)
    assert score.outcome == "ok"


def test_pictures_are_scored_with_two_axes():
    prediction = box((9, 9), (2, 2), (5, 5))
    reference = box((9, 9), (2, 4), (5, 7))
    score = score_structure(prediction, reference, (1.0, 1.5))
    assert score.dice == pytest.approx(2 * 3 / 18)
    assert score.hd_mm == 3.0


def test_a_single_slice_is_measured_in_its_plane():
    rng = np.random.default_rng(0)
    prediction, reference = blob(rng)[12], blob(rng)[12]
    flat = score_structure(prediction, reference, (0.7, 0.8))
    thick = score_structure(prediction[..., None], reference[..., None], (0.7, 0.8, 5.0))
    assert [getattr(flat, name) for name in DISTANCES] == [getattr(thick, name) for name in DISTANCES]


@pytest.mark.parametrize(
    ("prediction", "reference", "expected", "outcome"),
    [
        (0, 0, (None, None, None, None, None), "both empty"),
        (1, 0, (0.0, 0.0, 0.0, None, 0.0), "false positive"),
        (0, 1, (0.0, 0.0, None, 0.0, 0.0), "missed"),
    ],
)
def test_empty_structures_score_null_or_zero_and_say_so(prediction, reference, expected, outcome):
    empty, full = np.zeros((5, 5, 5), bool), box((5, 5, 5), (1, 1, 1), (3, 3, 3))
    score = score_structure((empty, full)[prediction], (empty, full)[reference], (1, 1, 1))
    assert (score.dice, score.iou, score.precision, score.recall, score.surface_dice) == expected
    assert [getattr(score, name) for name in DISTANCES] == [None, None, None]
    assert score.outcome == outcome
    assert score.ravd_percent == (100.0 if reference else None)


def test_a_mask_that_fills_the_volume_has_no_border_and_null_distances():
    full = np.ones((4, 4, 4), bool)
    score = score_structure(full, full, (1, 1, 1))
    assert score.dice == 1.0
    assert score.surface_dice is None
    assert [getattr(score, name) for name in DISTANCES] == [None, None, None]


def test_surfaces_can_be_left_out():
    mask = box((5, 5, 5), (1, 1, 1), (3, 3, 3))
    score = score_structure(mask, mask, (1, 1, 1), surface=False)
    assert score.dice == 1.0
    assert score.surface_dice is None
    assert score.hd_mm is None


def test_a_distance_equal_to_the_tolerance_is_within_it_in_float32_too():
    spacing = (float(np.float32(0.1)),) * 3
    prediction, reference = box((9, 9, 9), (1, 1, 1), (2, 2, 2)), box((9, 9, 9), (4, 1, 1), (5, 2, 2))
    assert score_structure(prediction, reference, spacing, tolerance_mm=0.3).surface_dice == 1.0
    assert score_structure(prediction, reference, spacing, tolerance_mm=0.29).surface_dice == 0.0


@given(mask_pairs(), spacings, st.sampled_from([0.0, 1.0, 2.5]))
@settings(max_examples=150, deadline=None)
def test_cropped_and_naive_full_volume_scores_are_equal(pair, spacing, tolerance):
    score = score_structure(*pair, spacing, tolerance_mm=tolerance)
    expected = naive(*pair, spacing, tolerance)
    if expected is None:
        assert score.hd_mm is None
    else:
        assert {name: getattr(score, name) for name in expected} == pytest.approx(expected, rel=1e-9)


@given(mask_pairs(), spacings)
@settings(max_examples=60, deadline=None)
def test_exchanging_prediction_and_reference_exchanges_precision_and_recall_only(pair, spacing):
    forth, back = score_structure(*pair, spacing), score_structure(*pair[::-1], spacing)
    for name in ("dice", "iou", "surface_dice", *DISTANCES):
        assert getattr(forth, name) == pytest.approx(getattr(back, name)), name
    assert (forth.precision, forth.recall) == (back.recall, back.precision)
    assert forth.volume_difference_ml == -back.volume_difference_ml


@given(hnp.arrays(bool, shapes), spacings)
@settings(max_examples=60, deadline=None)
def test_a_mask_agrees_with_itself(mask, spacing):
    score = score_structure(mask, mask, spacing)
    assert score.dice == (1.0 if mask.any() else None)
    assert score.hd_mm in (0.0, None)
    assert score.assd_mm in (0.0, None)
    assert score.surface_dice in (1.0, None)
    assert score.volume_difference_ml == 0


@given(mask_pairs(), spacings, st.permutations([0, 1, 2]), st.lists(st.booleans(), min_size=3, max_size=3))
@settings(max_examples=60, deadline=None)
def test_the_order_and_direction_of_the_axes_do_not_matter(pair, spacing, order, flips):
    moved = [np.flip(mask.transpose(order), [axis for axis, flip in enumerate(flips) if flip]) for mask in pair]
    here = dataclasses.asdict(score_structure(*pair, spacing))
    there = dataclasses.asdict(score_structure(*moved, [spacing[axis] for axis in order]))
    assert there == pytest.approx(here)


@given(st.integers(0, 2), st.integers(1, 4), spacings)
@settings(max_examples=40, deadline=None)
def test_a_shifted_box_is_as_far_away_as_it_was_shifted(axis, steps, spacing):
    shift = np.eye(3, dtype=int)[axis] * steps
    reference = box((14, 14, 14), (2, 2, 2), (8, 8, 8))
    prediction = box((14, 14, 14), np.add((2, 2, 2), shift), np.add((8, 8, 8), shift))
    score = score_structure(prediction, reference, spacing)
    # the leading face has nothing nearer than a border voxel `steps` behind it
    assert score.hd_mm == pytest.approx(steps * spacing[axis])


@given(
    hnp.arrays(np.int16, (5, 4, 3), elements=st.sampled_from([-3, 0, 1, 2, 300])),
    hnp.arrays(np.int16, (5, 4, 3), elements=st.sampled_from([-3, 0, 1, 2, 300])),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_values_of_any_size_are_scored_as_their_own_masks_would_be(prediction, reference, fortran):
    values = {"a": (1,), "region": (1, 2), "big": (300,), "negative": (-3,), "zero": (0,), "absent": (7,)}
    spacing = (1.0, 2.0, 3.0)
    order = np.asfortranarray if fortran else np.ascontiguousarray
    scores = score_values(order(prediction), order(reference), values, spacing)
    assert list(scores) == list(values)
    for name, members in values.items():
        expected = score_structure(np.isin(prediction, members), np.isin(reference, members), spacing)
        assert dataclasses.asdict(scores[name]) == pytest.approx(dataclasses.asdict(expected))


def test_a_case_of_indices_has_one_score_per_foreground_label_in_order():
    labels = LabelMap.from_mapping({"background": 0, "liver": 10, "tumour": 20})
    reference = np.zeros((6, 6, 6), np.uint8)
    reference[1:4, 1:4, 1:4] = 1
    reference[2, 2, 2] = 2
    prediction = np.where(reference > 0, 1, 0).astype(np.uint8)
    scores = score_case(prediction, reference, labels, (1, 1, 1))
    assert list(scores) == ["liver", "tumour"]
    assert scores["liver"].dice == pytest.approx(2 * 26 / 53)
    assert scores["tumour"].outcome == "missed"


BESIDE = LabelMap.from_mapping({"background": 0, "a": 1, "b": 2, "c": 3, "d": 4})
BRATS = LabelMap.from_mapping({"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3, "ignore": 9})


@given(*[hnp.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3))] * 2)
@settings(max_examples=60, deadline=None)
def test_dice_per_label_is_the_dice_of_each_index(prediction, reference):
    expected = [score_structure(prediction == i, reference == i, (1, 1, 1), surface=False).dice for i in range(5)]
    assert dice_per_label(prediction, reference, BESIDE) == expected
    assert dice_per_label(np.asfortranarray(prediction), np.asfortranarray(reference), BESIDE) == expected
    assert dice_per_label(prediction[0], reference[0], BESIDE)[4] is None


@given(
    hnp.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3)),
    hnp.arrays(np.uint8, (4, 5, 3), elements=st.sampled_from([0, 1, 2, 3, 255])),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_nested_label_is_all_inside_of_it_and_ignored_voxels_count_for_nothing(prediction, reference, fortran):
    known = reference != 255
    order = np.asfortranarray if fortran else np.ascontiguousarray
    scores = score_case(order(prediction), order(reference), BRATS, (1.0, 2.0, 3.0))
    quick = dice_per_label(order(prediction), order(reference), BRATS)
    for name, indices in (("core", [1, 3]), ("whole", [1, 2, 3]), ("enhancing", [3])):
        masks = [np.isin(array, indices) & known for array in (prediction, reference)]
        expected = score_structure(*masks, (1.0, 2.0, 3.0))
        assert dataclasses.asdict(scores[name]) == pytest.approx(dataclasses.asdict(expected))
        assert quick[BRATS.names.index(name)] == pytest.approx(expected.dice)
    outside = score_structure((prediction == 0) & known, (reference == 0) & known, (1, 1, 1), surface=False)
    assert quick[0] == pytest.approx(outside.dice)


def test_what_is_predicted_where_the_truth_is_unknown_changes_no_score():
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:5, 2:5, 2:5], reference[:, :, 6:] = 3, 255
    nothing, something = np.where(reference == 255, 0, reference), np.where(reference == 255, 2, reference)
    scores = score_case(nothing, reference, BRATS, (1, 1, 1))
    assert score_case(something, reference, BRATS, (1, 1, 1)) == scores
    assert scores["whole"].dice == scores["enhancing"].dice == 1
    assert dice_per_label(something, reference, BRATS) == [1, 1, 1, 1]


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI warns of itself
@pytest.mark.parametrize("seed", range(4))
def test_monai_finds_the_same_where_the_definitions_agree(seed):
    import torch
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric, SurfaceDistanceMetric

    rng = np.random.default_rng(seed)
    prediction, reference = blob(rng), blob(rng)
    spacing = (0.8, 1.1, 2.5)
    score = score_structure(prediction, reference, spacing, tolerance_mm=1.5)
    pair = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)]
    assert float(DiceMetric()(*pair)) == pytest.approx(score.dice, abs=1e-6)
    for metric, expected in (
        (HausdorffDistanceMetric(include_background=True, percentile=95), score.hd95_mm),
        (HausdorffDistanceMetric(include_background=True), score.hd_mm),
        (SurfaceDistanceMetric(include_background=True, symmetric=True), score.assd_mm),
        (SurfaceDiceMetric(class_thresholds=[1.5], include_background=True), score.surface_dice),
    ):
        assert float(metric(*pair, spacing=spacing)) == pytest.approx(expected, rel=1e-5), type(metric).__name__


@pytest.mark.data
def test_the_published_values_of_the_chaos_challenge_are_reproduced():
    if not CHAOS.is_dir():
        pytest.skip("the CHAOS pair is not beside the checkout")
    import nibabel

    images = [nibabel.load(CHAOS / name) for name in ("chaos_sample_submission.nii.gz", "chaos_gt.nii.gz")]
    prediction, reference = (np.asarray(image.dataobj) for image in images)
    expected = json.loads((CHAOS / "expected.json").read_text())
    score = score_values(prediction, reference, {"liver": (1,)}, images[1].header.get_zooms())["liver"]
    assert round(score.dice, 3) == expected["DICE"]
    assert round(score.ravd_percent, 3) == expected["RAVD_percent"]
    assert round(score.assd_mm, 3) == expected["ASSD_mm"]
    assert round(score.hd_mm, 3) == expected["MSSD_mm"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (((3, 3, 3), (3, 3, 4), (1, 1, 1)), GeometryError, "3x3x3 voxels.*3x3x4"),
        (((3, 3, 3), (3, 3, 3), (1, 1)), GeometryError, "3 axes"),
        (((3, 3), (3, 3), (1, 0)), GeometryError, "positive"),
        (((3, 3), (3, 3), (1, float("nan"))), GeometryError, "positive"),
    ],
)
def test_grids_that_do_not_fit_are_refused(arguments, error, words):
    prediction, reference, spacing = arguments
    with pytest.raises(error, match=words):
        score_structure(np.zeros(prediction, bool), np.zeros(reference, bool), spacing)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_an_impossible_tolerance_is_refused(tolerance):
    mask = np.zeros((3, 3), bool)
    with pytest.raises(DataError, match="tolerance"):
        score_structure(mask, mask, (1, 1), tolerance_mm=tolerance)


def test_indices_outside_the_labels_are_refused():
    good, bad = np.zeros((3, 3), np.int16), np.full((3, 3), 4, np.int16)
    with pytest.raises(DataError, match="from 0 to 3, not from 4 to 4"):
        dice_per_label(good, bad, BRATS)
    with pytest.raises(DataError, match="from -4"):
        dice_per_label(-bad, good, BRATS)
    with pytest.raises(GeometryError):
        dice_per_label(good, good[:2], BRATS)
    unknown = np.full((3, 3), 255, np.int16)  # in a reference only
    assert dice_per_label(good, unknown, BRATS) == [None] * 4
    with pytest.raises(DataError, match="not from 255 to 255"):
        dice_per_label(unknown, good, BRATS)


def test_scores_are_plain_python_numbers():
    mask = box((5, 5, 5), (1, 1, 1), (3, 3, 3))
    score = score_structure(mask, mask, np.ones(3, np.float32))
    assert isinstance(score, StructureScore)
    assert all(value is None or type(value) is float for value in dataclasses.asdict(score).values())
