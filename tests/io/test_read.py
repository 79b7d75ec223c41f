"""One door to files, series and channels."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medunet.errors import DataError, DicomError, GeometryError, ReadError
from medunet.io.files import read_mask
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


TOLD = ("Transparency was left out, since data.modality names no channel for it.",)


@pytest.mark.parametrize(
    ("mode", "opaque", "wanted", "channels", "notes"),
    [
        ("RGBA", False, 3, 3, TOLD),
        ("RGBA", False, 4, 4, ()),
        ("RGBA", True, 3, 3, ()),
        ("RGBA", True, 4, 4, ()),  # among others that are not opaque
        ("LA", False, 1, 1, TOLD),
        ("LA", False, 2, 2, ()),
        ("LA", True, 2, 2, ()),
        ("LA", False, 3, 3, TOLD),
        ("RGBA", False, None, 4, ()),
        ("RGBA", True, None, 3, ()),
    ],
)
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_transparency_stays_only_where_channels_are_named_for_it(
    tmp_path, ending, mode, opaque, wanted, channels, notes
):
    array = np.random.default_rng(0).integers(0, 255, (4, 5, len(mode)), dtype=np.uint8)
    array[..., -1] = 255 if opaque else array[..., -1]
    if ending == ".png":
        Image.fromarray(array).save(tmp_path / "p.png")
    else:
        photometric = "rgb" if mode == "RGBA" else "minisblack"
        tifffile.imwrite(tmp_path / "p.tif", array, photometric=photometric, extrasamples=["unassalpha"])
    volume = read_volume(tmp_path / f"p{ending}", channels=wanted)
    assert volume.channels == channels
    assert volume.source.notes == notes
    kept = min(channels, len(mode) if channels == len(mode) else len(mode) - 1)
    np.testing.assert_array_equal(volume.array[:kept], array.transpose(2, 1, 0)[:kept])


def test_a_grey_picture_with_transparency_becomes_one_channel(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 4), dtype=np.uint8)
    array[..., 1:3] = array[..., :1]
    Image.fromarray(array).save(tmp_path / "p.png")
    volume = read_volume(tmp_path / "p.png", channels=1)
    np.testing.assert_array_equal(volume.array, array.transpose(2, 1, 0)[:1])
    assert volume.source.notes == TOLD


@pytest.mark.parametrize("ending", [".png", ".gif"])
def test_a_palette_may_hold_transparency(tmp_path, ending):
    indices = np.random.default_rng(0).integers(0, 3, (4, 5), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([10, 20, 30, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / f"p{ending}", transparency=bytes([255, 0, 255]) if ending == ".png" else 1)
    three = read_volume(tmp_path / f"p{ending}", channels=3)
    four = read_volume(tmp_path / f"p{ending}", channels=4)
    np.testing.assert_array_equal(three.array, four.array[:3])
    np.testing.assert_array_equal(four.array[3], np.where(indices == 1, 0, 255).T)
    assert three.source.notes == TOLD
    np.testing.assert_array_equal(read_mask(tmp_path / f"p{ending}")[0], indices.T)


def test_of_several_files_opaque_transparency_goes_first(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 4), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "veiled.png")
    Image.fromarray(np.dstack([array[..., :3], np.full((4, 5), 255, np.uint8)])).save(tmp_path / "opaque.png")
    Image.fromarray(array[..., 0]).save(tmp_path / "infrared.png")
    veiled, opaque, infrared = (tmp_path / f"{name}.png" for name in ("veiled", "opaque", "infrared"))
    assert read_volume((opaque, infrared), channels=4).source.notes == ()
    assert read_volume((infrared, veiled), channels=4).source.notes == TOLD
    assert read_volume((veiled, infrared), channels=5).channels == 5
    both = read_volume((opaque, veiled), channels=7)
    np.testing.assert_array_equal(both.array, array.transpose(2, 1, 0)[[0, 1, 2, 0, 1, 2, 3]])
    assert both.source.notes == ()


def test_volumes_are_never_given_channels_they_do_not_have(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((2, 3, 4), np.int16))
    assert read_volume(path, channels=3).channels == 1
