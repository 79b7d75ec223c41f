"""DICOM objects of structures, segmentations and structure sets, from the header alone: which there are, what they are
called, which images they belong to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from medunet.errors import DicomError, ReadError
from medunet.io.dicom.contoured import RTSTRUCT_CLASS
from medunet.io.dicom.elements import count, items, printable, quiet, reason_of, text
from medunet.io.dicom.header import is_dicom, sop_class_of
from medunet.io.dicom.opening import files_below, head, opened
from medunet.io.dicom.segments import SEG_CLASSES
from medunet.io.dicom.slices import Identity

_CLASSES = SEG_CLASSES | {RTSTRUCT_CLASS}
_START = 4096
"""The class of an object stands within its first bytes: in the file meta information, or among the first elements."""

_TAGS = (
    *("SOPClassUID", "SpecificCharacterSet", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"),
    *("SegmentSequence", "ReferencedSeriesSequence", "StructureSetROISequence", "ReferencedFrameOfReferenceSequence"),
)


@dataclass(frozen=True)
class LabelObject:
    """A segmentation or a structure set.

    Attributes:
        path: file.
        contours: it is a structure set.
        names: of its structures as they are stated, by number; the background of a label map is none.
        series: Series Instance UIDs of the images that it refers to.
        frames: UIDs of the frames of reference that it lies in.
        patient: Patient ID. Never shown.
        study: Study Instance UID.
    """

    path: Path
    contours: bool
    names: dict[int, str]
    series: tuple[str, ...]
    frames: frozenset[str]
    patient: str = field(repr=False)
    study: str = field(repr=False)

    def check(self, images: Identity, where: str) -> None:
        """Refuse images that it does not belong to.

        Args:
            images: the series.
            where: what to call them.

        Raises:
            DicomError: another patient, another frame of reference; contours that were drawn on another series.
        """
        reason = ""
        if self.patient and images.patient and self.patient != images.patient:
            reason = "belongs to another patient than"
        elif self.frames and images.frame_of_reference and images.frame_of_reference not in self.frames:
            reason = "lies in another frame of reference than"
        elif self.contours and self.series and images.series_uid not in self.series:
            reason = "was drawn on other slices than those of"
        if reason:
            raise DicomError(f"{self.path.name} {reason} {where}.", "Give the images that it was made on.")


def label_files(path: Path) -> Iterator[Path]:
    """Segmentations and structure sets below a folder or in a zip, or the file itself, whatever their names.

    Raises:
        ReadError: a zip that cannot be read.
    """
    return (file for file in files_below(path) if is_label(file))


def is_label(path: Path) -> bool:
    """Whether a file is a segmentation or structure set by its bytes."""
    try:
        start = head(path, _START)
    except (OSError, ReadError):
        return False
    likely = any(known.encode() in start for known in _CLASSES)  # spares most files of a study the parsing
    return likely and is_dicom(path) and sop_class_of(path) in _CLASSES


def label_object(path: Path) -> LabelObject:
    """The one segmentation or structure set in a file, folder or zip.

    Raises:
        ReadError: it cannot be read.
        DicomError: there is none, or there are several.
    """
    found = list(label_files(path))
    if not found:
        place = "holds no DICOM segmentation or RT structure set" if path.is_dir() else "is none"
        raise DicomError(f"A label in DICOM is a segmentation or an RT structure set, and {path} {place}.")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found[:5]) + (", ..." if len(found) > 5 else "")
        raise DicomError(
            f"{path} holds {len(found)} segmentations or structure sets ({names}), and one is needed.",
            "Name the file, or move the others away.",
        )
    return _read(found[0])


def _read(path: Path) -> LabelObject:
    try:
        with quiet(), opened(path) as handle:
            tags: list[int | str] = list(_TAGS)
            dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=tags)
            return _described(dataset, path)
    except Exception as error:  # pydicom raises a dozen types for damaged files
        raise ReadError(f"{path} cannot be read: {reason_of(error)}.", "Export it again.") from error


def _described(dataset: Any, path: Path) -> LabelObject:
    contours = text(dataset, "SOPClassUID") == RTSTRUCT_CLASS
    if contours:
        places = items(dataset, "ReferencedFrameOfReferenceSequence")
        studies = [study for place in places for study in items(place, "RTReferencedStudySequence")]
        series = [one for study in studies for one in items(study, "RTReferencedSeriesSequence")]
        frames = [text(place, "FrameOfReferenceUID") for place in places]
        names = {
            count(one, "ROINumber"): printable(one, "ROIName") for one in items(dataset, "StructureSetROISequence")
        }
    else:
        series = list(items(dataset, "ReferencedSeriesSequence"))
        frames = [text(dataset, "FrameOfReferenceUID")]
        names = {
            count(one, "SegmentNumber"): printable(one, "SegmentLabel") for one in items(dataset, "SegmentSequence")
        }
        names.pop(0, None)
    return LabelObject(
        path=path,
        contours=contours,
        names=names,
        series=tuple(filter(None, (text(one, "SeriesInstanceUID") for one in series))),
        frames=frozenset(filter(None, frames)),
        patient=text(dataset, "PatientID"),
        study=text(dataset, "StudyInstanceUID"),
    )


def _names(dataset: Any, sequence: str, number: str, name: str) -> dict[int, str]:
    return {count(one, number): printable(one, name) for one in items(dataset, sequence)}
