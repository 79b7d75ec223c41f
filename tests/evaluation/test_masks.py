"""Masks in DICOM are scored against each other and against files, each in its place, nothing resampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from medunet.errors import UsageError
from medunet.evaluation.folders import evaluate
from medunet.export.nifti import write_nifti_array
from medunet.io.read import read_volume
from medunet.io.volume import Source

SHAPE = (24, 24, 16)
LABELS = {"background": 0, "organ": 4, "core": 9}

Write = Callable[..., Path]


def box(*sides: tuple[int, int]) -> NDArray[np.bool_]:
    result = np.zeros(SHAPE, bool)
    result[tuple(slice(*side) for side in sides)] = True
    return result


TRUTH = {"Organ": box((3, 14), (5, 20), (2, 9)), "CORE": box((16, 20), (2, 8), (11, 14))}
GUESS = {"organ": box((4, 14), (5, 20), (4, 11)), "core": box((16, 20), (2, 8), (12, 13))}


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


EXPECTED = {"organ": dice(TRUTH["Organ"], GUESS["organ"]), "core": dice(TRUTH["CORE"], GUESS["core"])}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, write_study: Write) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "study", 1) / "SER0003"


@pytest.fixture
def draw(images: Path, draw_segments: Write, draw_contours: Write, tmp_path: Path) -> Write:
    """`draw("seg", folder, masks)` writes the masks of case a to a folder in some format."""

    def write(form: str, folder: str, masks: dict[str, Any], **changes: Any) -> Path:
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        if form == "nifti":
            values = np.select(list(masks.values()), [4, 9], 0).astype(np.uint8)
            path = target / "a_seg.nii.gz"
            write_nifti_array(values, read_volume(images).geometry, Source(path, "array"), path)
        elif form == "seg":
            draw_segments(images, target / "a_seg.dcm", masks, **changes)
        else:
            draw_contours(images, target / "a_rtstruct.dcm", masks, **changes)
        return target

    return write


@pytest.mark.parametrize("ours", ["nifti", "seg", "rtstruct"])
@pytest.mark.parametrize("theirs", ["nifti", "seg", "rtstruct"])
def test_the_format_changes_no_score(draw: Write, ours: str, theirs: str) -> None:
    result = evaluate(draw(ours, "p", GUESS), draw(theirs, "r", TRUTH), labels=LABELS)
    if ours == theirs == "rtstruct":
        (problem,) = result.problems
        assert "are contours, which lie on no grid. Turn one of them into a mask first" in problem.message
        return
    assert result.problems == ()
    found = {row.label: row.score for row in result.rows}
    assert {name: score.dice for name, score in found.items()} == pytest.approx(EXPECTED)
    assert found["organ"].reference_ml == pytest.approx(TRUTH["Organ"].sum() * 4.5 / 1000, rel=1e-4)


def test_dicom_without_labels_is_refused(draw: Write) -> None:
    with pytest.raises(UsageError, match=r"no labels are given\. Name them: --labels"):
        evaluate(draw("seg", "p", GUESS), draw("nifti", "r", TRUTH))


def test_what_no_label_names_is_noted_and_what_overlaps_too(draw: Write) -> None:
    both = {**TRUTH, "core": TRUTH["Organ"], "couch": box((0, 2), (0, 2), (0, 2))}
    del both["CORE"]
    result = evaluate(draw("nifti", "p", GUESS), draw("seg", "r", both), labels=LABELS)
    notes = " ".join(result.summary["notes"])
    assert "count as background (number of cases): couch (1)" in notes
    assert f"organ and core overlap in {TRUTH['Organ'].sum()} voxels of 1 case" in notes


def between(folder: Path) -> None:
    dataset = pydicom.dcmread(folder / "a_seg.dcm")
    for own in dataset.PerFrameFunctionalGroupsSequence:
        own.PlanePositionSequence[0].ImagePositionPatient[2] += 1
    dataset.save_as(folder / "a_seg.dcm")


def test_nothing_is_resampled(draw: Write) -> None:
    prediction = draw("seg", "p", GUESS)
    between(prediction)
    for reference in (draw("nifti", "r", TRUTH), draw("seg", "s", TRUTH)):
        (problem,) = evaluate(prediction, reference, labels=LABELS).problems
        assert "It is not resampled here" in problem.message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PatientID": "other"}, "belong to different patients"),
        ({"FrameOfReferenceUID": "1.2.3"}, "lie in different frames of reference"),
    ],
)
def test_objects_of_different_scans_are_not_compared(draw: Write, changes: dict[str, str], reason: str) -> None:
    result = evaluate(draw("seg", "p", GUESS, **changes), draw("seg", "r", TRUTH), labels=LABELS)
    assert reason in result.problems[0].message


def test_objects_that_lie_far_apart_are_not_put_on_one_grid(draw: Write) -> None:
    reference = draw("seg", "r", TRUTH)
    dataset = pydicom.dcmread(reference / "a_seg.dcm")
    for own in dataset.PerFrameFunctionalGroupsSequence:
        own.PlanePositionSequence[0].ImagePositionPatient[0] += 960_000
        own.PlanePositionSequence[0].ImagePositionPatient[1] += 960_000
    dataset.save_as(reference / "a_seg.dcm")
    result = evaluate(draw("seg", "p", GUESS), reference, labels=LABELS)
    assert "lie too far apart to belong to one image" in result.problems[0].message


def test_labels_of_other_names_are_told_with_both(draw: Write) -> None:
    result = evaluate(draw("seg", "p", GUESS), draw("nifti", "r", TRUTH), labels={"spleen": 4})
    assert "its structures are organ, core, the labels are spleen" in result.problems[0].message
