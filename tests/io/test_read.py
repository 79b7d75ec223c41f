"""One door to files, series and channels."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from medunet.errors import DataError, DicomError, GeometryError, ReadError
from medunet.io.read import read_volume


def save(path, array, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def test_files_become_channels_in_their_order(tmp_path):
    first = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16))
    second = save(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.int16))
    volume = read_volume((first, second))
    assert volume.array.shape == (2, 2, 3, 4)
    assert volume.array[:, 0, 0, 0].tolist() == [0, 1]
    assert volume.source.path == first


def test_channels_on_other_grids_are_refused_with_both_names(tmp_path):
    first = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16))
    second = save(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.int16), np.diag([2, 1, 1, 1]))
    with pytest.raises(GeometryError, match=r"b\.nii\.gz has spacing .* \(a\.nii\.gz\)"):
        read_volume([first, second])


def test_values_that_are_not_finite_are_refused_unless_they_are_wanted(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.full((2, 2, 2), np.nan, np.float32))
    with pytest.raises(DataError, match="NaN"):
        read_volume(path)
    assert np.isnan(read_volume(path, check_values=False).array).all()


def test_a_folder_is_read_as_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("no images here")
    with pytest.raises((DicomError, ReadError)):
        read_volume(tmp_path)


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ReadError, match="no image that can be read"):
        read_volume(tmp_path / "notes.txt")
    with pytest.raises(ReadError, match="There is no file"):
        read_volume(tmp_path / "missing")


@pytest.mark.parametrize(
    ("stored", "expected", "channels"), [("L", 3, 3), ("grey RGB", 1, 1), ("RGB", 1, 3), ("L", 2, 1)]
)
def test_pictures_fit_the_expected_channels_where_nothing_is_lost(tmp_path, stored, expected, channels):
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    if stored != "RGB":
        array = np.repeat(array[..., :1], 3, axis=2)
    Image.fromarray(array[..., 0] if stored == "L" else array).save(tmp_path / "p.png")
    assert read_volume(tmp_path / "p.png", channels=expected).channels == channels


def test_volumes_are_never_given_channels_they_do_not_have(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16))
    assert read_volume(path, channels=3).channels == 1
