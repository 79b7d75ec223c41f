"""NIfTI masks: the header of the source bit for bit, the values of the label map, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medunet.errors import OutputError
from medunet.export.nifti import write_nifti, write_nifti_array
from medunet.geometry import Geometry
from medunet.io.files import read_image, read_mask
from medunet.io.volume import Segmentation, Source, Volume
from medunet.labels import LabelMap

RNG = np.random.default_rng(0)
SHAPE = (6, 7, 8)
LABELS = LabelMap.from_mapping({"background": 0, "liver": 4, "lesion": [205, 7]})
GRID = (
    "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units", "dim", "toffset", "descrip",
)  # fmt: skip

TILT = np.array([[-0.8, -0.36, 0.48], [0.0, -0.8, -0.6], [0.6, -0.48, 0.64]])  # a rotation
SFORM = np.block([[TILT * [0.71, 0.72, 2.4], np.array([[90.123], [-120.5], [33.3]])], [np.array([[0, 0, 0, 1.0]])]])
QFORM = np.array([[0.0, -0.8, 0, 10.0], [0.8, 0, 0, 20.0], [0, 0, 2.5, 30.0], [0, 0, 0, 1]])


def source_file(path: Path, codes: tuple[int, int], array: NDArray[Any] | None = None, **fields: object) -> Path:
    """An image whose qform and sform disagree, so that mixing them up would show."""
    if array is None:
        array = RNG.integers(-1000, 1000, SHAPE).astype(np.int16)
    image = nibabel.Nifti1Image(array, None)
    image.set_sform(SFORM, codes[0])
    image.set_qform(QFORM, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    for key, value in fields.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def segmentation_of(volume: Volume, labels: LabelMap = LABELS) -> Segmentation:
    indices = RNG.integers(0, len(labels), volume.geometry.shape).astype(labels.index_dtype)
    return Segmentation(indices, volume.geometry, labels, volume.source)


def assert_same_grid(written: Path, original: Path) -> None:
    ours, theirs = nibabel.load(written).header, nibabel.load(original).header
    for name in GRID:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1), (4, 2), (0, 0), (3, 4)])
def test_the_grid_of_the_source_is_kept_bit_for_bit(tmp_path: Path, codes: tuple[int, int], ending: str) -> None:
    original = source_file(tmp_path / f"image{ending}", codes, descrip=b"scanner 5", toffset=2.5)
    volume = read_image(original)
    written = write_nifti(segmentation_of(volume), tmp_path / f"mask{ending}")
    assert_same_grid(written, original)
    assert read_mask(written)[1].difference(volume.geometry) == ""


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_the_source_are_kept(tmp_path: Path, extra: tuple[int, ...]) -> None:
    array = RNG.integers(0, 9, (*SHAPE, *extra)).astype(np.int16)
    original = source_file(tmp_path / "image.nii", (1, 1), array)
    segmentation = segmentation_of(read_image(original))
    written = write_nifti(segmentation, tmp_path / "mask.nii.gz")
    assert nibabel.load(written).shape == array.shape
    assert_same_grid(written, original)
    np.testing.assert_array_equal(read_mask(written)[0], LABELS.to_values(segmentation.array))


def big_endian(path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, ">i2"), QFORM, header), path)


def nifti_2(path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(np.zeros(SHAPE, np.int16), QFORM), path)


@pytest.mark.parametrize("make", [big_endian, nifti_2])
def test_other_kinds_of_nifti_keep_their_grid(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "image.nii")
    volume = read_image(tmp_path / "image.nii")
    segmentation = segmentation_of(volume)
    values, geometry = read_mask(write_nifti(segmentation, tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(values, LABELS.to_values(segmentation.array))
    np.testing.assert_allclose(geometry.affine, volume.geometry.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [((0, 4, 205), "uint8"), ((0, -1, 300), "int16"), ((0, 1, 40000), "uint16"), ((0, -1, 40000), "int32")],
)
@pytest.mark.parametrize("kind", ["nifti", "array"])
def test_values_are_those_of_the_label_map_in_the_smallest_type(
    tmp_path: Path, values: tuple[int, ...], dtype: str, kind: str
) -> None:
    labels = LabelMap.from_mapping(dict(zip(("background", "a", "b"), values, strict=True)))
    volume = read_image(source_file(tmp_path / "image.nii", (1, 1)))
    if kind == "array":
        volume = Volume(volume.array, volume.geometry)
    segmentation = segmentation_of(volume, labels)
    image = nibabel.load(write_nifti(segmentation, tmp_path / "mask.nii.gz"))
    assert image.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(values)[segmentation.array])


def test_a_slope_of_the_source_does_not_touch_the_labels(tmp_path: Path) -> None:
    original = source_file(tmp_path / "image.nii", (1, 1), scl_slope=2.5, scl_inter=-1024, cal_max=400, cal_min=-160)
    assert read_image(original).array.dtype == np.float32
    segmentation = segmentation_of(read_image(original))
    image = nibabel.load(write_nifti(segmentation, tmp_path / "mask.nii"))
    assert (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    assert image.header["cal_max"] == image.header["cal_min"] == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.nii")[0], LABELS.to_values(segmentation.array))


def test_a_slope_in_a_header_that_was_made_in_memory_does_not_touch_the_labels(tmp_path: Path) -> None:
    header = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), QFORM).header
    header.set_slope_inter(2.5, -1024)
    source = Source(Path("image"), "nifti", header=header)
    segmentation = segmentation_of(Volume(np.zeros((1, *SHAPE)), Geometry.from_affine(QFORM, SHAPE), source))
    values, _ = read_mask(write_nifti(segmentation, tmp_path / "mask.nii"))
    np.testing.assert_array_equal(values, LABELS.to_values(segmentation.array))


@pytest.mark.parametrize("codes", [(1, 1), (0, 0)])
def test_a_mask_says_that_it_holds_labels(tmp_path: Path, codes: tuple[int, int]) -> None:
    volume = read_image(source_file(tmp_path / "image.nii", codes))
    image = nibabel.load(write_nifti(segmentation_of(volume), tmp_path / "mask.nii"))
    assert image.header.get_intent()[0] == "label"


@pytest.mark.parametrize("kind", ["dicom", "nrrd", "array"])
def test_without_a_nifti_header_the_affine_becomes_scanner_coordinates(tmp_path: Path, kind: str) -> None:
    geometry = Geometry.from_affine(QFORM, SHAPE)
    volume = Volume(np.zeros((1, *SHAPE), np.int16), geometry, Source(tmp_path / "series", kind))
    image = nibabel.load(write_nifti(segmentation_of(volume), tmp_path / "mask.nii.gz"))
    np.testing.assert_allclose(image.affine, QFORM, atol=1e-6)
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, QFORM, atol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_a_header_of_another_grid_is_not_taken_over(tmp_path: Path) -> None:
    """A volume that was cropped after reading still names its file as the source."""
    volume = read_image(source_file(tmp_path / "image.nii", (0, 1)))
    box = volume.geometry.cropped((1, 2, 3), (4, 4, 4))
    cropped = Volume(volume.array[:, 1:5, 2:6, 3:7], box, volume.source)
    _, geometry = read_mask(write_nifti(segmentation_of(cropped), tmp_path / "mask.nii"))
    assert geometry.difference(box) == ""


def test_a_header_of_another_format_is_not_taken_over(tmp_path: Path) -> None:
    geometry = Geometry.from_affine(QFORM, SHAPE)
    header = nibabel.MGHImage(np.zeros(SHAPE, np.float32), QFORM).header
    volume = Volume(np.zeros((1, *SHAPE)), geometry, Source(Path("brain.mgz"), "nifti", header=header))
    _, written = read_mask(write_nifti(segmentation_of(volume), tmp_path / "mask.nii"))
    assert written.difference(geometry) == ""


def test_a_picture_becomes_a_flat_nifti(tmp_path: Path) -> None:
    segmentation = segmentation_of(Volume(np.zeros((1, 9, 5)), Geometry.plain((9, 5), (0.5, 0.7))))
    values, geometry = read_mask(write_nifti(segmentation, tmp_path / "mask.nii"))
    np.testing.assert_array_equal(values, LABELS.to_values(segmentation.array))
    assert geometry.spacing == pytest.approx((0.5, 0.7))


@pytest.mark.parametrize("codes", [(2, 0), (0, 1)])
def test_probabilities_have_their_labels_on_the_fourth_axis(tmp_path: Path, codes: tuple[int, int]) -> None:
    volume = read_image(source_file(tmp_path / "image.nii", codes))
    shares = RNG.random((3, *SHAPE)).astype(np.float32)
    image = nibabel.load(write_nifti_array(shares, volume.geometry, volume.source, tmp_path / "shares.nii.gz"))
    assert image.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.moveaxis(shares, 0, -1))
    np.testing.assert_allclose(image.affine, volume.geometry.affine, atol=1e-5)
    assert image.header.get_intent()[0] == "none"


def test_probabilities_of_a_picture_are_no_volume(tmp_path: Path) -> None:
    geometry = Geometry.plain((9, 5))
    path = write_nifti_array(np.zeros((3, 9, 5), np.float32), geometry, Source(Path(), "picture"), tmp_path / "p.nii")
    assert nibabel.load(path).shape == (9, 5, 1, 3)


def test_a_single_array_takes_the_header_of_its_source(tmp_path: Path) -> None:
    original = source_file(tmp_path / "image.nii", (4, 2), scl_slope=2.0, scl_inter=1.0)
    volume = read_image(original)
    written = write_nifti_array(volume.array[0], volume.geometry, volume.source, tmp_path / "copy.nii")
    assert_same_grid(written, original)
    np.testing.assert_array_equal(read_image(written).array, volume.array)


def test_equal_masks_are_equal_files(tmp_path: Path) -> None:
    segmentation = segmentation_of(read_image(source_file(tmp_path / "image.nii", (1, 1))))
    first = write_nifti(segmentation, tmp_path / "a" / "mask.nii.gz").read_bytes()
    assert write_nifti(segmentation, tmp_path / "b" / "mask.nii.gz").read_bytes() == first


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path, full_disk: Callable[[str], None]) -> None:
    segmentation = segmentation_of(Volume(np.zeros((1, *SHAPE)), Geometry.plain(SHAPE)))
    full_disk("mask")
    with pytest.raises(OutputError, match=r"mask\.nii\.gz cannot be written: No space left"):
        write_nifti(segmentation, tmp_path / "mask.nii.gz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
@pytest.mark.parametrize("folder", ["hippocampus", "liver_ct", "organs_ct"])
def test_masks_of_real_images_keep_their_grid(tmp_path: Path, folder: str) -> None:
    root = Path(__file__).resolve().parents[2] / "../shared/data" / folder
    if not root.is_dir():
        pytest.skip(f"{root} is absent")
    original = min(root.rglob("*.nii.gz"), key=lambda path: path.stat().st_size)
    volume = read_image(original)
    assert_same_grid(write_nifti(segmentation_of(volume), tmp_path / "mask.nii"), original)
