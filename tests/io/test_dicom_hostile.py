"""Files that were made, or damaged, to break a reader: they cost themselves and nothing else."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import MedunetError
from medunet.geometry import Geometry
from medunet.io.dicom import elements, read_dicom, scan

GRID = Geometry((4, 4, 3), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))
VALUES = np.arange(48, dtype=np.int16).reshape(GRID.shape)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ct_export(VALUES, GRID, tmp_path_factory.mktemp("hostile") / "study", localizer=False) / CT_FOLDER


def good_bytes(series: Path) -> bytes:
    return (series / "IM000000").read_bytes()


def assert_costs_nothing(series: Path, data: bytes) -> None:
    """A hostile file beside a series is noted, and the series is read."""
    path = series / "hostile"
    path.write_bytes(data)
    try:
        volume = read_dicom(series)
        assert np.array_equal(volume.array[0], VALUES)
        assert any("hostile" in note for note in volume.source.notes)
    finally:
        path.unlink()


def nested(depth: int) -> bytes:
    """Sequences of undefined length within one another."""
    meta = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00"
    opening = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return b"\0" * 128 + b"DICM" + meta + opening * depth


def test_deeply_nested_sequences_cost_only_their_file(series: Path) -> None:
    assert_costs_nothing(series, nested(20000))


def test_deep_nesting_in_functional_groups_costs_only_its_file(series: Path) -> None:
    opening = b"\x00\x52\x30\x92SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    assert_costs_nothing(series, nested(0) + opening * 20000)


def test_a_sequence_in_place_of_a_value_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of towers of sequences pydicom makes a text for minutes."""
    dataset = pydicom.Dataset()
    for keyword in ("Rows", "SeriesDescription"):
        dataset.add_new(keyword, "SQ", [pydicom.Dataset()])
    monkeypatch.setattr(pydicom.Dataset, "__str__", lambda _: pytest.fail("printed"))
    assert elements.text(dataset, "Rows") == ""
    assert elements.numbers(dataset, "Rows") == ()
    assert elements.printable(dataset, "SeriesDescription") == ""


@pytest.mark.parametrize("side", [46341, 65535])
def test_claims_of_gigabytes_are_not_allocated(series: Path, side: int) -> None:
    raw = bytearray(good_bytes(series))
    for element in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        start = raw.index(element) + 8
        raw[start : start + 2] = struct.pack("<H", side)
    assert_costs_nothing(series, bytes(raw))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0xFFFFFFFE, 0x7FFFFFFF])
def test_pixel_data_of_absurd_length_cost_only_their_file(series: Path, length: int) -> None:
    raw = bytearray(good_bytes(series))
    start = raw.index(b"\xe0\x7f\x10\x00OW\x00\x00") + 8
    raw[start : start + 4] = struct.pack("<I", length)
    assert_costs_nothing(series, bytes(raw[:-8]))


@pytest.mark.parametrize("keep", [0, 3, 131, 132, 140, 300, 700])
def test_truncation_anywhere_costs_only_the_file(series: Path, keep: int) -> None:
    assert_costs_nothing(series, good_bytes(series)[:keep])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 40),
)
def test_damaged_bytes_end_in_a_volume_or_in_a_sentence(
    series: Path, tmp_path: Path, changes: list[tuple[float, int]], cut: int
) -> None:
    raw = bytearray(good_bytes(series))
    for place, value in changes:
        raw[int(place * len(raw))] = value
    (tmp_path / "damaged").write_bytes(raw[: len(raw) - cut])
    scan(tmp_path)
    with suppress(MedunetError):
        read_dicom(tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), magic=st.booleans())
def test_random_bytes_end_in_a_sentence(tmp_path: Path, data: bytes, magic: bool) -> None:
    (tmp_path / "random").write_bytes((b"\0" * 128 + b"DICM" if magic else b"\x08\x00\x05\x00CS\x02\x00") + data)
    with pytest.raises(MedunetError):
        read_dicom(tmp_path)
