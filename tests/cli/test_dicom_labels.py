"""From an archive's export to scores through the real command line, and the ways in which such a data set is bad."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medunet.config.load import dump_config
from medunet.engines import device

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def studies(
    tmp_path_factory: pytest.TempPathFactory, write_study: Write, draw_segments: Write, draw_contours: Write, blob: Any
) -> Path:
    """Four studies, CT and localizer and label in one folder each. Read it only."""
    root = tmp_path_factory.mktemp("studies") / "export"
    for seed in range(4):
        study = write_study(root / f"P{seed}", seed)
        _, mask = blob(seed)
        masks = {"Organ": mask > 0, "CORE": mask == 205, "Couch": np.zeros(mask.shape, bool)}
        masks["Couch"][:2, :2, 1] = True
        (draw_contours if seed == 1 else draw_segments)(study / "SER0003", study / "label", masks)
    return root


@pytest.fixture
def copy(studies: Path, tmp_path: Path) -> Path:
    """The studies, to be spoiled."""
    return Path(shutil.copytree(studies, tmp_path / "export"))


@pytest.fixture
def train(cli: Any, make_config: Callable[..., Any], tmp_path: Path) -> Callable[[Path], Any]:
    """Trains one step on a data set."""
    config = make_config(Path("none"), {"data.format": "auto", "data.folds": 4, "train.epochs": 1})
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))

    def run(data: Path) -> Any:
        options = ("--set", "train.iterations_per_epoch=2", "-d", "cpu")
        return cli("train", "--config", file, "--data", data, "--out", tmp_path / "run", *options)

    return run


def test_studies_are_trained_on_predicted_and_scored(
    cli: Any, train: Any, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_has_bf16", lambda: False)  # predict in float32, as the training does here
    done = train(studies)
    assert done.code == 0, done.err
    assert done.err.count("count as background (number of cases): Couch (4).") == 1
    assert done.err.count("organ and core overlap in") == 1
    run, scores = tmp_path / "run", tmp_path / "scores"
    case = json.loads((run / "splits.json").read_text())[0]["val"][0]
    out = tmp_path / f"{case}_seg.dcm"
    assert cli("predict", "-m", run, "-i", studies / case, "-o", out, "-d", "cpu").code == 0
    for mask in (run / "validation" / f"{case}_seg.nii.gz", out):
        done = cli("evaluate", "-p", mask, "-r", studies / case / "label", "-o", scores, "--labels", run)
        assert done.code == 0, done.err
        assert dice(scores) == pytest.approx(dice(run / "validation"), abs=1e-5)


def dice(folder: Path) -> dict[str, float]:
    """Of the only case."""
    with open(folder / "per_case.csv", newline="") as handle:
        return {row["label"]: float(row["dice"]) for row in csv.DictReader(handle)}


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(label: Path) -> None:
        dataset = pydicom.dcmread(label)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(label)

    return change


def renamed(label: Path) -> None:
    dataset = pydicom.dcmread(label)
    for number, segment in enumerate(dataset.SegmentSequence):
        segment.SegmentLabel = f"thing {number}"
    dataset.save_as(label)


def without_frames(label: Path) -> None:
    dataset = pydicom.dcmread(label)
    dataset.NumberOfFrames, dataset.PerFrameFunctionalGroupsSequence, dataset.PixelData = 0, [], b""
    dataset.save_as(label)


def beside(label: Path) -> None:
    dataset = pydicom.dcmread(label)
    for own in dataset.PerFrameFunctionalGroupsSequence:
        own.PlanePositionSequence[0].ImagePositionPatient[2] += 500
    dataset.save_as(label)


def without_contours(label: Path) -> None:
    dataset = pydicom.dcmread(label.parents[1] / "P1" / "label")
    for region in dataset.ROIContourSequence:
        del region.ContourSequence
    dataset.PatientID = "DEMO0002"
    dataset.save_as(label)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "another patient": (edit(PatientID="else"), "P2: label: label belongs to another patient than the series"),
    "another frame": (edit(FrameOfReferenceUID="1.2.3"), "P2: label: label lies in another frame of reference"),
    "truncated": (lambda label: label.write_bytes(label.read_bytes()[:-300]), "P2: label: "),
    "other names": (renamed, "its structures are thing 0, thing 1, thing 2, the labels are organ, core."),
    "empty": (without_frames, "P2: label: "),
    "no slice": (beside, "P2: label: No frame of label lies within the image."),
    "no contours": (without_contours, "P2: label: "),
    "two": (lambda label: shutil.copy(label, label.with_name("more")), "P2: label: it holds 2 segmentations"),
    "gone": (lambda label: label.unlink(), "P2: label: there is no mask"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_label_is_told_in_a_sentence(train: Any, copy: Path, tmp_path: Path, kind: str) -> None:
    spoil, reason = BAD[kind]
    spoil(copy / "P2" / "label")
    done = train(copy)
    assert done.code == 1
    assert reason in done.err
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith("  P2: ")]) == 1
    assert "read as dicom" in done.err
    assert not (tmp_path / "run" / "model").exists()
