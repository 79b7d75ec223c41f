"""Masks on disk against masks on disk."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
from PIL import Image

import medunet
from medunet.errors import DatasetError, OutputError, UsageError
from medunet.evaluation.folders import evaluate
from medunet.evaluation.summary import METRICS

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
LABELS = {"background": 0, "liver": 1, "tumour": 2}


def mask(tumour=True):
    array = np.zeros((8, 9, 7), np.uint8)
    array[2:6, 2:6, 2:5] = 1
    if tumour:
        array[3, 3, 3] = 2
    return array


def write(path, array, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


@pytest.fixture
def study(tmp_path):
    """References a, b, c; predictions: a perfect, b misses the tumour, c false tumour."""
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    for case, predicted, true in (("a", True, True), ("b", False, True), ("c", True, False)):
        write(predictions / f"{case}_seg.nii.gz", mask(predicted))
        write(references / f"{case}.nii.gz", mask(true))
    return predictions, references


def by_case(evaluation, label):
    return {row.case: row for row in evaluation.rows if row.label == label}


def test_every_structure_of_every_case_has_a_row(study):
    evaluation = evaluate(*study, labels=LABELS)
    assert [(row.case, row.label, row.status) for row in evaluation.rows] == [
        ("a", "liver", "ok"),
        ("a", "tumour", "ok"),
        ("b", "liver", "ok"),
        ("b", "tumour", "missed"),
        ("c", "liver", "ok"),
        ("c", "tumour", "false positive"),
    ]
    assert evaluation.problems == ()
    assert evaluation.scored == 3


def test_the_summary_counts_what_was_missed_and_invented(study):
    summary = evaluate(*study, labels=LABELS).summary
    tumour = summary["labels"]["tumour"]
    assert (tumour["n_cases"], tumour["n_missed"], tumour["n_false_positive"], tumour["n_both_empty"]) == (3, 1, 1, 0)
    assert tumour["metrics"]["dice"] == {
        "n": 3,
        "mean": pytest.approx(1 / 3),
        "std": pytest.approx(np.std([1, 0, 0], ddof=1)),
        "median": 0.0,
        "min": 0.0,
        "max": 1.0,
    }
    assert tumour["metrics"]["hd95_mm"] == {"n": 1, "mean": 0.0, "std": None, "median": 0.0, "min": 0.0, "max": 0.0}
    liver = summary["labels"]["liver"]["metrics"]["dice"]["mean"]
    assert summary["mean_foreground_dice"] == pytest.approx((liver + 1 / 3) / 2)


def test_the_files_hold_the_rows_and_no_nan(study, tmp_path):
    evaluate(*study, tmp_path / "out", labels=LABELS)
    with open(tmp_path / "out" / "per_case.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["case", "label", "status", *METRICS, "message"]
    missed = next(row for row in rows if row["status"] == "missed")
    assert (missed["dice"], missed["precision"], missed["hd95_mm"], missed["ravd_percent"]) == ("0", "", "", "100")
    text = (tmp_path / "out" / "summary.json").read_text()
    summary = json.loads(text)
    assert "NaN" not in text
    assert summary["settings"]["labels"] == {"liver": [1], "tumour": [2]}
    assert summary["settings"]["tolerance_mm"] == 1.0
    assert set(METRICS) <= set(summary["definitions"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["per_case.csv", "summary.json"]


def test_without_out_nothing_is_written(study, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    evaluate(*study, labels=LABELS)
    assert sorted(tmp_path.rglob("*")) == before


def test_it_is_a_public_name(study):
    assert medunet.evaluate(*map(str, study), labels="liver=1,tumour=2").scored == 3


def test_without_labels_every_value_is_a_structure_in_every_case(study):
    evaluation = evaluate(*study)
    assert {row.label for row in evaluation.rows} == {"label_1", "label_2"}
    assert by_case(evaluation, "label_2")["c"].status == "false positive"


def test_without_labels_a_value_that_one_case_lacks_counts_there_as_both_empty(study):
    for folder in study:
        write(folder / "d.nii.gz", mask(tumour=False))
    evaluation = evaluate(*study)
    assert by_case(evaluation, "label_2")["d"].status == "both empty"
    assert by_case(evaluation, "label_2")["d"].score.dice is None
    assert evaluation.summary["labels"]["label_2"]["n_both_empty"] == 1
    assert evaluation.summary["labels"]["label_2"]["metrics"]["dice"]["n"] == 3


def test_values_may_be_merged(study):
    evaluation = evaluate(*study, labels="whole=1+2")
    assert [row.score.dice for row in evaluation.rows] == [1.0, 1.0, 1.0]


def test_values_outside_a_choice_count_as_background_with_a_note(study):
    evaluation = evaluate(*study, labels="liver=1")
    assert evaluation.problems == ()
    assert evaluation.summary["notes"] == ["No label names value 2 (3 of 3 cases): counted as background."]
    assert by_case(evaluation, "liver")["b"].score.dice == pytest.approx(2 * 47 / 95)


def test_values_outside_a_complete_list_fail_their_case(study):
    write(study[1] / "a.nii.gz", mask() * 7)
    evaluation = evaluate(*study, labels=LABELS)
    (problem,) = evaluation.problems
    assert (problem.case, problem.label, problem.status) == ("a", "", "failed")
    assert "values 7, 14, which no label names" in problem.message
    assert evaluation.scored == 2
    assert evaluation.summary["cases"]["failed"][0]["case"] == "a"


def test_nested_structures_are_scored_with_what_lies_inside(study):
    evaluation = evaluate(*study, labels="whole=1+2,core=2")
    whole, core = by_case(evaluation, "whole"), by_case(evaluation, "core")
    assert [row.score.dice for row in whole.values()] == [1, 1, 1]
    assert [row.status for row in core.values()] == ["ok", "missed", "false positive"]
    as_mapping = evaluate(*study, labels={"background": 0, "whole": [1, 2], "core": 2})
    assert as_mapping.rows == evaluation.rows


def test_ignored_voxels_of_the_reference_are_neither_right_nor_wrong(study):
    predictions, references = study
    reference = mask()
    reference[3:5, 3:5, 3:5], reference[6:] = 255, 255
    write(references / "a.nii.gz", reference)
    prediction = mask()
    prediction[3:5, 3:5, 3:5], prediction[6:] = 0, 2  # all of it where nobody knows
    write(predictions / "a_seg.nii.gz", prediction)
    evaluation = evaluate(*study, labels={**LABELS, "ignore": 255})
    assert by_case(evaluation, "liver")["a"].score.dice == 1
    assert by_case(evaluation, "tumour")["a"].status == "both empty"
    assert evaluation.summary["settings"]["ignore"] == [255]
    assert evaluation.summary["notes"] == ["Voxels whose reference is value 255 were left out (1 of 3 cases)."]
    without = evaluate(*study, labels="liver=1,tumour=2")
    assert by_case(without, "tumour")["a"].status == "false positive"


def test_structures_that_a_case_was_not_annotated_for_have_no_row(study, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("labels: {background: 0, liver: 1, tumour: 2}\ndata: {annotated: {c: [liver]}}\n")
    evaluation = evaluate(*study, labels=config)
    assert list(by_case(evaluation, "tumour")) == ["a", "b"]
    assert evaluation.summary["labels"]["tumour"]["n_cases"] == 2
    assert evaluation.summary["labels"]["tumour"]["n_false_positive"] == 0
    assert "1 of 3 cases were scored for those structures only" in evaluation.summary["notes"][0]


def test_a_missing_prediction_is_a_row_and_no_score(study, tmp_path):
    write(study[1] / "d.nii.gz", mask())
    evaluation = evaluate(*study, tmp_path / "out", labels=LABELS)
    assert [(row.case, row.status) for row in evaluation.problems] == [("d", "missing prediction")]
    assert evaluation.summary["cases"]["missing_prediction"] == ["d"]
    assert evaluation.summary["labels"]["liver"]["n_cases"] == 3
    assert "d,,missing prediction," in (tmp_path / "out" / "per_case.csv").read_text()


def test_a_prediction_without_reference_is_listed(study):
    write(study[0] / "x.nii.gz", mask())
    evaluation = evaluate(*study, labels=LABELS)
    assert evaluation.summary["cases"]["without_reference"] == ["x"]
    assert evaluation.problems == ()


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 1, 0), (0, 1, 2)])
@pytest.mark.parametrize("flip", [0, 2])
def test_the_same_voxels_in_another_axis_order_are_scored(study, axes, flip):
    image = nibabel.load(study[1] / "a.nii.gz")
    codes = np.array([[axis, 1] for axis in axes])
    codes[flip, 1] = -1
    moved = image.as_reoriented(codes)
    nibabel.save(moved, study[0] / "a_seg.nii.gz")
    score = by_case(evaluate(*study, labels=LABELS), "tumour")["a"].score
    assert score.dice == 1.0
    assert score.hd_mm == 0.0


@pytest.mark.parametrize(
    ("array", "affine", "words"),
    [
        (mask()[1:], AFFINE, "shape 7x9x7 instead of 8x9x7"),
        (mask(), np.diag([1.0, 2.0, 2.0, 1.0]), "spacing 1 x 2 x 2 mm instead of 1 x 2 x 3 mm"),
        (mask(), np.diag([-1.0, 2.0, 3.0, 1.0]), "orientation LAS instead of RAS"),
        (mask(), AFFINE + np.eye(4, k=3) * 5, "5.00 mm away"),
    ],
)
def test_another_grid_fails_the_case_instead_of_scoring_it(study, array, affine, words):
    write(study[0] / "a_seg.nii.gz", array, affine)
    evaluation = evaluate(*study, labels=LABELS)
    assert [row.case for row in evaluation.problems] == ["a"]
    assert words in evaluation.problems[0].message
    assert evaluation.scored == 2


@pytest.mark.parametrize(
    "content", [b"this is text, not NIfTI" * 20, b"", b"\x1f\x8b broken gzip"], ids=["text", "empty", "gzip"]
)
def test_a_damaged_file_fails_its_case_only(study, content):
    (study[0] / "b_seg.nii.gz").write_bytes(content)
    evaluation = evaluate(*study, labels=LABELS)
    assert [row.case for row in evaluation.problems] == ["b"]
    assert "b_seg.nii.gz cannot be read" in evaluation.problems[0].message
    assert evaluation.scored == 2


def test_fractions_are_no_mask(study):
    write(study[0] / "a_seg.nii.gz", mask().astype(np.float32) * 0.5)
    assert "fractions" in evaluate(*study, labels=LABELS).problems[0].message


def test_an_image_in_the_place_of_a_mask_is_noticed(study):
    write(study[1] / "a.nii.gz", np.arange(8 * 9 * 7, dtype=np.int16).reshape(8, 9, 7))
    (problem,) = evaluate(*study).problems
    assert "504 different values" in problem.message


def test_masks_without_any_structure_need_labels(study):
    for folder in study:
        for path in folder.iterdir():
            write(path, np.zeros((8, 9, 7), np.uint8))
    with pytest.raises(DatasetError, match="any value but 0"):
        evaluate(*study)
    evaluation = evaluate(*study, labels=LABELS)
    assert evaluation.summary["mean_foreground_dice"] is None
    assert evaluation.summary["labels"]["liver"]["n_both_empty"] == 3


def test_pictures_are_scored_in_pixels(tmp_path):
    from PIL import Image

    square = np.zeros((12, 10), np.uint8)
    square[3:7, 3:7] = 255
    for folder, array in (("p", np.roll(square, 1, axis=1)), ("r", square)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "cell.png")
    evaluation = evaluate(tmp_path / "p", tmp_path / "r")
    (row,) = evaluation.rows
    assert (row.label, row.score.dice, row.score.hd_mm) == ("label_255", 0.75, 1.0)


def test_the_tolerance_reaches_the_surface_dice(study):
    write(study[0] / "a_seg.nii.gz", np.roll(mask(), 1, axis=0))
    strict, lax = (
        by_case(evaluate(*study, labels=LABELS, tolerance_mm=mm), "liver")["a"].score.surface_dice for mm in (0.5, 1)
    )
    assert strict < 1.0
    assert lax == 1.0


def test_progress_is_told_after_every_case(study):
    told = []
    evaluate(*study, labels=LABELS, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_out_that_is_a_file_is_refused_before_any_work(study, tmp_path):
    (tmp_path / "out").write_text("mine")
    told = []
    with pytest.raises(OutputError, match="out cannot be written"):
        evaluate(*study, tmp_path / "out", progress=lambda *_: told.append(1))
    assert told == []
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_an_impossible_tolerance_is_a_usage_error(study, tolerance):
    with pytest.raises(UsageError, match="tolerance"):
        evaluate(*study, tolerance_mm=tolerance)


def test_objects_are_told_apart_where_asked(tmp_path):
    for folder in ("pred", "ref"):
        (tmp_path / folder).mkdir()
    cells = np.full((20, 30), 255, np.uint8)
    cells[:, [10, 20]] = 0
    Image.fromarray(cells).save(tmp_path / "ref" / "a.png")
    cells[5, 10] = 255  # a hole in a membrane
    Image.fromarray(cells).save(tmp_path / "pred" / "a.png")
    result = evaluate(
        tmp_path / "pred", tmp_path / "ref", tmp_path / "out", labels="cell=255,membrane=0", objects=["cell"]
    )
    metrics = result.summary["labels"]["cell"]["metrics"]
    assert metrics["pixel_error"]["mean"] == pytest.approx(1 / 600)
    assert metrics["rand_split"]["mean"] == pytest.approx(1.0)
    assert metrics["rand_merge"]["mean"] == pytest.approx(2 / 3, abs=0.15)
    assert "rand_f" not in result.summary["labels"]["membrane"]["metrics"]
    rows = list(csv.DictReader((tmp_path / "out" / "per_case.csv").read_text().splitlines()))
    assert float(rows[0]["rand_f"]) == pytest.approx(metrics["rand_f"]["mean"], rel=1e-4)
    assert rows[1]["rand_f"] == ""


@pytest.mark.parametrize("labels", [None, "cell=255"])
def test_objects_of_a_structure_that_is_not_named_are_refused(study, labels):
    with pytest.raises(UsageError, match='objects of "nucleus" cannot be scored'):
        evaluate(*study, labels=labels, objects=["nucleus"])


def picture_study(tmp_path, reference, config):
    """A predicted PNG with a quarter of the pixels at 255, its reference, and a config beside them."""
    truth = np.zeros((24, 24), np.uint8)
    truth[:12, :12] = 255
    for folder in ("predictions", "references"):
        (tmp_path / folder).mkdir()
    Image.fromarray(truth).save(tmp_path / "predictions" / "x_mask.png")
    reference(truth, tmp_path / "references")
    (tmp_path / "config.yaml").write_text(config)
    return evaluate(tmp_path / "predictions", tmp_path / "references", labels=tmp_path / "config.yaml")


def test_colours_of_references_mean_what_the_config_says(tmp_path):
    def write_colours(truth, folder):
        colours = np.where(truth[..., None] > 0, np.uint8((128, 64, 128)), np.uint8((0, 0, 0)))
        Image.fromarray(colours).save(folder / "x.png")

    config = "labels: {background: 0, road: 255}\n"
    config += 'data: {colours: {background: [0, 0, 0], road: "#804080"}}\n'
    found = picture_study(tmp_path, write_colours, config)
    assert found.summary["mean_foreground_dice"] == 1.0


def test_smoothed_edges_of_a_reference_go_to_the_nearer_value_and_are_told(tmp_path):
    def write_smoothed(truth, folder):
        smooth = truth.copy()
        smooth[11, :12], smooth[12, :12] = 200, 40
        Image.fromarray(smooth).save(folder / "x.png")

    found = picture_study(tmp_path, write_smoothed, "labels: {background: 0, cell: 255}\n")
    assert found.summary["mean_foreground_dice"] == 1.0
    assert any("Smoothed edges" in note for note in found.summary["notes"])


def test_colours_of_the_config_that_cannot_be_read_are_a_sentence(tmp_path):
    config = "labels: {background: 0, cell: 255}\ndata: {colours: {cell: red}}\n"
    with pytest.raises(UsageError, match=r"data\.colours"):
        picture_study(tmp_path, lambda *_: None, config)
