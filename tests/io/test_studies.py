"""Data sets of DICOM: studies as an archive exports them, plain folders, tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medunet.io.check import check_cases
from medunet.io.describe.path import describe
from medunet.io.manifest import detect, read_manifest, survey
from medunet.labels import LabelMap

Write = Callable[..., Path]
LABELS = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205})


@pytest.fixture(scope="module")
def drawn(
    write_study: Write, draw_segments: Write, draw_contours: Write, blob: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Patients 1 and 2 with a study each, patient 3 with two; one of the labels is a structure set."""
    root = tmp_path_factory.mktemp("studies") / "export"
    for place, seed in (("P1", 1), ("P2/ST0", 2), ("P3/ST0", 3), ("P3/ST1", 4)):
        study = write_study(root / place, seed)
        _, mask = blob(seed)
        (study / "SER9").mkdir()
        draw = draw_contours if seed == 2 else draw_segments
        draw(study / "SER0003", study / "SER9" / "IM0", {"Organ": mask > 0, "Core": mask == 205}, PatientID=place[:2])
        for file in (study / "SER0003").iterdir():
            dataset = pydicom.dcmread(file)
            dataset.PatientID = place[:2]
            dataset.save_as(file)
    (root / "notes").mkdir()
    (root / "readme.txt").write_text("hello")
    return root


@pytest.fixture
def export(drawn: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(drawn, tmp_path / "export"))


def test_studies_are_cases_and_patients_groups(export: Path) -> None:
    assert detect(export) == ("dicom", export)
    manifest = read_manifest(export, log_notes=False)
    assert manifest.format == "dicom"
    assert [case.id for case in manifest] == ["P1", "P2", "P3_ST0", "P3_ST1"]
    groups = [case.group for case in manifest]
    assert groups[2] == groups[3]
    assert len(set(groups)) == 3
    assert not any("P1" in str(group) for group in groups)
    assert manifest.cases[3].label == export / "P3" / "ST1" / "SER9" / "IM0"
    assert manifest.notes == ("notes holds nothing of DICOM and was left out.",)


def test_masks_are_those_that_were_drawn(export: Path, blob: Any) -> None:
    found = check_cases(read_manifest(export, log_notes=False).cases, LABELS, channels=1)
    for statistics, seed in zip(found, (1, 2, 3, 4), strict=True):
        _, mask = blob(seed)
        assert statistics.voxels["core"] == np.count_nonzero(mask == 205)
        assert statistics.voxels["organ"] == np.count_nonzero(mask == 4)
        assert statistics.sha256


def test_info_lists_the_structures(export: Path) -> None:
    found = describe(export)
    assert found.healthy
    assert found.facts["format"] == "dicom"
    assert found.facts["structures"] == [{"name": "Core", "cases": 4}, {"name": "Organ", "cases": 4}]
    assert found.facts["groups"] == 3


def test_one_study_is_no_data_set(export: Path) -> None:
    assert detect(export / "P1") is None
    assert detect(export / "P2") is None
    assert describe(export / "P1").kind == "dicom"


def test_several_labels_of_a_study_are_told(export: Path) -> None:
    shutil.copy(export / "P1" / "SER9" / "IM0", export / "P1" / "SER9" / "IM1")
    _, problems = survey(export)
    (problem,) = problems
    assert str(problem).startswith(
        "P1: label: it holds 2 segmentations or structure sets (SER9/IM0, SER9/IM1), and one is needed."
    )


def test_a_study_without_a_label_is_told(export: Path) -> None:
    (export / "P1" / "SER9" / "IM0").unlink()
    _, problems = survey(export)
    assert [str(problem) for problem in problems] == [f"P1: label: there is no mask for {export / 'P1'}."]


def test_patients_who_are_all_called_the_same_are_no_group(export: Path) -> None:
    for label in export.rglob("IM0"):
        dataset = pydicom.dcmread(label)
        dataset.PatientID = "ANON"
        dataset.save_as(label)
    manifest = read_manifest(export, log_notes=False)
    assert {case.group for case in manifest} == {None}
    assert "All cases state the same Patient ID; each is taken for a patient of its own." in manifest.notes


def test_a_label_that_states_no_patient_is_a_group_of_its_own(export: Path) -> None:
    label = export / "P1" / "SER9" / "IM0"
    dataset = pydicom.dcmread(label)
    dataset.PatientID = ""
    dataset.save_as(label)
    groups = [case.group for case in read_manifest(export, log_notes=False)]
    assert groups[0] == "case P1"


def test_plain_folders_and_tables_take_dicom_too(export: Path, tmp_path: Path) -> None:
    root = tmp_path / "plain"
    (root / "labels" / "b.2").mkdir(parents=True)
    for name, place in (("a", "P1"), ("b.2", "P2/ST0"), ("c", "P3/ST0")):
        shutil.copytree(export / place / "SER0003", root / "images" / name)
    shutil.copy(export / "P1/SER9/IM0", root / "labels" / "a_seg.dcm")
    shutil.copy(export / "P2/ST0/SER9/IM0", root / "labels" / "b.2" / "contours")
    shutil.copy(export / "P3/ST0/SER9/IM0", root / "labels" / "c")
    for folder in ("images", "labels"):
        (root / folder / "old.zip").write_bytes(b"")
    expected = {"a", "b.2", "c"}
    manifest = read_manifest(root, log_notes=False)
    assert manifest.format == "folders"
    assert {case.id for case in manifest} == expected
    assert [sorted(entry.voxels) for entry in check_cases(manifest.cases, LABELS, channels=1)] == [
        ["background", "core", "organ"]
    ] * 3
    table = "id,image,label\n" + "".join(f"{name},images/{name},labels/{name}\n" for name in ("b.2", "c"))
    (root / "cases.csv").write_text(table + "a,images/a,labels/a_seg.dcm\n")
    listed = read_manifest(root / "cases.csv", log_notes=False)
    assert {(case.id, case.label) for case in listed} == {(case.id, case.label) for case in manifest}


def test_the_folder_of_a_study_is_image_and_label_in_one(export: Path, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(f"image,label\n{export / 'P1'},{export / 'P1'}\n")
    (case,) = read_manifest(tmp_path / "cases.csv", log_notes=False)
    assert check_cases([case], LABELS, channels=1)[0].voxels["core"] > 0


def test_a_folder_that_holds_no_label_is_told(export: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "cases.csv").write_text(f"id,image,label\na,{export / 'P1'},nothing\n")
    manifest = read_manifest(tmp_path / "cases.csv", log_notes=False)
    with pytest.raises(Exception, match="nothing holds no DICOM segmentation or RT structure set") as caught:
        check_cases(manifest.cases, LABELS, channels=1)
    assert [problem.where for problem in caught.value.problems] == ["a"]
