from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER, LOCALIZER_FOLDER, write_ct_export
from medunet.errors import DataError, OutputError
from medunet.geometry import Geometry

GRID = Geometry((7, 6, 9), (0.8, 0.9, 2.5), (30.0, 20.0, -40.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def test_an_export_has_a_folder_per_series_and_a_file_per_slice(tmp_path: Path) -> None:
    folder = write_ct_export(VALUES, GRID, tmp_path / "study")
    assert len(list((folder / CT_FOLDER).iterdir())) == 9
    assert len(list((folder / LOCALIZER_FOLDER).iterdir())) == 1
    assert not any(path.suffix for path in folder.rglob("*"))


def test_the_localizer_can_be_left_out(tmp_path: Path) -> None:
    folder = write_ct_export(VALUES, GRID, tmp_path / "study", localizer=False)
    assert [path.name for path in folder.iterdir()] == [CT_FOLDER]


def test_file_names_do_not_follow_the_slices_but_instance_numbers_do(tmp_path: Path) -> None:
    images = headers(write_ct_export(VALUES, GRID, tmp_path / "study") / CT_FOLDER)
    heights = [float(image.ImagePositionPatient[2]) for image in images]
    assert heights != sorted(heights)
    assert heights != sorted(heights, reverse=True)
    by_number = sorted(images, key=lambda image: int(image.InstanceNumber))
    assert [float(image.ImagePositionPatient[2]) for image in by_number] == sorted(heights)


def test_uids_are_valid_and_each_object_has_its_own(tmp_path: Path) -> None:
    folder = write_ct_export(VALUES, GRID, tmp_path / "study")
    images = headers(folder / CT_FOLDER) + headers(folder / LOCALIZER_FOLDER)
    assert all(image.SOPInstanceUID.is_valid and image.SeriesInstanceUID.is_valid for image in images)
    assert len({image.SOPInstanceUID for image in images}) == 10
    assert len({image.SeriesInstanceUID for image in images}) == 2
    assert len({image.StudyInstanceUID for image in images}) == 1
    assert len({image.FrameOfReferenceUID for image in images}) == 1


def test_the_same_seed_writes_the_same_bytes_and_another_seed_other_uids(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> list[str]:
        folder = write_ct_export(VALUES, GRID, tmp_path / name, seed=seed)
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()]

    assert digests("one", 3) == digests("two", 3)
    assert not set(digests("three", 3)) & set(digests("four", 4))


def test_hounsfield_units_are_stored_as_scanners_do(tmp_path: Path) -> None:
    image = headers(write_ct_export(VALUES, GRID, tmp_path / "study") / CT_FOLDER)[0]
    assert (image.RescaleSlope, image.RescaleIntercept) == (1, -1024)
    assert (image.BitsStored, image.HighBit, image.PixelRepresentation) == (12, 11, 0)
    assert list(image.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert [float(value) for value in image.PixelSpacing] == [0.9, 0.8]


@pytest.mark.parametrize("extreme", [-32768, 32767])
def test_every_int16_value_survives(tmp_path: Path, extreme: int) -> None:
    values = VALUES.copy()
    values[0, 0, 0] = extreme
    images = headers(write_ct_export(values, GRID, tmp_path / "study") / CT_FOLDER)
    first = min(images, key=lambda image: int(image.InstanceNumber))
    assert int(first.pixel_array[0, 0]) + int(first.RescaleIntercept) == extreme


def test_what_is_no_volume_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not fit"):
        write_ct_export(VALUES[:-1], GRID, tmp_path / "study")
    with pytest.raises(DataError, match="whole numbers"):
        write_ct_export(VALUES.astype(np.float32), GRID, tmp_path / "study")
    with pytest.raises(DataError, match="within int16"):
        write_ct_export(VALUES.astype(np.int32) + 40000, GRID, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not an empty folder"):
        write_ct_export(VALUES, GRID, tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_writing_leaves_the_geometry_as_it_was(tmp_path: Path) -> None:
    before = GRID.affine.copy()
    write_ct_export(VALUES, GRID, tmp_path / "study")
    assert np.array_equal(GRID.affine, before)
