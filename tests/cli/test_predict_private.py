"""Nothing of a patient in what is printed, logged or reported, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.geometry import Geometry
from medunet.io.dicom import scan

LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
PERSONAL = {
    "PatientName": "Quixote^Dulcinea",
    "PatientID": "PIDXX4711",
    "AccessionNumber": "ACCZZ0815",
    "PatientBirthDate": "19230405",
    "StudyDescription": "TelltaleStudy",
    "ReferringPhysicianName": "Sancho^Panza",
    "InstitutionName": "TelltaleHospital",
    "PatientComments": "TelltaleComment",
    "OtherPatientIDs": "OPIDYY99",
}
TELLTALES = ("Quixote", "Dulcinea", "PIDXX4711", "ACCZZ0815", "19230405", "Sancho", "Telltale", "OPIDYY99")


@pytest.fixture
def export(tiny_dataset: Path, tmp_path: Path) -> Path:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    values, grid = np.asarray(image.dataobj), Geometry(image.shape, (1.5, 1.5, 2.0), (5.0, -3.0, 9.0), LPS)
    folder = write_ct_export(values, grid, tmp_path / "bed7", description="Abdomen 1.0")
    edit(folder, lambda dataset: [setattr(dataset, keyword, value) for keyword, value in PERSONAL.items()])
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: pydicom.dcmread(path).get("ImagePositionPatient", [0, 0, 0])[2])


def edit(folder: Path, change: Callable[[Dataset], object]) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            dataset = pydicom.dcmread(path)
            change(dataset)
            dataset.save_as(path)


def whole(_: Path) -> None:
    """As the scanner left it."""


def missing_slice(export: Path) -> None:
    files(export / CT_FOLDER)[5].unlink()


def several_series(export: Path) -> None:
    shutil.copytree(export / CT_FOLDER, export / "again")
    edit(
        export / "again",
        lambda d: [
            setattr(d, "SeriesInstanceUID", "1.2.840.99.1"),
            setattr(d, "SOPInstanceUID", generate_uid()),
        ],
    )


def several_volumes(export: Path) -> None:
    edit(export / CT_FOLDER, lambda d: setattr(d, "TemporalPositionIdentifier", 1))
    shutil.copytree(export / CT_FOLDER, export / "again")
    edit(
        export / "again",
        lambda d: [setattr(d, "TemporalPositionIdentifier", 2), setattr(d, "SOPInstanceUID", generate_uid())],
    )


def truncated(export: Path) -> None:
    first, second, *_ = files(export / CT_FOLDER)
    first.write_bytes(first.read_bytes()[:-50])
    raw = second.read_bytes()
    second.write_bytes(raw[: raw.index(b"Quixote") + 9])


def wrong_vr_of_the_name(export: Path) -> None:
    for number, path in enumerate(files(export / CT_FOLDER)):
        vr = (b"DS", b"IS", b"FD", b"SQ", b"UI", b"US", b"ZZ", b"DA")[number % 8]
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"\x10\x00\x10\x00PN", b"\x10\x00\x10\x00" + vr))


def name_in_place_of_numbers(export: Path) -> None:
    """As a header whose elements slipped: the name where the position should be."""
    for number, path in enumerate(files(export / CT_FOLDER)):
        raw = path.read_bytes()
        tag = (b"\x20\x00\x32\x00DS", b"\x28\x00\x30\x00DS", b"\x28\x00\x52\x10DS")[number % 3]
        at = raw.index(tag)
        (length,) = struct.unpack("<H", raw[at + 6 : at + 8])
        value = b"Quixote^Dulcinea"
        path.write_bytes(raw[: at + 6] + struct.pack("<H", len(value)) + value + raw[at + 8 + length :])


def undecodable(export: Path) -> None:
    """In a transfer syntax that nobody knows."""
    for path in files(export / CT_FOLDER):
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0"))


MODES = [
    *(whole, missing_slice, several_series, several_volumes, truncated),
    *(wrong_vr_of_the_name, name_in_place_of_numbers, undecodable),
]


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
def test_no_output_has_anything_of_the_patient(
    export: Path, tmp_path: Path, tiny_model: Path, cli: Callable[..., Any], caplog: Any, mode: Callable[[Path], None]
) -> None:
    mode(export)
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    told = [
        cli("-v", "info", export),
        cli("-v", "info", export, "--json"),
        cli("-v", "predict", "-m", tiny_model, "-i", export, "-o", out, "-d", "cpu"),
        cli("-v", "convert", export, "-o", tmp_path / "image.nii.gz"),
    ]
    written = [path.name for path in (*out.rglob("*"), *tmp_path.glob("image*"))]
    report = (out / "predict.json").read_text()
    everything = "\n".join([*(outcome.out + outcome.err for outcome in told), *written, report, caplog.text])
    assert "bed7" in report
    assert [telltale for telltale in TELLTALES if telltale in everything] == []
    uids = {uid for series in scan(export).series for uid in (series.uid, series.study_uid)}
    assert [uid for uid in uids if uid and uid in report] == []


def test_predict_json_names_study_and_series_by_hashes(
    export: Path, tmp_path: Path, tiny_model: Path, cli: Callable[..., Any]
) -> None:
    several_series(export)
    found = next(series for series in scan(export).series if series.uid != "1.2.840.99.1" and series.plausible)
    command = ("predict", "-m", tiny_model, "-i", export, "-d", "cpu", "--series", found.id)
    assert cli(*command, "-o", tmp_path / "out").code == 0
    (case,) = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert (case["study"], case["series"], case["volume"]) == (found.study_id, found.id, None)
    assert case["identifiers"] == {}
    assert cli(*command, "-o", tmp_path / "clear", "--show-identifiers").code == 0
    (case,) = json.loads((tmp_path / "clear" / "predict.json").read_text())["cases"]
    wanted = {"study_uid": found.study_uid, "series_uid": found.uid, "patient_id": "PIDXX4711"}
    assert case["identifiers"] == wanted


def test_the_terminal_lists_uids_and_the_report_their_hashes(
    export: Path, tmp_path: Path, tiny_model: Path, cli: Callable[..., Any]
) -> None:
    several_series(export)
    outcome = cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "out", "-d", "cpu")
    uids = {series.uid: series.id for series in scan(export).series if series.plausible}
    (case,) = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert len(uids) == 2
    for uid, short in uids.items():
        assert uid in outcome.err
        assert uid not in json.dumps(case)
        assert short in case["hint"]
    assert (case["series"], case["status"]) == (None, "failed")
    cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "clear", "-d", "cpu", "--show-identifiers")
    (case,) = json.loads((tmp_path / "clear" / "predict.json").read_text())["cases"]
    assert all(uid in case["hint"] for uid in uids)


def test_each_volume_of_a_series_becomes_a_case(
    export: Path, tmp_path: Path, tiny_model: Path, cli: Callable[..., Any]
) -> None:
    several_volumes(export)
    command = ("predict", "-m", tiny_model, "-i", export, "-d", "cpu", "-o", tmp_path / "out")
    assert cli(*command).code == 1
    assert cli(*command, "--volume", "all").code == 0
    cases = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert [(case["case"], case["volume"], case["status"]) for case in cases] == [
        ("bed7_v1", 1, "done"),
        ("bed7_v2", 2, "done"),
    ]
    assert {path.name for path in (tmp_path / "out").glob("*.gz")} == {"bed7_v1_seg.nii.gz", "bed7_v2_seg.nii.gz"}
    outcome = cli("convert", export, "-o", tmp_path / "image.nii.gz", "--volume", "all")
    assert [Path(line).name for line in outcome.out.split()] == ["image_v1.nii.gz", "image_v2.nii.gz"]
    assert cli("convert", export, "-o", tmp_path / "one.nii.gz", "--volume", "2").code == 0
    outcome = cli("convert", export, "-o", tmp_path / "one.nii.gz", "--volume", "3")
    assert outcome.code == 1
    assert "There is no volume 3" in outcome.err
    outcome = cli("convert", export, "-o", tmp_path / "one.nii.gz", "--volume", "0")
    assert outcome.code == 2
