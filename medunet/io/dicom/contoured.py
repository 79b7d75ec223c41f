"""RT structure sets to masks on the grid of the images they were drawn on (PS3.3 section C.8.8.6).

A pixel belongs to a region if its centre lies within an odd number of the region's contours on that slice: a contour
inside of another is a hole, and a keyhole stays one. Each contour goes to the nearest slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement

from medunet.errors import DataError, DicomError, ReadError
from medunet.io.dicom.elements import count, items, numbers, printable, quiet, reason_of, text
from medunet.io.dicom.header import is_dicom, sop_class_of
from medunet.io.dicom.opening import opened
from medunet.io.dicom.overlaps import Layers, Overlaps, unlike
from medunet.io.dicom.series import Series
from medunet.io.dicom.sheets import Sheets
from medunet.io.dicom.slices import Plane
from medunet.io.volume import Segmentation, Source

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_TILTED_MM = 0.1
_UNDEFINED = 0xFFFFFFFF
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

LEFT_OUT = "Contours were left out: beyond the images, or neither closed nor points."


def is_rtstruct(path: Path) -> bool:
    """Whether a file is an RT structure set, whatever its name; False for what cannot be read."""
    return is_dicom(path) and sop_class_of(path) == RTSTRUCT_CLASS


def read_rtstruct(path: Path, series: Series, wanted: Sequence[str] | None = None) -> Segmentation:
    """Fill the contours of a structure set on the slices of a series.

    Args:
        path: the structure set.
        series: a regular volume.
        wanted: names of the regions to take; default: all that have closed contours.

    Returns:
        Segmentation (columns, rows, slices); labels are named as the regions are, their values are the regions'
        numbers. Its notes tell which contours were left out.

    Raises:
        ReadError: the file cannot be read.
        DicomError: the series is no regular volume, the set belongs to other images, or has no region of that name.
        DataError: regions that overlap without one lying inside of the other.
    """
    if series.geometry is None:
        raise DicomError(f"The series {series.title} cannot be read as a volume: {series.verdict}.", series.remedy)
    if series.resampled:
        raise DicomError(f"Contours are filled on regular series only, and {series.title} was resampled.")
    with _whole(path) as dataset:
        names = _regions(dataset, path, wanted)
        _check_frame(dataset, path, series)
        array = np.zeros(series.geometry.shape, dtype=np.uint16)
        overlaps = Overlaps(free=max(names, default=0) + 1)
        left_out = _fill(dataset, {number: number for number in names}, Sheets.of_series(series), array, overlaps)
        labels = overlaps.labels(names, path)
    notes = (f"{left_out} c{LEFT_OUT[1:]}",) if left_out else ()
    source = Source(path, "dicom", files=(path,), notes=notes, series=series)
    return Segmentation(labels.to_indices(array), series.geometry, labels, source)


def fill_regions(path: Path, wanted: Mapping[int, int], sheets: Sheets, array: NDArray[Any], way: Layers) -> int:
    """Fill contours on sheets.

    Args:
        path: a structure set.
        wanted: what regions are called in `array`, by their numbers.
        sheets: the slices.
        array: (columns, rows, sheets), drawn on.
        way: how.

    Returns:
        How many contours are of no use: beyond the sheets, or neither closed nor points.

    Raises:
        ReadError: the file cannot be read.
        DicomError: contours that are not parallel to the sheets, or none at all.
    """
    with _whole(path) as dataset:
        _check_drawn(dataset, path)
        return _fill(dataset, wanted, sheets, array, way)


def contour_points(path: Path) -> NDArray[np.float64]:
    """LPS millimetres (n, 3) of all points of a structure set.

    Raises:
        ReadError: the file cannot be read.
        DicomError: it holds no contours.
    """
    with _whole(path) as dataset:
        regions = _check_drawn(dataset, path)
        return np.concatenate([points for region in regions for _, points in _contours(region)])


@contextmanager
def _whole(path: Path) -> Iterator[Any]:
    """The data set of a structure set that is whole; what goes wrong in its values is told of the file."""
    try:
        with quiet(), opened(path) as handle:
            dataset = pydicom.dcmread(handle, force=True)
            if text(dataset, "SOPClassUID") != RTSTRUCT_CLASS:
                raise DicomError(f"{path} is no RT structure set.", "Give an RTSTRUCT object.")
            _check_whole(dataset, path)
            yield dataset
    except (DicomError, DataError):  # ReadError is a DataError
        raise
    except Exception as error:  # pydicom raises a dozen types for damaged files
        raise ReadError(f"{path} cannot be read: {reason_of(error)}.", "Export it again.") from error


def _check_drawn(dataset: Any, path: Path) -> tuple[Any, ...]:
    """The contours by region; there must be some."""
    regions = items(dataset, "ROIContourSequence")
    if not any(True for region in regions for _ in _contours(region)):
        raise DicomError(f"{path.name} holds no contours.", "Export it again, with its contours.")
    return regions


def _fill(dataset: Any, wanted: Mapping[int, int], sheets: Sheets, array: NDArray[Any], way: Layers) -> int:
    left_out = 0
    for region in items(dataset, "ROIContourSequence"):
        number = count(region, "ReferencedROINumber")
        if number in wanted:
            filled, strange = _filled(region, sheets)
            left_out += strange
            for place, mask in filled.items():
                way.add(array[:, :, place], mask.T, wanted[number])
    return left_out


def _check_whole(dataset: Any, path: Path) -> None:
    """Refuse a file that was cut off: pydicom says nothing, and contours would be missing.

    An element shorter than it states was cut. A sequence of unstated length ends silently where the file does, but
    behind the contours the standard demands another element.
    """
    short = False
    for tag in list(dataset.keys()):
        item = dataset.get_item(tag)
        stated = item.length if isinstance(item, RawDataElement) else 0
        short = short or (stated not in (0, _UNDEFINED) and len(item.value or b"") < stated)
    if short or "RTROIObservationsSequence" not in dataset:
        raise ReadError(f"{path} cannot be read: it is truncated, its contours may be incomplete.", "Export it again.")


def _regions(dataset: Any, path: Path, wanted: Sequence[str] | None) -> dict[int, str]:
    """Names of the regions to take, by number."""
    stated = {
        count(item, "ROINumber"): printable(item, "ROIName") for item in items(dataset, "StructureSetROISequence")
    }
    names = unlike(stated)
    if wanted is None:
        return names
    missing = [name for name in wanted if name not in names.values()]
    if missing:
        raise DicomError(
            f"{path.name} has no region {missing[0]}.", f"Its regions are {', '.join(names.values()) or 'none'}."
        )
    return {number: name for number, name in names.items() if name in wanted}


def _check_frame(dataset: Any, path: Path, series: Series) -> None:
    stated = {text(item, "FrameOfReferenceUID") for item in items(dataset, "ReferencedFrameOfReferenceSequence")}
    here = series.slices[0].identity.frame_of_reference
    if here and stated - {""} and here not in stated:
        raise DicomError(
            f"{path.name} was drawn in another frame of reference than that of the series {series.title}.",
            "Give the series that it was drawn on.",
        )


def _filled(region: Any, sheets: Sheets) -> tuple[dict[int, NDArray[np.bool_]], int]:
    """Pixels (rows, columns) of a region by sheet, and how many contours are of no use."""
    columns, rows = sheets.shape
    result: dict[int, NDArray[np.bool_]] = {}
    heights: dict[int, float] = {}
    strange = 0
    for kind, points in _contours(region):
        place = _place(points, sheets, heights)
        if place is None:
            strange += 1
            continue
        corners = _corners(points, sheets.planes[place])
        mask = result.setdefault(place, np.zeros((rows, columns), dtype=bool))
        if kind in _CLOSED:
            mask ^= fill(corners, mask.shape)
        elif kind == "POINT":
            row, column = np.rint(corners[0]).astype(int)
            if 0 <= row < rows and 0 <= column < columns:
                mask[row, column] = True
        else:
            strange += 1
    return result, strange


def _contours(region: Any) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for contour in items(region, "ContourSequence"):
        values = numbers(contour, "ContourData")
        if values and len(values) % 3 == 0:
            yield text(contour, "ContourGeometricType"), np.asarray(values).reshape(-1, 3)


def _place(points: NDArray[np.float64], sheets: Sheets, heights: dict[int, float]) -> int | None:
    """The sheet that the points lie on.

    Args:
        points: of a contour.
        sheets: the slices.
        heights: those of the contours of the region so far, by sheet.

    Raises:
        DicomError: they lie on no plane that is parallel to the sheets, or beside another contour of that sheet.
    """
    along = sheets.height(points)
    if np.ptp(along) > _TILTED_MM:
        raise DicomError(
            f"A contour runs through {np.ptp(along):.3g} mm across the slices of {sheets.title}.",
            "Give the series that the structures were drawn on.",
        )
    height = float(along.mean())
    place = sheets.nearest(height)
    if place is not None and abs(heights.setdefault(place, height) - height) > _TILTED_MM:
        raise DicomError(
            f"Contours of one structure lie {abs(heights[place] - height):.3g} mm apart on one slice of "
            f"{sheets.title}: they were drawn on thinner slices.",
            "Give the series that the structures were drawn on.",
        )
    return place


def _corners(points: NDArray[np.float64], plane: Plane) -> NDArray[np.float64]:
    """Row and column of LPS points on a plane."""
    offset = points - plane.position
    return np.stack([offset @ plane.column / plane.spacing[0], offset @ plane.row / plane.spacing[1]], axis=1)


def fill(corners: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside of a polygon, by the rule of even and odd crossings.

    Args:
        corners: (n, 2) row and column; pixel centres lie at whole numbers. Closed by itself.
        shape: rows and columns.
    """
    rows, columns = shape
    toggles = np.zeros((rows, columns + 1), dtype=np.int32)
    for (row, column), (next_row, next_column) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = sorted((row, next_row))
        crossed = np.arange(max(0, int(np.ceil(low))), min(rows, int(np.ceil(high))))
        if len(crossed):
            at = column + (crossed - row) * (next_column - column) / (next_row - row)
            toggles[crossed, np.clip(np.ceil(at), 0, columns).astype(int)] += 1
    inside: NDArray[np.bool_] = np.cumsum(toggles, axis=1)[:, :columns] % 2 == 1
    return inside
