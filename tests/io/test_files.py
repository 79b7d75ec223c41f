"""Image files: what is read is what stands in the file, and what cannot be read is said in one sentence."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from medunet.errors import DataError, GeometryError, MedunetError, ReadError
from medunet.io.files import (
    ENDINGS,
    UNREAD,
    image_ending,
    is_unread,
    read_geometry,
    read_image,
    read_mask,
    stack_channels,
    stem,
)

RNG = np.random.default_rng(0)
SHAPE = (5, 6, 7)
OBLIQUE = np.array(
    [[0.0, -1.2, 0.1, 20.0], [0.8, 0.0, 0.0, -30.0], [0.0, 0.1, 2.5, 40.0], [0.0, 0.0, 0.0, 1.0]]
)  # axes swapped and flipped, slightly tilted
OBLIQUE[:3, 2] = np.cross(OBLIQUE[:3, 0], OBLIQUE[:3, 1])
OBLIQUE[:3, 2] *= 2.5 / np.linalg.norm(OBLIQUE[:3, 2])


def save(path: Path, array: NDArray[Any], affine: NDArray[np.float64] = OBLIQUE, **header: object) -> Path:
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def patched(path: Path, *changes: tuple[int, str, object]) -> Path:
    """Overwrite header fields of an uncompressed NIfTI in place: (offset, struct format, value)."""
    data = bytearray(path.read_bytes())
    for offset, code, value in changes:
        struct.pack_into(code, data, offset, value)
    path.write_bytes(data)
    return path


SFORM_CODE, QFORM_CODE, PIXDIM_Y, DATATYPE, SLOPE, INTER, VOX_OFFSET, QUATERN_B = 254, 252, 84, 70, 112, 116, 108, 256


@pytest.fixture
def nifti(tmp_path: Path) -> Path:
    return save(tmp_path / "image.nii", RNG.integers(-1000, 1000, SHAPE).astype(np.int16))


# names


@pytest.mark.parametrize(
    ("name", "ending", "base"),
    [
        ("case.01.nii.gz", ".nii.gz", "case.01"), ("A.NII", ".nii", "A"), ("x.PNG", ".png", "x"),
        ("x.mha", ".mha", "x"), ("x.gz", "", "x"), ("x.txt", "", "x"), (".x.nii", "", ".x"), ("series", "", "series"),
    ],
)  # fmt: skip
def test_endings_and_stems(name: str, ending: str, base: str) -> None:
    assert image_ending(Path(name)) == ending
    assert stem(Path(name)) == base


# NIfTI that is right


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_stored_type_is_read_as_it_stands(tmp_path: Path, dtype: str, order: str, ending: str) -> None:
    array = RNG.integers(0, 120, SHAPE).astype(dtype)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(np.dtype(dtype))
    path = tmp_path / f"image{ending}"
    nibabel.save(nibabel.Nifti1Image(array, OBLIQUE, header), path)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.array.dtype == np.dtype(dtype)
    assert volume.array.dtype.isnative
    np.testing.assert_allclose(volume.geometry.affine, OBLIQUE, atol=1e-5)
    assert volume.source.kind == "nifti"


@pytest.mark.parametrize(("slope", "inter"), [(2.0, -1024.0), (0.5, 0.0), (1.0, 3.0)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_slope_and_intercept_give_physical_values(tmp_path: Path, slope: float, inter: float, ending: str) -> None:
    stored = RNG.integers(0, 4000, SHAPE).astype(np.int16)
    image = nibabel.Nifti1Image(stored, OBLIQUE)
    image.header.set_slope_inter(slope, inter)
    nibabel.save(image, tmp_path / f"image{ending}")
    volume = read_image(tmp_path / f"image{ending}")
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array[0], stored * slope + inter)


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_that_is_no_slope_is_ignored(nifti: Path, slope: float) -> None:
    before = read_image(nifti).array.copy()
    np.testing.assert_array_equal(read_image(patched(nifti, (SLOPE, "<f", slope))).array, before)


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path: Path, extra: tuple[int, ...]) -> None:
    array = RNG.integers(0, 9, (*SHAPE, *extra)).astype(np.int16)
    volume = read_image(save(tmp_path / "image.nii.gz", array))
    np.testing.assert_array_equal(volume.array[0], array.reshape(SHAPE))


def test_a_flat_nifti_is_a_picture_of_two_axes(tmp_path: Path) -> None:
    array = RNG.integers(0, 9, (5, 6)).astype(np.int16)
    volume = read_image(save(tmp_path / "image.nii", array, np.diag([0.5, 0.7, 1.0, 1.0])))
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.geometry.spacing == pytest.approx((0.5, 0.7))


def test_nifti_2_is_read(tmp_path: Path) -> None:
    array = RNG.integers(0, 9, SHAPE).astype(np.int16)
    nibabel.save(nibabel.Nifti2Image(array, OBLIQUE), tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "image.nii.gz").array[0], array)


def with_forms(path: Path, sform: int, qform: int) -> Path:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.set_sform(OBLIQUE, sform)
    image.set_qform(np.diag([3.0, 2.0, 1.0, 1.0]), qform)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize(("sform", "qform", "spacing"), [(1, 1, 2.5), (4, 0, 2.5), (0, 1, 1.0), (0, 2, 1.0)])
def test_the_sform_decides_and_the_qform_where_there_is_none(
    tmp_path: Path, sform: int, qform: int, spacing: float
) -> None:
    geometry = read_image(with_forms(tmp_path / "image.nii", sform, qform)).geometry
    assert geometry.spacing[2] == pytest.approx(spacing)


def test_the_grid_can_be_read_alone(nifti: Path, tmp_path: Path) -> None:
    assert read_geometry(nifti) == read_image(nifti).geometry
    other = tmp_path / "image.nrrd"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(other))
    assert read_geometry(nifti).difference(read_geometry(other)) == ""


# NIfTI that is wrong

BROKEN: dict[str, tuple[tuple[int, str, object], ...]] = {
    "unknown data type": ((DATATYPE, "<h", 99),),
    "intercept is not finite": ((SLOPE, "<f", 2.0), (INTER, "<f", float("inf"))),
    "data begin behind the end": ((VOX_OFFSET, "<f", 1e6),),
    "data begin before the file": ((VOX_OFFSET, "<f", -400.0),),
    "impossible quaternion": ((QUATERN_B, "<f", 9.0), (SFORM_CODE, "<h", 0), (QFORM_CODE, "<h", 1)),
    "magic is another": ((344, "<i", 0),),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_damaged_header_is_a_sentence_with_the_path(nifti: Path, what: str) -> None:
    with pytest.raises(ReadError, match=r"image\.nii cannot be read as NIfTI"):
        read_image(patched(nifti, *BROKEN[what]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(PIXDIM_Y, "<f", 0.0)], "states a spacing of"),
        ([(PIXDIM_Y, "<f", float("nan"))], "states a spacing of"),
        ([(PIXDIM_Y, "<f", -1.2), (SFORM_CODE, "<h", 0), (QFORM_CODE, "<h", 1)], "states a spacing of"),
        ([(280, "<f", 0.0), (284, "<f", 0.0), (288, "<f", 0.0)], "singular"),
        ([(280, "<f", float("nan"))], "not finite"),
        ([(280, "<f", 5.0)], "not perpendicular"),
    ],
)
def test_an_impossible_grid_is_refused(nifti: Path, changes: list[tuple[int, str, object]], words: str) -> None:
    with pytest.raises(GeometryError, match=words) as caught:
        read_image(patched(nifti, *changes))
    assert str(nifti) in caught.value.message
    with pytest.raises(GeometryError, match=words):
        read_geometry(nifti)


@pytest.mark.parametrize("shape", [(4, 5, 6, 2), (4, 5, 6, 1, 3), (4, 5, 1, 3)])
def test_four_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"image\.nii is [45]D .*; one image is a 3D volume"):
        read_image(save(tmp_path / "image.nii", np.zeros(shape, np.int16)))


@pytest.mark.parametrize("dims", [(0, 0, 0), (3, -4, 5), (1, 60, 1)])
def test_a_header_without_voxels_is_refused(nifti: Path, dims: tuple[int, int, int]) -> None:
    changes = [(40, "<h", 3 if dims[0] == 3 else dims[0]), (44, "<h", dims[1]), (46, "<h", dims[2])]
    with pytest.raises(MedunetError, match=r"image\.nii"):
        read_image(patched(nifti, *changes))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_colour_and_complex_voxels_are_refused(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(DataError, match=r"image\.nii\.gz holds (colour|complex) voxels"):
        read_image(save(tmp_path / "image.nii.gz", np.zeros(SHAPE, dtype)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_without_a_value_are_counted(tmp_path: Path, bad: float) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, :3] = bad
    path = save(tmp_path / "image.nii", array)
    with pytest.raises(DataError, match="holds 3 of 210 voxels that are NaN or infinite"):
        read_image(path)
    assert read_image(path, check_values=False).array.shape == (1, *SHAPE)


# files that are not what they say

ALL_ENDINGS = [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".jpg", ".tif", ".bmp", ".gif", ".webp"]


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 50, bytes(1000)], ids=["empty", "text", "zeros"])
@pytest.mark.parametrize("ending", ALL_ENDINGS)
def test_another_format_under_this_name_is_said(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"image{ending}"
    path.write_bytes(content)
    with pytest.raises(ReadError, match="cannot be read as") as caught:
        read_image(path)
    assert str(path) in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ALL_ENDINGS)
@pytest.mark.parametrize("read", [read_image, read_mask, read_geometry])
def test_a_missing_file_is_a_sentence(tmp_path: Path, ending: str, read: Callable[[Path], object]) -> None:
    with pytest.raises(ReadError, match=f"image{ending}"):
        read(tmp_path / f"image{ending}")


def test_an_unknown_ending_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "image.xyz").write_bytes(b"x")
    with pytest.raises(ReadError, match=r"image\.xyz is no image .*\.nii\.gz, \.nii"):
        read_image(tmp_path / "image.xyz")


def test_a_folder_with_an_image_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "image.nii").mkdir()
    with pytest.raises(ReadError, match="no file"):
        read_image(tmp_path / "image.nii")


@pytest.mark.parametrize("kept", [0.98, 0.5, 0.01])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".png", ".webp"])
def test_a_truncated_file_is_a_sentence(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"image{ending}"
    if ending in (".png", ".webp"):
        Image.fromarray(RNG.integers(0, 255, (90, 90), dtype=np.uint8)).save(path)
    elif ending in (".nrrd", ".mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(RNG.normal(size=(20, 20, 20))), str(path))
    else:
        save(path, RNG.normal(size=(20, 20, 20)))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ReadError, match="cannot be read as"):
        read_image(path)


def test_a_changed_bit_of_a_compressed_volume_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    path = save(tmp_path / "image.nii.gz", RNG.integers(-1000, 1000, (20, 20, 20)).astype(np.int16))
    good = path.read_bytes()
    for position in np.linspace(40, len(good) - 1, 25).astype(int):
        data = bytearray(good)
        data[position] ^= 1
        path.write_bytes(data)
        with pytest.raises(MedunetError, match=r"image\.nii\.gz"):
            read_image(path, check_values=False)


def test_a_volume_whose_name_promises_compression_it_lacks_is_a_sentence(tmp_path: Path, nifti: Path) -> None:
    path = tmp_path / "other.nii.gz"
    path.write_bytes(nifti.read_bytes())
    with pytest.raises(ReadError, match="another format than its name says"):
        read_image(path)
    other = tmp_path / "other.nii"
    other.write_bytes(gzip.compress(nifti.read_bytes()))
    with pytest.raises(ReadError, match="another format than its name says"):
        read_image(other)


def test_surfaces_in_a_nifti_container_are_refused(tmp_path: Path) -> None:
    axes = (nibabel.cifti2.ScalarAxis(["a"]), nibabel.cifti2.BrainModelAxis.from_surface([0, 1], 2, "CORTEX_LEFT"))
    image = nibabel.Cifti2Image(np.zeros((1, 2), np.float32), axes)
    nibabel.save(image, tmp_path / "surface.dscalar.nii")
    with pytest.raises(ReadError, match="Cifti2Image"):
        read_image(tmp_path / "surface.dscalar.nii")


# NRRD and MHA


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_the_same_image_through_itk_lies_where_the_nifti_lies(nifti: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(path))
    itk, reference = read_image(path), read_image(nifti)
    np.testing.assert_array_equal(itk.array, reference.array)
    np.testing.assert_allclose(itk.geometry.affine, reference.geometry.affine, atol=1e-4)
    assert itk.source.kind == "nrrd"


def test_channels_of_an_itk_image_come_first(tmp_path: Path) -> None:
    data = RNG.integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)  # z, y, x, channel
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data, isVector=True), str(tmp_path / "image.mha"))
    np.testing.assert_array_equal(read_image(tmp_path / "image.mha").array, data.transpose(3, 2, 1, 0))


def test_a_flat_itk_image_is_a_picture(tmp_path: Path) -> None:
    data = RNG.integers(0, 255, (5, 6), dtype=np.uint8)  # y, x
    image = SimpleITK.GetImageFromArray(data)
    image.SetSpacing((0.5, 0.7))
    SimpleITK.WriteImage(image, str(tmp_path / "image.mha"))
    volume = read_image(tmp_path / "image.mha")
    np.testing.assert_array_equal(volume.array[0], data.T)
    assert volume.geometry.spacing == (0.5, 0.7)


def test_one_time_point_is_a_volume_and_two_are_refused(tmp_path: Path) -> None:
    volume = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
    SimpleITK.WriteImage(SimpleITK.JoinSeries([volume]), str(tmp_path / "one.mha"))
    assert read_image(tmp_path / "one.mha").geometry.shape == (6, 5, 4)
    SimpleITK.WriteImage(SimpleITK.JoinSeries([volume, volume]), str(tmp_path / "two.mha"))
    with pytest.raises(DataError, match=r"two\.mha is 4D"):
        read_image(tmp_path / "two.mha")


# pictures


@pytest.mark.parametrize("ending", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_runs_right_and_down(tmp_path: Path, ending: str, mode: str) -> None:
    array = RNG.integers(0, 255, (30, 40) if mode == "L" else (30, 40, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / f"image{ending}")
    volume = read_image(tmp_path / f"image{ending}")
    assert volume.geometry.shape == (40, 30)
    assert volume.source.kind == "picture"
    expected = array.T[None] if mode == "L" else array.transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.array, expected)


def test_a_webp_without_loss_is_what_was_drawn_and_a_mask_too(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "image.webp", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "image.webp").array, array.transpose(2, 1, 0))
    mask = RNG.integers(0, 3, (30, 40), dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.webp", lossless=True)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.webp")[0], mask.T)


def test_no_ending_is_both_read_and_not_read() -> None:
    assert not set(ENDINGS) & set(UNREAD)
    assert is_unread(Path("a/b.HEIC"))
    assert not any(is_unread(Path(name)) for name in (".b.heic", "b.png", "b.txt", "b.raw", "heic"))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path, ending: str) -> None:
    array = RNG.integers(0, 65535, (30, 40), dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / f"image{ending}")
    volume = read_image(tmp_path / f"image{ending}")
    np.testing.assert_array_equal(volume.array[0], array.T)
    assert volume.array.dtype == np.uint16


def palette_picture(path: Path, colours: list[int]) -> NDArray[np.uint8]:
    indices = RNG.integers(0, len(colours) // 3, (30, 40), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette(colours)
    picture.save(path)
    return indices


COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 128]
GREYS = [0, 0, 0, 255, 255, 255, 7, 7, 7]


@pytest.mark.parametrize("ending", [".png", ".gif"])
def test_a_palette_of_colours_is_rgb_in_an_image_and_indices_in_a_mask(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    indices = palette_picture(path, COLOURS)
    expected = np.reshape(COLOURS, (-1, 3))[indices]
    np.testing.assert_array_equal(read_image(path).array, expected.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_mask(path)[0], indices.T)


@pytest.mark.parametrize("ending", [".png", ".gif"])
def test_a_palette_of_greys_is_grey_in_images_and_masks(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"image{ending}"
    expected = np.array(GREYS[::3])[palette_picture(path, GREYS)].T
    np.testing.assert_array_equal(read_image(path).array[0], expected)
    np.testing.assert_array_equal(read_mask(path)[0], expected)


def test_an_opaque_alpha_channel_is_dropped_and_another_kept(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (30, 40, 4), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "veiled.png")
    assert read_image(tmp_path / "veiled.png").channels == 4
    array[..., 3] = 255
    Image.fromarray(array).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png").array, array[..., :3].transpose(2, 1, 0))


def test_black_and_white_is_zero_and_one(tmp_path: Path) -> None:
    array = RNG.integers(0, 2, (30, 40)).astype(bool)
    Image.fromarray(array).save(tmp_path / "image.png")
    values, _ = read_mask(tmp_path / "image.png")
    np.testing.assert_array_equal(values, array.T.astype(np.uint8))


# several channels


def test_channels_of_several_files_are_stacked(tmp_path: Path, nifti: Path) -> None:
    other = save(tmp_path / "other.nii.gz", RNG.normal(size=SHAPE).astype(np.float32))
    volume = read_image([nifti, other])
    assert volume.array.shape == (2, *SHAPE)
    np.testing.assert_array_equal(volume.array[1], read_image(other).array[0])


@pytest.mark.parametrize("name", ["shape", "shift"])
def test_channels_on_another_grid_are_refused(tmp_path: Path, nifti: Path, name: str) -> None:
    affine = OBLIQUE.copy()
    affine[0, 3] += 5 if name == "shift" else 0
    other = save(tmp_path / "other.nii", np.zeros(SHAPE if name == "shift" else (5, 6, 8), np.int16), affine)
    with pytest.raises(GeometryError, match=r"must lie on one grid, but other\.nii has"):
        stack_channels([read_image(nifti), read_image(other)])


# masks


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_masks_are_whole_numbers_whatever_their_type(tmp_path: Path, dtype: type) -> None:
    array = RNG.choice([0, 4, 100], SHAPE).astype(dtype)
    values, geometry = read_mask(save(tmp_path / "mask.nii.gz", array))
    assert values.dtype.kind in "iu"
    np.testing.assert_array_equal(values, array)
    assert geometry.shape == SHAPE


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.5, "holds fractions such as 0.5"), (np.nan, "NaN or infinite"), (3e9, "labels have 32 bits")],
)
def test_what_is_no_label_is_refused(tmp_path: Path, value: float, words: str) -> None:
    array = np.zeros(SHAPE)
    array[1, 1, 1] = value
    with pytest.raises(DataError, match=words) as caught:
        read_mask(save(tmp_path / "mask.nii", array))
    assert str(tmp_path) in caught.value.message


def test_a_mask_in_equal_colour_channels_is_one_mask_and_in_others_none(tmp_path: Path) -> None:
    grey = RNG.integers(0, 2, (30, 40), dtype=np.uint8) * 255
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "grey.png")[0], grey.T)
    Image.fromarray(np.stack([grey, grey, 255 - grey], -1)).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="has 3 channels; a mask has one value per voxel"):
        read_mask(tmp_path / "colour.png")


@pytest.mark.data
@pytest.mark.parametrize("folder", ["hippocampus", "cardiac_mr", "headneck_ct"])
def test_real_images_and_their_masks_lie_on_one_grid(folder: str) -> None:
    root = Path(__file__).resolve().parents[2] / "../shared/data" / folder
    if not root.is_dir():
        pytest.skip(f"{root} is absent")
    for image in sorted((root / "imagesTr").glob("*.nii.gz"))[:2]:
        volume = read_image(image)
        values, geometry = read_mask(root / "labelsTr" / image.name)
        assert values.shape == volume.geometry.shape
        assert volume.geometry.difference(geometry) == ""
