"""TIFF files of all kinds, decoded part by part: what comes out is what Pillow makes of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medunet.errors import DataError, OutputError, ReadError
from medunet.io.files import read_image
from medunet.io.mapped import is_mapped
from medunet.io.read import read_volume

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (301, 217, 3), np.uint8)
GREY = RNG.integers(0, 65535, (301, 217), np.uint16)


def _tifffile(array: NDArray[Any], **options: Any) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, array, **options)


def _pillow(picture: Image.Image, compression: str) -> Callable[[Path], None]:
    return lambda path: picture.save(path, compression=compression)


COLOUR: dict[str, Any] = {"photometric": "rgb"}
ALPHA: dict[str, Any] = {**COLOUR, "extrasamples": [2]}


def _pyramid(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, ome=kind == "OME") as file:
            file.write(RGB, tile=(64, 64), compression="zlib", subifds=2 if kind == "OME" else None, **COLOUR)
            for step in (2, 4):
                smaller = RGB[::step, ::step]
                file.write(smaller, tile=(64, 64), subfiletype=0 if kind == "sizes" else 1, **COLOUR)

    return write


FILES: dict[str, Callable[[Path], None]] = {
    "tiles": _tifffile(RGB, tile=(64, 64), **COLOUR),
    "tiles, deflate, predictor": _tifffile(RGB, tile=(64, 48), compression="zlib", predictor=True, **COLOUR),
    "strips": _tifffile(RGB, rowsperstrip=16, **COLOUR),
    "one strip": _tifffile(RGB, **COLOUR),
    "BigTIFF": _tifffile(RGB, tile=(64, 64), compression="zlib", bigtiff=True, **COLOUR),
    "16 bits": _tifffile(GREY, tile=(64, 64), compression="zlib"),
    "big endian": _tifffile(GREY, rowsperstrip=9, byteorder=">"),
    "float": _tifffile(GREY.astype(np.float32), tile=(64, 64)),
    "opaque": _tifffile(
        np.dstack([RGB, np.full(GREY.shape, 255, np.uint8)]), tile=(64, 64), extrasamples=[2], **COLOUR
    ),
    "half opaque": _tifffile(np.dstack([RGB, GREY.astype(np.uint8)]), tile=(64, 64), extrasamples=[2], **COLOUR),
    "LZW": _pillow(Image.fromarray(RGB), "tiff_lzw"),
    "JPEG": _pillow(Image.fromarray(RGB), "jpeg"),
    "palette": _pillow(Image.fromarray(RGB).quantize(16), "tiff_lzw"),
    "CMYK": _pillow(Image.fromarray(RGB).convert("CMYK"), "tiff_lzw"),
    "pyramid": _pyramid("pages"),
    "pyramid by its sizes": _pyramid("sizes"),
    "pyramid in SubIFDs": _pyramid("OME"),
    "fax": _pillow(Image.fromarray(RGB).convert("1"), "group4"),
}


@pytest.mark.parametrize("kind", FILES)
def test_parts_give_what_the_whole_gives(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    FILES[kind](path)
    whole = read_image(path)
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    parts = read_image(path, scratch=tmp_path)
    assert is_mapped(parts.array)
    assert not is_mapped(whole.array)
    assert parts.array.dtype == whole.array.dtype
    assert np.argsort(parts.array.strides).tolist() == np.argsort(whole.array.strides).tolist()  # sums go the same way
    np.testing.assert_array_equal(parts.array, whole.array)
    assert parts.source.notes == whole.source.notes
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]


def test_grey_and_colour_change_places_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    grey = RGB[..., :1]
    tifffile.imwrite(tmp_path / "grey.tif", grey[..., 0], tile=(64, 64))
    tifffile.imwrite(tmp_path / "three.tif", np.repeat(grey, 3, axis=2), tile=(64, 64), photometric="rgb")
    three = read_volume(tmp_path / "grey.tif", channels=3, scratch=tmp_path).array
    one = read_volume(tmp_path / "three.tif", channels=1, scratch=tmp_path).array
    assert is_mapped(three)
    assert is_mapped(one)
    np.testing.assert_array_equal(three, np.repeat(one, 3, axis=0))


@pytest.mark.parametrize(
    "write",
    [
        _tifffile(RGB.astype(np.uint16), tile=(64, 64), **COLOUR),  # of which Pillow would drop eight bits
        _tifffile(RGB.transpose(2, 0, 1), planarconfig="separate", **COLOUR),
        _tifffile(RGB, tile=(64, 64), extratags=[(274, "H", 1, 6, True)], **COLOUR),  # lying on its side
        _tifffile(np.stack([GREY, GREY]), photometric="minisblack"),
    ],
    ids=["16 bits per colour", "planes", "turned", "pages"],
)
def test_what_cannot_go_part_by_part_is_read_as_a_whole(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif")
    whole = read_image(tmp_path / "a.tif")
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    again = read_image(tmp_path / "a.tif")
    assert not is_mapped(again.array)
    np.testing.assert_array_equal(again.array, whole.array)


def test_more_pixels_than_any_disk_takes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.io.large.MOST_PIXELS", 1000)
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb")
    with pytest.raises(DataError, match="states 217 x 301 pixels"):
        read_image(tmp_path / "a.tif")


def test_a_cut_off_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(64, 64), compression="zlib", photometric="rgb")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match="cannot be read as a picture"):
        read_image(tmp_path / "a.tif", scratch=tmp_path)


def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    tifffile.imwrite(tmp_path / "a.tif", RGB, tile=(64, 64), photometric="rgb")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medunet.io.mapped._reserve", full)
    with pytest.raises(OutputError, match=r"has no room to unpack .*: No space left"):
        read_image(tmp_path / "a.tif", scratch=tmp_path)
