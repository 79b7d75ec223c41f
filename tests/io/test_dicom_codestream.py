"""Compressed frames that state something else than their header, or are damaged, never get to a codec."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_seeds import GRID, SEEDS, in_syntax, plain, values
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medunet.errors import MedunetError
from medunet.io.dicom import pixels as pixels_module
from medunet.io.dicom import read_dicom

COMPRESSED = ("jpeg_lossless", "jpeg_ls", "jpeg_2000", "ht_jpeg_2000", "fragmented")


@pytest.fixture
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Three slices in the syntax that the test names."""
    write, argument = SEEDS[request.param]
    return write(tmp_path / "series", argument)


def change_frames(folder: Path, change: Callable[[bytes], bytes]) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = encapsulate([change(get_frame(dataset.PixelData, 0, number_of_frames=1))])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)


def assert_no_codec_sees_it(folder: Path, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(pixels_module, "pixel_array", lambda *_, **__: seen.append(1))
    with pytest.raises(MedunetError, match=reason):
        read_dicom(folder)
    assert not seen


@pytest.mark.parametrize("series", COMPRESSED, indirect=True)
def test_what_is_whole_is_read(series: Path) -> None:
    volume = read_dicom(series)
    assert volume.geometry.difference(GRID, tolerance_mm=1e-6) == ""
    assert volume.array.shape[1:] == GRID.shape
    if volume.array.max() != 900 - 1024:  # the frame of HTJ2K is another one
        assert np.array_equal(volume.array[0], values())
    else:
        assert np.array_equal(np.unique(volume.array), [100 - 1024, 900 - 1024])


@pytest.mark.parametrize("series", [name for name in COMPRESSED if name != "fragmented"], indirect=True)
@pytest.mark.parametrize("keyword", ["Rows", "Columns"])
def test_another_size_than_the_header_states_is_refused(
    series: Path, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, 16)
        dataset.save_as(path)
    assert_no_codec_sees_it(series, "frame 1 is of 36 x 40 pixels and 1 component.*, the header states", monkeypatch)


@pytest.mark.parametrize("series", ["jpeg_2000"], indirect=True)
def test_gigabytes_that_a_codestream_claims_are_refused(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_frames(series, lambda frame: frame[:8] + b"\0\1\0\0\0\1\0\0" + frame[16:])
    assert_no_codec_sees_it(series, "frame 1 is of 65536 x 65536 pixels", monkeypatch)


@pytest.mark.parametrize(
    ("series", "change", "reason"),
    [
        ("jpeg_lossless", lambda frame: frame[:2] + b"\0" * 23 + frame[2:], "markers do not follow one another"),
        ("jpeg_lossless", lambda frame: frame[:-40], "its scan does not end"),
        ("jpeg_lossless", lambda frame: frame[:-2] + frame[2:], "its scan does not end"),
        (
            "jpeg_lossless",
            lambda frame: frame.replace(b"\xff\xc3", b"\xff\xc0"),
            "not coded as the transfer syntax says",
        ),
        ("jpeg_ls", lambda frame: frame.replace(b"\xff\xf7", b"\xff\xc3"), "not coded as the transfer syntax says"),
        ("jpeg_ls", lambda frame: frame[:-30], "its scan does not end"),
        ("jpeg_ls", lambda frame: frame[:20], "a marker segment does not end|markers do not follow"),
        ("jpeg_2000", lambda frame: b"\0" * 40 + frame, "does not begin as one"),
        ("ht_jpeg_2000", lambda frame: frame[:30], "does not begin as one"),
    ],
    indirect=["series"],
)
def test_damaged_frames_are_refused(
    series: Path, change: Callable[[bytes], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_frames(series, change)
    assert_no_codec_sees_it(series, reason, monkeypatch)


@pytest.mark.parametrize("series", ["rle"], indirect=True)
def test_a_decoder_that_panics_is_a_sentence(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicError(BaseException):
        """As Rust's panics come to Python: beside the tree of Exception."""

    def panic(*_: object, **__: object) -> None:
        raise PanicError("index out of bounds")

    monkeypatch.setattr(pixels_module, "pixel_array", panic)
    with pytest.raises(MedunetError, match="cannot be decoded: index out of bounds"):
        read_dicom(series)


@pytest.mark.parametrize("series", ["rle", "jpeg_2000"], indirect=True)
def test_more_pixels_than_compressed_bytes_can_hold_are_refused(series: Path) -> None:
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Rows = dataset.Columns = 16384
        dataset.save_as(path)
    with pytest.raises(MedunetError, match="compressed bytes hold no 1 x 16384 x 16384 pixels"):
        read_dicom(series)


def test_deflated_data_that_inflate_to_gigabytes_are_refused(tmp_path: Path) -> None:
    folder = plain(tmp_path / "series")
    for path in folder.iterdir():
        in_syntax(pydicom.dcmread(path), path, DeflatedExplicitVRLittleEndian)
    assert np.array_equal(read_dicom(folder).array[0], values())
    bomb = folder / "bomb"
    raw = next(folder.iterdir()).read_bytes()
    assert raw[:8] == b"\2\0\0\0UL\4\0"  # no preamble
    start = 12 + int.from_bytes(raw[8:12], "little")
    squeezed = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = squeezed.compress(bytes(2**24)) + squeezed.flush(zlib.Z_FULL_FLUSH)
    bomb.write_bytes(raw[:start] + block * 66 + squeezed.flush())
    volume = read_dicom(folder)
    assert np.array_equal(volume.array[0], values())
    assert any("bomb was left out: its data set inflates to more than 1 GiB" in note for note in volume.source.notes)
