"""MONAI's loaders with our reading: what is refused stays refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import DataError
from medunet.geometry import Geometry
from medunet.transforms.reader import VolumeReader

# MONAI sets up all of its own readers too, and one of them complains about what it lacks.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

DIRECTION = ((-0.8, 0.0, 0.6), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8))
GRID = Geometry((8, 7, 6), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), DIRECTION)
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_ct_export(VALUES, GRID, tmp_path / "export")


def test_a_series_is_loaded_where_it_lies(export: Path) -> None:
    steps = Compose([LoadImaged("image", reader=VolumeReader()), EnsureChannelFirstd("image")])
    image = steps({"image": str(export)})["image"]
    assert np.array_equal(image.numpy()[0], VALUES)
    assert np.allclose(image.affine, GRID.affine)
    turned = Orientationd("image", axcodes="RAS", labels=None)({"image": image})["image"]
    corner = np.asarray(turned.affine) @ np.asarray([*(np.asarray(turned.shape[1:]) - 1), 1.0])
    assert np.allclose(corner, GRID.affine @ np.asarray([0, 0, GRID.shape[2] - 1, 1]), atol=1e-4)


def test_files_and_several_channels_are_loaded(tmp_path: Path) -> None:
    paths = [tmp_path / f"case_000{number}.nii.gz" for number in range(2)]
    for number, path in enumerate(paths):
        nibabel.save(nibabel.Nifti1Image(VALUES + number, GRID.affine), path)
    image = LoadImage(reader=VolumeReader(), ensure_channel_first=True)(paths)
    assert np.array_equal(image.numpy(), np.stack([VALUES, VALUES + 1]))
    single = LoadImage(reader=VolumeReader(), ensure_channel_first=True)(paths[0])
    assert single.shape == (1, *GRID.shape)


@pytest.mark.parametrize("slices", [1, 2])
def test_what_is_refused_is_not_read_by_another_reader(export: Path, slices: int) -> None:
    files = sorted((export / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    for path in files[2 : 2 + slices]:
        path.unlink()
    with pytest.raises(DataError, match="missing"):
        LoadImaged("image", reader=VolumeReader())({"image": export / CT_FOLDER})
    found = LoadImaged("image", reader=VolumeReader(irregular="resample"))({"image": export / CT_FOLDER})["image"]
    assert found.shape == GRID.shape
    assert np.array_equal(found.numpy()[..., :2], VALUES[..., :2])
