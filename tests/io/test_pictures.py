"""Pictures as they are shown: turned, in all their kinds and bits; stacks; and what is refused."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medunet.errors import DataError, ReadError
from medunet.io.files import read_image, read_mask
from medunet.io.pictures import MOST_PIXELS, open_picture, picture_size

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 255, (30, 40), dtype=np.uint8)
DEEP = RNG.integers(0, 65535, (30, 40, 3), dtype=np.uint16)
AS_SHOWN = {
    1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T,
    6: np.rot90(GREY, -1), 7: GREY[::-1, ::-1].T, 8: np.rot90(GREY),
}  # fmt: skip


def save_turned(path: Path, orientation: int, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(GREY).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_turned_as_they_are_shown(tmp_path: Path, orientation: int) -> None:
    path = save_turned(tmp_path / "a.png", orientation)
    np.testing.assert_array_equal(read_image(path).array[0], AS_SHOWN[orientation].T)
    np.testing.assert_array_equal(read_mask(path)[0], AS_SHOWN[orientation].T)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_however_it_is_compressed(tmp_path: Path, orientation: int, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    if compression == "lzw":
        Image.fromarray(GREY).save(path, compression="tiff_lzw", tiffinfo={274: orientation})
    else:
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, GREY, photometric="minisblack", compression=compression, extratags=tags)
    np.testing.assert_array_equal(read_image(path).array[0], AS_SHOWN[orientation].T)


def test_a_jpeg_of_a_phone_stands_upright(tmp_path: Path) -> None:
    bright_left = np.zeros((32, 64), np.uint8)
    bright_left[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(bright_left).save(tmp_path / "a.jpg", exif=exif)
    array = read_image(tmp_path / "a.jpg").array[0]
    assert array.shape == (32, 64)
    assert array[:, :30].min() > 200
    assert array[:, 34:].max() < 50


def test_colours_of_sixteen_bits_keep_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", DEEP, photometric="rgb", compression="zlib")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(DEEP, isVector=True), str(tmp_path / "a.png"))
    for name in ("a.tif", "a.png"):
        array = read_image(tmp_path / name).array
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array, DEEP.transpose(2, 1, 0))


@pytest.mark.parametrize("opaque", [True, False])
def test_an_alpha_channel_of_sixteen_bits_goes_where_it_is_opaque(tmp_path: Path, opaque: bool) -> None:
    alpha = np.full((30, 40, 1), 65535 if opaque else 9, np.uint16)
    array = np.concatenate([DEEP, alpha], axis=-1)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(tmp_path / "a.png"))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    assert read_image(tmp_path / "a.png").channels == read_image(tmp_path / "a.tif").channels == (3 if opaque else 4)


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"tile": (16, 16), "compression": "zlib"}])
def test_a_tiff_of_any_numbers_keeps_them(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    array = (RNG.normal(size=(30, 40)) * 1000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array[0], array.T)


def test_channels_of_a_tiff_that_are_no_colours_are_kept(tmp_path: Path) -> None:
    array = RNG.integers(0, 255, (30, 40, 2), dtype=np.uint8)
    array[..., 1] = 255
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array.transpose(2, 1, 0))


def test_planes_of_colours_are_the_colours(tmp_path: Path) -> None:
    planes = DEEP.transpose(2, 0, 1).copy()
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, DEEP.transpose(2, 1, 0))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_the_colours_of_printers_and_cameras_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (40, 30), (200, 100, 50)).convert(mode)
    picture.save(tmp_path / "a.jpg", quality=95)
    array = read_image(tmp_path / "a.jpg").array
    assert array.shape == (3, 40, 30)
    np.testing.assert_allclose(array[:, 20, 15], [200, 100, 50], atol=6)


# stacks


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_the_pages_of_a_tiff_are_slices_of_a_volume(tmp_path: Path, dtype: str) -> None:
    pages = RNG.integers(0, 255, (5, 30, 40)).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    volume = read_image(tmp_path / "a.tif")
    assert volume.geometry.shape == (40, 30, 5)
    np.testing.assert_array_equal(volume.array[0], pages.transpose(2, 1, 0))
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif")[0], pages.transpose(2, 1, 0))


def test_pages_of_colours_are_a_volume_of_three_channels(tmp_path: Path) -> None:
    pages = RNG.integers(0, 255, (5, 30, 40, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="rgb")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, pages.transpose(3, 2, 1, 0))


def test_pages_of_several_sizes_are_no_stack(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY)
        file.write(GREY[::2, :20], subfiletype=0)
        file.write(GREY[:, ::2], subfiletype=0)
    with pytest.raises(DataError, match="pages that differ \\(40 x 30, 20 x 30, 20 x 15 pixels\\)"):
        read_image(tmp_path / "a.tif")


def write_pyramid(path: Path, picture: NDArray[Any], kind: str, **options: Any) -> Path:
    """A picture and versions of half and a quarter of its size: pages that say so, that do not, or SubIFDs."""
    with tifffile.TiffWriter(path, ome=kind == "OME") as file:
        file.write(picture, subifds=2 if kind == "OME" else None, **options)
        for step in (2, 4):
            file.write(picture[::step, ::step], subfiletype=0 if kind == "sizes" else 1, **options)
    return path


@pytest.mark.parametrize("kind", ["pages", "sizes", "OME"])
@pytest.mark.parametrize("picture", [GREY, DEEP, DEEP.astype(np.uint8)], ids=["grey", "16 bits per colour", "colour"])
def test_of_a_pyramid_the_first_page_is_the_picture(tmp_path: Path, picture: NDArray[Any], kind: str) -> None:
    photometric = "rgb" if picture.ndim == 3 else "minisblack"
    volume = read_image(write_pyramid(tmp_path / "a.tif", picture, kind, photometric=photometric, tile=(16, 16)))
    np.testing.assert_array_equal(volume.array, np.atleast_3d(picture).transpose(2, 1, 0))
    told = () if kind == "OME" else ("Smaller pages of the file were left out; its first page is the picture.",)
    assert volume.source.notes == told


@pytest.mark.parametrize("others", [[GREY], [GREY[::2, ::2], GREY], [np.kron(GREY, np.ones((2, 2), np.uint8))]])
def test_pages_that_are_no_smaller_are_no_pyramid_whatever_they_say(tmp_path: Path, others: list[NDArray[Any]]) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in (GREY, *others):
            file.write(page, subfiletype=1)
    if len({page.shape for page in (GREY, *others)}) == 1:
        assert read_image(tmp_path / "a.tif").geometry.shape == (40, 30, 2)
    else:
        with pytest.raises(DataError, match="pages that differ"):
            read_image(tmp_path / "a.tif")


def test_channels_and_time_points_as_pages_are_refused(tmp_path: Path) -> None:
    stack = RNG.integers(0, 255, (2, 5, 3, 30, 40), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(DataError, match="holds 3 channels and 2 frames"):
        read_image(tmp_path / "a.tif")


def test_a_stack_of_palettes_is_refused(tmp_path: Path) -> None:
    palette = Image.fromarray(GREY).convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "a.tif", save_all=True, append_images=[palette])
    with pytest.raises(DataError, match="stack of pages with palettes"):
        read_image(tmp_path / "a.tif")


# what is refused


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_an_animation_is_refused_and_its_first_frame_not_taken(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(RNG.integers(0, 255, (30, 40), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / f"a{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="animation of 3 frames"):
        read_image(tmp_path / f"a{ending}")


def test_the_second_picture_of_a_phone_is_left_out_with_a_note(tmp_path: Path) -> None:
    shades = [Image.fromarray(np.full((32, 32), shade, np.uint8)) for shade in (200, 10)]
    shades[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=shades[1:])
    volume = read_image(tmp_path / "a.jpg")
    assert volume.array.min() > 190
    assert "holds 2 pictures; the first is the one that is shown" in volume.source.notes[0]


def stated_png(path: Path, width: int, height: int, colours: int = 0) -> Path:
    """A PNG whose header states a size that its data do not have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return path


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = stated_png(tmp_path / "a.png", 20_000, 20_000)
    with pytest.raises(DataError, match="states 20000 x 20000 pixels; at most 178,956,970 are decoded") as caught:
        read_image(path)
    assert "Save it as a TIFF in tiles" in caught.value.hint
    Image.new("RGB", (8, 8)).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[18:26] = struct.pack("<ii", 20_000, 20_000)
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(DataError, match="states 20000 x 20000 pixels"):
        read_image(tmp_path / "a.bmp")
    tifffile.imwrite(tmp_path / "a.tif", GREY)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        for side in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[side].overwrite(30_000, dtype="I")
    with pytest.raises(DataError, match="states 30000 x 30000 pixels; at most 500,000,000"):
        read_image(tmp_path / "a.tif")


def test_the_size_of_a_bomb_is_not_looked_for_by_unpacking_it(tmp_path: Path) -> None:
    """Pillow decodes a PNG to find out how it lies."""
    with pytest.raises(DataError, match="states 20000 x 20000 pixels"):
        picture_size(stated_png(tmp_path / "a.png", 20_000, 20_000))


def test_masks_of_one_band_may_have_more_pixels_since_those_of_large_pictures_are_written(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="truncated"):  # it is looked into
        read_mask(stated_png(tmp_path / "a.png", 20_000, 20_000))
    with pytest.raises(DataError, match="at most 500,000,000"):
        read_mask(stated_png(tmp_path / "a.png", 23_000, 22_000))
    with pytest.raises(DataError, match="at most 178,956,970"):
        read_mask(stated_png(tmp_path / "a.png", 20_000, 20_000, colours=2))


def test_large_pictures_are_opened_without_a_warning_and_pillow_keeps_its_limit(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    path = stated_png(tmp_path / "a.png", 20_000, 20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_picture(path) as picture:
            assert picture.size == (20_000, 20_000)
    assert before == Image.MAX_IMAGE_PIXELS
    assert before is not None
    assert 2 * before == MOST_PIXELS  # from which on Pillow raises


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "it is empty (0 bytes)"),
        ("a.jpg", b"", "it is empty (0 bytes)"),
        ("a.png", b"hello, this is text\n" * 9, "its bytes are those of no picture"),
        ("a.tif", b"II*\0" + bytes(20), "cannot be read as a picture"),
    ],
)
def test_what_is_no_picture_is_a_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError) as caught:
        read_image(tmp_path / name)
    assert words in caught.value.message
    assert name in caught.value.message


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.05])
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp", ".gif"])
def test_a_truncated_picture_is_a_sentence(tmp_path: Path, ending: str, kept: float) -> None:
    path = tmp_path / f"a{ending}"
    noise: NDArray[np.uint8] = RNG.integers(0, 255, (90, 90), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ReadError, match=r"cannot be read as .*\(truncated"):
        read_image(path)


def test_a_palette_of_an_upright_mask_keeps_its_indices_when_it_is_turned(tmp_path: Path) -> None:
    indices = RNG.integers(0, 3, (30, 40), dtype=np.uint8)
    picture = Image.fromarray(indices)
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png")[0], np.rot90(indices, -1).T)


@pytest.mark.parametrize("mode", ["P", "PA"])
def test_a_mask_whose_palette_of_greys_hides_its_indices_keeps_them(tmp_path: Path, mode: str) -> None:
    indices = np.repeat(np.asarray([[0, 1, 7]], np.uint8), 4, axis=0)
    greys = {"black": [0] * 8, "alike": [0, 255, *[0] * 6], "told apart": [0, 255, *[0] * 5, 64]}
    for name, values in greys.items():
        picture = Image.fromarray(indices)
        picture.putpalette([value for value in values for _ in range(3)])
        picture = picture if mode == "P" else picture.convert("PA")
        picture.save(tmp_path / f"{name}.png" if mode == "P" else tmp_path / f"{name}.tif")
        expected = np.asarray(values, np.uint8)[indices] if name == "told apart" else indices
        path = next(tmp_path.glob(f"{name}.*"))
        np.testing.assert_array_equal(read_mask(path)[0], expected.T)
        np.testing.assert_array_equal(read_image(path).array[0], np.asarray(values)[indices].T)
