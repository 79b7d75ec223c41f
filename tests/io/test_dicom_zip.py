"""Exports in a zip, read without being unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from medunet.demo.dicom_export import write_ct_export
from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry
from medunet.inference.inputs import find_inputs
from medunet.io.describe.path import describe
from medunet.io.dicom import opening as module
from medunet.io.dicom import read_dicom, scan

VALUES = np.random.default_rng(0).integers(-1000, 1500, (8, 7, 6)).astype(np.int16)
GRID = Geometry.plain((8, 7, 6), (1.0, 1.0, 2.0))


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A zip beside nothing else."""
    folder = write_ct_export(VALUES, GRID, tmp_path / "unpacked")
    (tmp_path / "in").mkdir()
    return zipped(folder, tmp_path / "in" / "patient.zip")


def test_a_zip_is_read_as_the_folder_in_it(export: Path) -> None:
    before = set(export.parent.iterdir())
    volume = read_dicom(export)
    assert np.array_equal(volume.array[0], VALUES)
    assert volume.source.path == export
    assert any("Scout" in note for note in volume.source.notes)
    assert set(export.parent.iterdir()) == before


def test_a_zip_is_a_case_also_in_a_folder(export: Path, tmp_path: Path) -> None:
    write_ct_export(VALUES, GRID, tmp_path / "in" / "folder", seed=5)
    (tmp_path / "in" / "broken.zip").write_bytes(export.read_bytes()[:4000])
    assert [entry.id for entry in find_inputs(export)] == ["patient"]
    found = {entry.id: entry for entry in find_inputs(tmp_path / "in")}
    assert list(found) == ["broken", "folder", "patient"]
    assert np.array_equal(found["patient"].read().array[0], VALUES)
    with pytest.raises(ReadError, match=r"broken\.zip cannot be read as a zip"):
        found["broken"].read()


def test_names_that_lead_out_of_the_zip_are_not_followed(export: Path, tmp_path: Path) -> None:
    secret = next(path for path in (tmp_path / "unpacked").rglob("*") if path.is_file())
    with zipfile.ZipFile(export, "a") as archive:
        for name in (str(secret), f"../unpacked/{secret.name}", "a/../../unpacked/x"):
            archive.write(secret, name)
            archive.filelist[-1].filename = name
    assert sum(len(series.files) for series in scan(export).series) == 7
    assert np.array_equal(read_dicom(export).array[0], VALUES)


def test_a_file_too_large_for_memory_is_left_out(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGEST_MEMBER", 500)
    assert all("too much to be read from a zip" in sentence for sentence in scan(export).ignored)
    with pytest.raises(DicomError, match="no DICOM image"):
        read_dicom(export)


def test_damage_inside_costs_the_file(export: Path) -> None:
    with zipfile.ZipFile(export) as archive:
        info = archive.infolist()[3]
    content = bytearray(export.read_bytes())
    content[info.header_offset + 200] ^= 0xFF
    export.write_bytes(content)
    with pytest.raises((DicomError, ReadError), match=r"missing|zip|damaged"):
        read_dicom(export)


def test_a_zip_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("nothing")
    path = zipped(tmp_path / "notes", tmp_path / "notes.zip")
    (entry,) = find_inputs(path)
    with pytest.raises(DicomError, match="no DICOM image"):
        entry.read()


def test_a_zip_is_described(export: Path) -> None:
    found = describe(export)
    assert found.kind == "dicom"
    assert [row["verdict"] for row in found.facts["series"]] == ["volume", "a localizer"]
    export.write_bytes(export.read_bytes()[:4000])
    assert any("cannot be read as a zip" in problem for problem in map(str, describe(export).problems))
