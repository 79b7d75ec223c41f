"""Exports that are no volume, through the real command line: one sentence with the numbers, no traceback, no mask."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.geometry import Geometry

SHAPE = (20, 16, 6)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A folder of six good slices."""
    values = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    write_ct_export(values, Geometry.plain(SHAPE, (1.0, 1.0, 2.0)), tmp_path / "study", localizer=False)
    (tmp_path / "study" / CT_FOLDER).rename(tmp_path / "patient")
    return tmp_path / "patient"


def images(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def edit_all(folder: Path, **elements: Any) -> None:
    for path in images(folder):
        dataset = pydicom.dcmread(path)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def texts(folder: Path) -> None:
    nothing(folder)
    for number in range(3):
        (folder / f"report{number}.txt").write_text("No finding. " * 40)


def half_copied(folder: Path) -> None:
    """The file that was being written when the copy stopped, in the middle of the stack."""
    path = images(folder)[3]
    path.write_bytes(path.read_bytes()[:-100])


def mixed_patients(folder: Path) -> None:
    for path in images(folder):
        dataset = pydicom.dcmread(path)
        dataset.PatientID, dataset.SOPInstanceUID = "OTHER", pydicom.uid.generate_uid()
        dataset.PixelData = bytes(len(dataset.PixelData))
        dataset.save_as(folder / f"other_{path.name}")


def secondary_captures(folder: Path) -> None:
    edit_all(folder, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")


def structured_reports(folder: Path) -> None:
    for path in images(folder):
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.88.22", "SR"
        del dataset.PixelData, dataset.Rows, dataset.Columns
        dataset.save_as(path)


def fluoroscopy(folder: Path) -> None:
    """One X-ray film of ten frames."""
    path, *others = images(folder)
    for other in others:
        other.unlink()
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID, dataset.Modality, dataset.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.12.2", "RF", 10
    dataset.PixelData = dataset.PixelData * 10
    dataset.save_as(path)


def repeats_at_one_place(folder: Path) -> None:
    """The same slice, six times in a row, as of a perfusion series."""
    edit_all(folder, ImagePositionPatient=[0, 0, 0])


def absurd_sizes(folder: Path) -> None:
    edit_all(folder, Rows=46341, Columns=46341)


def more_than_is_there(folder: Path) -> None:
    edit_all(folder, Rows=9000, Columns=9000)


def deep_nesting(folder: Path) -> None:
    opening = struct.pack("<HH4sIHHI", 0x0008, 0x1140, b"SQ\0\0", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    nothing(folder)
    (folder / "IM1").write_bytes(bytes(128) + b"DICM" + meta + opening * 20_000)


def tilted(folder: Path) -> None:
    for number, path in enumerate(images(folder)):
        dataset = pydicom.dcmread(path)
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + 0.7 * number, z]
        dataset.save_as(path)


def colour_pictures(folder: Path) -> None:
    for path in images(folder):
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.PixelData = bytes(3 * dataset.Rows * dataset.Columns)
        dataset.save_as(path)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty folder": (nothing, "It is empty"),
    "text files": (texts, "report0.txt, report1.txt, report2.txt were left out: not DICOM"),
    "half copied": (half_copied, "1 slice is missing: a gap of 4 mm where 2 mm is usual"),
    "two patients": (mixed_patients, "holds 2 volumes"),
    "secondary captures": (secondary_captures, "Secondary Capture Image Storage is no stack of slices"),
    "structured reports": (structured_reports, "Enhanced SR Storage, no scanner image"),
    "fluoroscopy": (fluoroscopy, "X-Ray Radiofluoroscopic Image Storage is no stack of slices"),
    "one place": (repeats_at_one_place, "6 different images lie at one position"),
    "absurd sizes": (absurd_sizes, "it states 46341 rows and 46341 columns; 1 to 16384 are possible"),
    "more than is there": (more_than_is_there, "it holds 640 of the 162000000 bytes"),
    "deep nesting": (deep_nesting, "its header cannot be read"),
    "a tilted gantry": (tilted, "tilted by 19.29 degrees"),
    "colour pictures": (colour_pictures, "colour or palette images (RGB)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_no_mask_is_made_of_what_is_no_volume(
    cli: Any, tiny_model: Path, export: Path, tmp_path: Path, kind: str
) -> None:
    spoil, reason = BAD[kind]
    spoil(export)
    done = cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "out", "-d", "cpu")
    assert done.code in (1, 3), done.err
    assert reason in done.err
    assert "Traceback" not in done.err
    assert len([line for line in done.err.splitlines() if line.startswith(("medunet: ", "patient failed: "))]) == 1
    assert not list((tmp_path / "out").rglob("*_seg*"))


@pytest.mark.parametrize("kind", BAD)
def test_info_says_the_same_and_that_nothing_can_be_read(cli: Any, export: Path, kind: str) -> None:
    spoil, reason = BAD[kind]
    spoil(export)
    done = cli("info", export)
    assert done.code == (0 if kind == "two patients" else 1), done.err  # two volumes are nothing bad, but two
    assert "Traceback" not in done.err
    assert reason in " ".join((done.out + done.err).split())
