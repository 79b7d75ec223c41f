"""DICOM SEG objects to masks: binary, fractional and label map (PS3.3 sections A.51 and A.101).

Frames carry their own positions; empty ones are mostly left out, so the grid follows from the positions that are there
and the spacing that is stated. Segments may overlap: voxels of several get a value of their own, as nested labels do.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import iter_pixels

from medunet.errors import DicomError, MedunetError, ReadError
from medunet.geometry import Geometry
from medunet.io.dicom.codestream import check_frames
from medunet.io.dicom.elements import count, items, number, printable, quiet, reason_of, text
from medunet.io.dicom.enhanced import group_of
from medunet.io.dicom.header import checked_header, is_dicom, sop_class_of
from medunet.io.dicom.opening import opened
from medunet.io.dicom.overlaps import Overlaps, unlike
from medunet.io.dicom.planes import grid_of, plane_of
from medunet.io.dicom.slices import Plane
from medunet.io.volume import Segmentation, Source

SEG_CLASSES = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
_TAGS = ("SegmentationType", "SegmentSequence", "MaximumFractionalValue")
_HALF = 0.5
_OFF_GRID = 0.05
_SAME_PLACE_MM = 0.01
_MOST_SLICES = 20_000
_MOST_VOXELS = 2**30


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM segmentation, whatever its name; False for what cannot be read."""
    return is_dicom(path) and sop_class_of(path) in SEG_CLASSES


@dataclass(frozen=True)
class Frames:
    """The frames of a segmentation, not decoded yet.

    Attributes:
        path: file.
        dataset: its header.
        planes: where each frame lies.
    """

    path: Path
    dataset: Any
    planes: tuple[Plane, ...]

    @property
    def names(self) -> dict[int, str]:
        """By segment number, without the background of a label map."""
        described = {
            count(item, "SegmentNumber"): printable(item, "SegmentLabel")
            for item in items(self.dataset, "SegmentSequence")
        }
        described.pop(0, None)
        return described

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return count(self.dataset, "Columns"), count(self.dataset, "Rows")

    @property
    def spacing(self) -> float | None:
        """Millimetres between its slices at most; None if nothing tells.

        Empty slices are left out, so it is what is stated unless frames lie closer. A thickness says little: slices
        may overlap, and of a single one it says nothing.
        """
        along = np.asarray([plane.position for plane in self.planes]) @ self.planes[0].normal
        gaps = np.diff(np.unique(np.round(along, 4)))
        gaps = gaps[gaps > _SAME_PLACE_MM]
        stated = _measure(self._shared, "SpacingBetweenSlices")
        if not len(gaps):
            return stated
        stated = stated or _measure(self._shared, "SliceThickness")
        return min(stated, float(gaps.min())) if stated else None

    def grid(self) -> tuple[Geometry, list[int]]:
        """The grid of all planes, and which of its slices each is.

        Raises:
            DicomError: they lie on no regular grid.
        """
        return _grid(self.planes, self.dataset, self._shared)

    def masks(self, wanted: Container[int] | None = None) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
        """Number of the frame, number of the segment, and which pixels (columns, rows) belong to it.

        Args:
            wanted: numbers of segments; frames of others are not decoded. None: all.

        Raises:
            ReadError: a frame cannot be decoded.
            DicomError: a frame names a segment that is not described.
        """
        labelmap, names = text(self.dataset, "SegmentationType") == "LABELMAP", self.names
        groups = items(self.dataset, "PerFrameFunctionalGroupsSequence")
        segments = [0 if labelmap else _segment(own, self._shared) for own in groups]
        frames = [k for k, each in enumerate(segments) if wanted is None or labelmap or each in wanted]
        for frame, pixels in zip(frames, _frames(self.path, self.dataset, frames), strict=True):
            found = [segments[frame]] if not labelmap else [each for each in np.unique(pixels).tolist() if each]
            for segment in found:
                if segment not in names:
                    raise DicomError(f"{self.path.name} holds pixels of segment {segment}, which it does not describe.")
                if wanted is None or segment in wanted:
                    yield frame, segment, np.equal(pixels.T, segment) if labelmap else pixels.T > 0

    @property
    def _shared(self) -> Any:
        return (items(self.dataset, "SharedFunctionalGroupsSequence") or (None,))[0]


@contextmanager
def frames_of(path: Path) -> Iterator[Frames]:
    """The frames of a DICOM SEG; what goes wrong while they are used is told of the file.

    Raises:
        ReadError: the file cannot be read.
        DicomError: it is no segmentation.
    """
    if not is_seg(path):
        raise DicomError(f"{path} is no DICOM segmentation.", "Give a SEG object.")
    try:
        dataset = checked_header(path, _TAGS)
        groups = items(dataset, "PerFrameFunctionalGroupsSequence")
        shared = (items(dataset, "SharedFunctionalGroupsSequence") or (None,))[0]
        frames = count(dataset, "NumberOfFrames", 1)
        if len(groups) != frames:
            raise ReadError(f"it states {frames} frames and describes {len(groups)}")
        if not groups:
            raise ReadError("it holds no frames")
        yield Frames(path, dataset, tuple(_plane(own, shared) for own in groups))
    except ReadError as error:
        raise ReadError(f"{path} cannot be read: {error.message}.", error.hint or "Export it again.") from error
    except MedunetError:
        raise
    except Exception as error:  # pydicom raises a dozen types for damaged sequences
        raise ReadError(f"{path} cannot be read: {reason_of(error)}.", "Export it again.") from error


def read_seg(path: Path) -> Segmentation:
    """Read a DICOM SEG as a mask on its own grid: the planes of its frames, and those between them.

    Returns:
        Segmentation (columns, rows, slices); the labels are named as the segments are, their values are the segments'
        numbers. Of fractional segments, what is half or more belongs to them.

    Raises:
        ReadError: the file cannot be read.
        DicomError: frames that lie on no regular grid, or that name no segment.
        DataError: segments that overlap without one lying inside of the other.
    """
    with frames_of(path) as frames:
        geometry, places = frames.grid()
        array = np.zeros(geometry.shape, dtype=np.uint16)
        names = unlike(frames.names)
        values = Overlaps(free=max(names, default=0) + 1)
        for frame, segment, where in frames.masks():
            values.add(array[:, :, places[frame]], where, segment)
        labels = values.labels(names, path)
    return Segmentation(labels.to_indices(array), geometry, labels, Source(path, "dicom", files=(path,)))


def _plane(own: Any, shared: Any) -> Plane:
    sequences = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
    plane, fault = plane_of(*(group_of(own, shared, keyword) for keyword in sequences))
    if plane is None:
        raise ReadError(fault)
    return plane


def _grid(planes: Sequence[Plane], dataset: Any, shared: Any) -> tuple[Geometry, list[int]]:
    """The grid of all planes, and which of its slices each is."""
    first = planes[0]
    for plane in planes:
        if max(np.abs(np.subtract(plane.row + plane.column, first.row + first.column))) > 1e-3:
            raise DicomError("The frames of the segmentation have several orientations, so they are no volume.")
    where = np.asarray([plane.position for plane in planes])
    along = (where - where[0]) @ first.normal
    gaps = np.diff(np.unique(np.round(along, 4)))
    gaps = gaps[gaps > _SAME_PLACE_MM]
    step = _measure(shared, "SpacingBetweenSlices") or 0.0
    if len(gaps) and (not step or np.abs(gaps / step - np.rint(gaps / step)).max() > _OFF_GRID):
        step = float(gaps.min())
    step = step or _measure(shared, "SliceThickness") or 1.0
    places = np.rint((along - along.min()) / step)
    slices = int(places.max()) + 1
    start = where[int(along.argmin())]
    off = where - start - places[:, None] * step * first.normal
    if slices > _MOST_SLICES or np.linalg.norm(off, axis=1).max() > max(0.02, _OFF_GRID * step):
        raise DicomError(
            "The frames of the segmentation lie on no regular grid, as of a tilted or unevenly spaced series.",
            "Only segmentations on evenly spaced slices can be read.",
        )
    shape = (count(dataset, "Columns"), count(dataset, "Rows"), slices)
    if shape[0] * shape[1] * slices > _MOST_VOXELS:
        raise DicomError(f"The frames of the segmentation span {slices} slices, too many voxels for one mask.")
    return grid_of(first, shape, start, step * first.normal), [int(place) for place in places]


def _measure(shared: Any, keyword: str) -> float | None:
    measures = items(shared, "PixelMeasuresSequence") if shared is not None else ()
    value = number(measures[0], keyword) if measures else None
    return value if value and value > 0 else None


def _segment(own: Any, shared: Any) -> int:
    found = group_of(own, shared, "SegmentIdentificationSequence")
    if found is None:
        raise ReadError("a frame does not say which segment it is of")
    return count(found, "ReferencedSegmentNumber")


def _frames(path: Path, dataset: Any, numbers: Sequence[int]) -> Iterator[NDArray[Any]]:
    """(rows, columns) of some frames; of fractional ones, whether half of the pixel belongs to the segment."""
    least = 1.0
    if text(dataset, "SegmentationType") == "FRACTIONAL":
        least = _HALF * (number(dataset, "MaximumFractionalValue") or 255)
    labelmap = text(dataset, "SegmentationType") == "LABELMAP"
    try:
        with quiet(), opened(path) as handle:
            whole = pydicom.dcmread(handle, force=True)
            check_frames(whole)
            for frame in iter_pixels(whole, raw=True, indices=numbers) if numbers else ():
                yield frame if labelmap else frame >= least
    except ReadError:
        raise
    except BaseException as error:  # codecs raise a dozen types, and one panics beside the tree of Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ReadError(f"its pixels cannot be decoded ({reason_of(error)})") from error
