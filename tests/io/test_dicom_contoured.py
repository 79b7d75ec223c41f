"""RT structure sets of others: holes as contours of their own, points, tilted ones, other images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from medunet.demo.dicom_export import write_ct_export
from medunet.errors import DataError, DicomError, MedunetError, ReadError
from medunet.export.dicom.rtstruct import write_rtstruct
from medunet.geometry import Geometry
from medunet.io.dicom import Series, read_dicom, scan
from medunet.io.dicom.contoured import fill, is_rtstruct, read_rtstruct
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

GRID = Geometry((14, 12, 8), (0.75, 0.5, 2.0), (0.0, 0.0, 0.0), ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)))


@given(st.integers(0, 2**32 - 1))
def test_filling_agrees_with_matplotlib(seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = random.uniform(-3, 13, (random.integers(3, 9), 2))
    rows, columns = np.indices((10, 9))
    pixels = np.stack([rows.ravel(), columns.ravel()], axis=1)
    one, other = corners, np.roll(corners, -1, axis=0)
    inside = np.zeros(len(pixels), dtype=bool)
    for start, end in zip(one, other, strict=True):  # triangles about the origin: even and odd, as `fill` counts
        inside ^= Outline([(0, 0), start, end, (0, 0)]).contains_points(pixels)
    assert (fill(corners, (10, 9)).ravel() == inside)[pixels.any(axis=1)].mean() > 0.99


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[Path, Series]:
    """A structure set of one contour on slice 2, around rows 3 to 6 and columns 2 to 9, and its series."""
    write_ct_export(np.zeros(GRID.shape, np.int16), GRID, tmp_path / "export")
    volume = read_dicom(tmp_path / "export")
    array = np.zeros(GRID.shape, np.uint8)
    array[2:10, 3:7, 2] = 1
    segmentation = Segmentation(array, GRID, LabelMap.from_mapping({"background": 0, "one": 1}), volume.source)
    write_rtstruct(segmentation, tmp_path / "rt.dcm")
    assert volume.source.series is not None
    return tmp_path / "rt.dcm", volume.source.series


def add(path: Path, kind: str, points: list[tuple[float, float, float]], region: int = 0) -> None:
    """A contour of row, column and slice."""
    dataset = pydicom.dcmread(path)
    contour = pydicom.Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
    contour.ContourData = [value for row, column, k in points for value in (column * 0.75, row * 0.5, k * 2.0)]
    while len(dataset.ROIContourSequence) <= region:
        number = len(dataset.ROIContourSequence) + 1
        name, drawn = pydicom.Dataset(), pydicom.Dataset()
        name.ROINumber, name.ROIName, drawn.ReferencedROINumber = number, "two", number
        drawn.ContourSequence = []
        dataset.StructureSetROISequence.append(name)
        dataset.ROIContourSequence.append(drawn)
    dataset.ROIContourSequence[region].ContourSequence.append(contour)
    dataset.save_as(path)


def square(low: float, high: float, k: float) -> list[tuple[float, float, float]]:
    return [(low, low, k), (low, high, k), (high, high, k), (high, low, k)]


def test_a_contour_inside_of_another_is_a_hole_and_a_point_a_pixel(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    add(path, "CLOSED_PLANAR", square(3.5, 5.5, 2))
    add(path, "POINT", [(10, 11, 5)])
    found = read_rtstruct(path, series)
    expected = np.zeros(GRID.shape, np.uint8)
    expected[2:10, 3:7, 2] = 1
    expected[4:6, 4:6, 2] = 0
    expected[11, 10, 5] = 1
    assert np.array_equal(found.array, expected)
    assert found.source.notes == ()


def test_contours_of_no_use_are_counted(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    add(path, "OPEN_PLANAR", square(3.5, 5.5, 2))
    add(path, "CLOSED_PLANAR", square(3.5, 5.5, 40))
    found = read_rtstruct(path, series)
    assert found.array.sum() == 8 * 4
    assert found.source.notes[0].startswith("2 contours were left out")


def test_regions_are_taken_by_name_and_may_lie_inside_of_each_other(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    add(path, "CLOSED_PLANAR", square(3.5, 5.5, 2), region=1)
    found = read_rtstruct(path, series)
    assert found.labels.nested
    assert found.labels.membership[1, 2]
    assert np.bincount(found.array.ravel())[1:].tolist() == [28, 4]
    alone = read_rtstruct(path, series, ["two"])
    assert alone.labels.names == ("background", "two")
    assert alone.array.sum() == 4
    with pytest.raises(DicomError, match=r"no region three\. Its regions are one, two"):
        read_rtstruct(path, series, ["three"])


def test_regions_that_cross_are_refused(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    add(path, "CLOSED_PLANAR", square(4.5, 8.5, 2), region=1)
    with pytest.raises(DataError, match=r"one and two of .* overlap"):
        read_rtstruct(path, series)


def across(path: Path) -> None:
    add(path, "CLOSED_PLANAR", [(1, 1, 1), (1, 5, 2), (5, 5, 3)])


def elsewhere(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    dataset.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    dataset.save_as(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-150])


def cut_early(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def unfinished(path: Path) -> None:
    """Sequences of unstated length, and the file ends within the contours."""
    dataset = pydicom.dcmread(path)
    for element in dataset:
        element.is_undefined_length = element.VR == "SQ"
    dataset.save_as(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"CLOSED_PLANAR")])


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (across, DicomError, "runs through 4 mm across the slices"),
        (elsewhere, DicomError, "another frame of reference"),
        (cut, ReadError, "it is truncated"),
        (cut_early, ReadError, "it is truncated"),
        (unfinished, ReadError, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_told(
    drawn: tuple[Path, Series], damage: object, error: type[MedunetError], reason: str
) -> None:
    path, series = drawn
    damage(path)  # type: ignore[operator]
    with pytest.raises(error, match=reason):
        read_rtstruct(path, series)


def test_other_files_are_no_structure_sets(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    assert is_rtstruct(path)
    assert not is_rtstruct(series.files[0])
    with pytest.raises(DicomError, match="is no RT structure set"):
        read_rtstruct(series.files[0], series)


def test_irregular_series_are_refused(drawn: tuple[Path, Series]) -> None:
    path, series = drawn
    series.files[3].unlink()
    found = next(each for each in scan(series.files[0].parent).series if each.upright)
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_rtstruct(path, found)
    with pytest.raises(DicomError, match="regular series only"):
        read_rtstruct(path, found.on_upright_grid())
