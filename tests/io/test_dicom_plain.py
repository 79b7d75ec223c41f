"""The quick way into plain files finds what pydicom finds, or leaves the file to pydicom."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import ReadError
from medunet.geometry import Geometry
from medunet.io.dicom import pixels as pixels_module
from medunet.io.dicom import read_dicom, read_series, scan
from medunet.io.dicom.header import _WANTED
from medunet.io.dicom.plain import plain_header

GRID = Geometry((8, 7, 6), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), ((-1.0, 0, 0), (0, -1.0, 0), (0, 0, 1.0)))
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)
NAMES = sorted(_WANTED)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with the six slices of `VALUES` and nothing else."""
    return write_ct_export(VALUES, GRID, tmp_path / "study", localizer=False) / CT_FOLDER


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = write_ct_export(VALUES, GRID, tmp_path_factory.mktemp("plain") / "study", localizer=False) / CT_FOLDER
    return (folder / "IM000000").read_bytes()


def encoded(data: bytes, syntax: UID = ExplicitVRLittleEndian, **elements: object) -> bytes:
    """A file with other elements and another encoding."""
    original = pydicom.dcmread(io.BytesIO(data))
    dataset = Dataset()
    dataset.update({element.tag: element for element in original})
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta = original.file_meta
    dataset.file_meta.TransferSyntaxUID = syntax
    if not syntax.is_little_endian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    stream = io.BytesIO()
    dataset.save_as(
        stream, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )
    return stream.getvalue()


def sequence(*, undefined: bool, depth: int = 2) -> Sequence:
    item = Dataset()
    item.CodeValue = "1"
    if depth:
        item.PurposeOfReferenceCodeSequence = sequence(undefined=undefined, depth=depth - 1)
        item["PurposeOfReferenceCodeSequence"].is_undefined_length = undefined
    item.is_undefined_length_sequence_item = undefined
    return Sequence([item, item])


def assert_as_pydicom(data: bytes) -> bool:
    """Whether the file is plain; if so, pydicom finds the same, at the same place."""
    stream, slow = io.BytesIO(data), io.BytesIO(data)
    header = plain_header(stream, _WANTED)
    if header is None:
        return False
    expected = pydicom.dcmread(slow, stop_before_pixels=True, force=True, specific_tags=list(NAMES))
    for tag in NAMES:
        one, other = header.get_item(tag), expected.get_item(tag)
        assert (one is None) == (other is None)
        if one is not None:
            assert (one.tag, one.VR, one.value) == (other.tag, other.VR, other.value)
    for keyword in ("TransferSyntaxUID", "MediaStorageSOPClassUID"):
        assert header.file_meta.get(keyword) == expected.file_meta.get(keyword)
    assert header.original_encoding == expected.original_encoding
    assert header.original_character_set == expected.original_character_set
    assert stream.tell() == slow.tell()
    return True


@pytest.mark.parametrize(
    ("syntax", "plain"),
    [
        (ExplicitVRLittleEndian, True),
        (ImplicitVRLittleEndian, True),
        (ExplicitVRBigEndian, False),
        (DeflatedExplicitVRLittleEndian, False),
    ],
)
def test_little_endian_files_are_plain(good: bytes, syntax: UID, plain: bool) -> None:
    assert assert_as_pydicom(encoded(good, syntax)) is plain


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_are_stepped_over(good: bytes, syntax: UID, undefined: bool) -> None:
    dataset = pydicom.dcmread(io.BytesIO(encoded(good, ReferencedImageSequence=sequence(undefined=undefined))))
    dataset["ReferencedImageSequence"].is_undefined_length = undefined
    stream = io.BytesIO()
    dataset.save_as(stream)
    data = stream.getvalue()
    assert (b"\xfe\xff\xdd\xe0" in data) is undefined
    assert assert_as_pydicom(encoded(data, syntax))


@pytest.mark.parametrize("size", [20_000, 100_000, 2**21])
def test_long_headers_are_read_to_their_end(good: bytes, size: int) -> None:
    data = encoded(good, EncapsulatedDocument=bytes(size))
    assert assert_as_pydicom(data) is (size < 2**20)


@pytest.mark.parametrize("characters", ["ISO_IR 192", ["", "ISO 2022 IR 87"], "ISO_IR 13"])
def test_text_is_read_in_its_character_set(series: Path, characters: object) -> None:
    path = series / "IM000000"
    path.write_bytes(encoded(path.read_bytes(), SpecificCharacterSet=characters))
    assert assert_as_pydicom(path.read_bytes())
    assert len(scan(series).series) == 1


def test_a_character_set_that_is_none_leaves_the_file_to_pydicom(good: bytes) -> None:
    assert b"ISO_IR 100" in good
    assert not assert_as_pydicom(good.replace(b"ISO_IR 100", b"ISO\0IR 100"))


def test_what_may_be_no_sequence_leaves_the_file_to_pydicom(good: bytes) -> None:
    data = encoded(good, ImplicitVRLittleEndian)
    start = data.index(b"\x08\x00\x05\x00")
    unknown = b"\x08\x00\x03\x00\xff\xff\xff\xff\xfe\xff\xdd\xe0\0\0\0\0"
    assert not assert_as_pydicom(data[:start] + unknown + data[start:])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=4),
    implicit=st.booleans(),
    cut=st.sampled_from([0, 0, 0, 100, 200]),
)
@pytest.mark.filterwarnings("ignore")  # pydicom's
def test_of_damaged_files_both_find_the_same(
    good: bytes, changes: list[tuple[float, int]], implicit: bool, cut: int
) -> None:
    raw = bytearray(encoded(good, ImplicitVRLittleEndian) if implicit else good)
    for place, value in changes:
        raw[int(place * (len(raw) - 112))] = value
    assert_as_pydicom(bytes(raw[: len(raw) - cut]))


def native_slices(folder: Path) -> int:
    return sum(item.native is not None for item in scan(folder).series[0].slices)


def rewritten(series: Path, stored: np.ndarray, **elements: object) -> None:
    """Every file with other pixels, (columns, rows, slices)."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        k = dataset.InstanceNumber - 1
        data = np.ascontiguousarray(stored[:, :, k].T).tobytes()
        dataset.PixelData = data + b"\0" * (len(data) % 2)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


@pytest.mark.parametrize("allocated", [8, 16])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("unused", [0, 3])
@pytest.mark.parametrize("intercept", [0, -1024, 32768, 0.5])
def test_pixels_that_lie_as_they_are_read_as_pydicom_decodes_them(
    series: Path, allocated: int, signed: int, unused: int, intercept: float
) -> None:
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    limits = np.iinfo(kind)
    stored = np.random.default_rng(1).integers(limits.min, limits.max, GRID.shape, dtype=kind, endpoint=True)
    bits = allocated - unused
    rewritten(
        series,
        stored,
        BitsAllocated=allocated,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=signed,
        RescaleIntercept=str(intercept),
    )
    assert native_slices(series) == 6
    values = (stored << unused) >> unused if unused else stored
    volume = read_dicom(series)
    assert np.array_equal(volume.array[0], values.astype(np.float64) + intercept)
    info = np.iinfo(np.int16)
    expected = values.astype(np.int64) + int(intercept)
    narrow = info.min <= expected.min() and expected.max() <= info.max
    assert volume.array.dtype == (np.float32 if intercept == 0.5 else np.int16 if narrow else np.int32)


def test_what_follows_the_pixels_leaves_the_file_to_pydicom(series: Path) -> None:
    for path in series.iterdir():
        path.write_bytes(path.read_bytes() + b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", 4) + bytes(4))
    assert native_slices(series) == 0
    assert np.array_equal(read_dicom(series).array[0], VALUES)


@pytest.mark.parametrize("unusual", [{"NumberOfFrames": 1}, {"BitsAllocated": 32}])
def test_unusual_pixels_are_left_to_pydicom(series: Path, unusual: dict[str, int]) -> None:
    stored = VALUES.astype(np.int32) + 1024
    rewritten(series, stored.astype(f"u{unusual.get('BitsAllocated', 16) // 8}"), **unusual)
    assert native_slices(series) == 0
    assert np.array_equal(read_dicom(series).array[0], VALUES)


@pytest.mark.parametrize("missing", ["PixelRepresentation", "SamplesPerPixel"])
def test_pixels_that_are_not_fully_described_are_refused(series: Path, missing: str) -> None:
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        delattr(dataset, missing)
        dataset.save_as(path)
    assert native_slices(series) == 0
    with pytest.raises(ReadError, match="cannot be decoded"):
        read_dicom(series)


def test_pixels_that_are_said_to_be_compressed_are_not_read_as_they_are(series: Path) -> None:
    for path in series.iterdir():
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0", 1))
    assert native_slices(series) == 0
    with pytest.raises(ReadError, match="cannot be decoded"):
        read_dicom(series)


def test_a_file_that_changed_after_the_scan_is_read_anew(series: Path) -> None:
    (found,) = scan(series).series
    path = found.files[2]
    dataset = pydicom.dcmread(path)
    dataset.SeriesDescription = "a name that is longer than the one before"
    dataset.save_as(path)
    os.utime(path, ns=(0, 0))
    assert np.array_equal(read_series(found).array[0], VALUES)


def test_a_file_that_was_cut_after_the_scan_is_an_error(series: Path) -> None:
    (found,) = scan(series).series
    path = found.files[2]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReadError, match=f"The pixels of {path.name} cannot be decoded"):
        read_series(found)


def test_the_first_damaged_slice_is_the_one_that_is_told(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = scan(series).series
    for number in (2, 4, 5):
        found.files[number].unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    for _ in range(5):
        with pytest.raises(ReadError, match=f"The pixels of {found.files[2].name} "):
            read_series(found)


def test_plain_pixels_need_no_second_look_at_the_header(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = scan(series).series
    monkeypatch.setattr(pixels_module, "_open", lambda _: pytest.fail("parsed twice"))
    assert np.array_equal(read_series(found).array[0], VALUES)
