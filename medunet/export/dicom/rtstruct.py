"""Writes a segmentation as RT Structure Set (PS3.3 section A.19): one region of interest per label, its contours slice
by slice, each with a reference to the image that it lies on.

Contours run along pixel edges, holes are keyholes (see `contours`).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, ImplicitVRLittleEndian, RTStructureSetStorage
from scipy import ndimage

from medunet.export.algorithm import SOFTWARE_VERSION, Algorithm
from medunet.export.dicom.contours import outlines
from medunet.export.dicom.origin import CHARACTERS, MANUFACTURER, Origin, image_reference, plane_of, write_dataset
from medunet.io.dicom.elements import quiet
from medunet.io.dicom.slices import Slice
from medunet.io.volume import Segmentation
from medunet.labels import Label

_NUMBERS = 9000
_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = BaseTag(0x30060050)
_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator"),
)


def write_rtstruct(segmentation: Segmentation, path: str | Path, algorithm: Algorithm | None = None) -> Path:
    """Write all labels to one object, atomically; arguments and errors are those of `seg.write_seg`."""
    origin = Origin.of(segmentation, algorithm or Algorithm())
    with quiet():
        return write_dataset(_build(origin), Path(path))


def _build(origin: Origin) -> Dataset:
    images, now = origin.images(), datetime.now().astimezone()
    result = Dataset()
    result.file_meta = _meta(origin)
    result.SOPClassUID, result.SOPInstanceUID = RTStructureSetStorage, result.file_meta.MediaStorageSOPInstanceUID
    result.SpecificCharacterSet = CHARACTERS
    for keyword in _COPIED:
        if keyword in images[0]:
            result[keyword] = images[0][keyword]
    result.InstanceCreationDate = result.StructureSetDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.StructureSetTime = now.strftime("%H%M%S")
    result.Modality, result.OperatorsName = "RTSTRUCT", ""
    result.SeriesInstanceUID, result.SeriesNumber = origin.uid("series", "RTSTRUCT"), origin.number(_NUMBERS, images)
    result.SeriesDescription = f"Contours {origin.algorithm.name}".strip()[:64]
    result.Manufacturer, result.ManufacturerModelName = MANUFACTURER, origin.algorithm.name[:64] or MANUFACTURER
    result.SoftwareVersions, result.InstanceNumber = SOFTWARE_VERSION, 1
    result.FrameOfReferenceUID = origin.frame_of_reference
    result.PositionReferenceIndicator = images[0].get("PositionReferenceIndicator", "")
    result.StructureSetLabel = "SEGMENTATION"
    result.ApprovalStatus = "UNAPPROVED"
    result.ContributingEquipmentSequence = [origin.equipment()]
    result.ReferencedFrameOfReferenceSequence = [_frame(origin)]
    contours = _contours(origin)
    labels = origin.segmentation.labels.foreground
    result.StructureSetROISequence = [_region(label, origin) for label in labels]
    result.ROIContourSequence = [_drawn(label, contours[label.index]) for label in labels]
    result.RTROIObservationsSequence = [_observed(label, origin) for label in labels]
    return result


def _meta(origin: Origin) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = origin.uid("instance", "RTSTRUCT")
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # an explicit DS ends at 64 KB, some 2,000 points
    meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    return meta


def _dataset(**values: Any) -> Dataset:
    result = Dataset()
    for keyword, value in values.items():
        setattr(result, keyword, value)
    return result


def _frame(origin: Origin) -> Dataset:
    series = origin.series
    referenced = _dataset(
        SeriesInstanceUID=series.uid, ContourImageSequence=[image_reference(item) for item in series.slices]
    )
    study = _dataset(
        ReferencedSOPClassUID=_STUDY_COMPONENT,
        ReferencedSOPInstanceUID=series.study_uid,
        RTReferencedSeriesSequence=[referenced],
    )
    return _dataset(FrameOfReferenceUID=origin.frame_of_reference, RTReferencedStudySequence=[study])


def _region(label: Label, origin: Origin) -> Dataset:
    return _dataset(
        ROINumber=label.index,
        ReferencedFrameOfReferenceUID=origin.frame_of_reference,
        ROIName=_name(label, origin),
        ROIGenerationAlgorithm="AUTOMATIC" if origin.algorithm.name else "",
        ROIGenerationDescription=f"{origin.algorithm.name} {origin.algorithm.version}".strip()[:64],
    )


def _name(label: Label, origin: Origin) -> str:
    """At most 64 letters, and no other region's: planning systems tell regions apart by them."""
    short = label.name[:64]
    same = [other for other in origin.segmentation.labels.foreground if other.name[:64] == short]
    return short if len(same) == 1 else f"{label.name[:58]} {label.index}"


def _observed(label: Label, origin: Origin) -> Dataset:
    meaning = origin.meaning(label)
    code = _code(meaning.type)
    if meaning.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [_code(meaning.side)]
    return _dataset(
        ObservationNumber=label.index,
        ReferencedROINumber=label.index,
        ROIObservationLabel=label.name[:16],
        SegmentedPropertyCategoryCodeSequence=[_code(meaning.category)],
        RTROIIdentificationCodeSequence=[code],
        RTROIInterpretedType="",
        ROIInterpreter="",
    )


def _code(code: Code) -> Dataset:
    return _dataset(CodeValue=code.value, CodingSchemeDesignator=code.scheme_designator, CodeMeaning=code.meaning[:64])


def _drawn(label: Label, contours: list[Dataset]) -> Dataset:
    result = _dataset(ReferencedROINumber=label.index, ROIDisplayColor=list(label.colour))
    if contours:
        result.ContourSequence = contours
    return result


def _contours(origin: Origin) -> dict[int, list[Dataset]]:
    """Contours per label index, in the order of the slices."""
    labels = origin.segmentation.labels
    members = labels.membership
    result: dict[int, list[Dataset]] = {label.index: [] for label in labels.foreground}
    for item, plane in origin.planes():
        boxes = dict(enumerate(ndimage.find_objects(plane.astype(np.int32), len(labels) - 1), start=1))
        for label in labels.foreground:
            inside = [box for index, box in boxes.items() if box is not None and members[label.index, index]]
            if inside:
                rows, columns = (
                    slice(min(s.start for s in side), max(s.stop for s in side)) for side in zip(*inside, strict=True)
                )
                for polygon in outlines(members[label.index][plane[rows, columns]]):
                    corners = polygon + np.asarray([rows.start, columns.start])
                    result[label.index].append(_contour(item, corners))
    return result


def _contour(item: Slice, polygon: NDArray[np.float64]) -> Dataset:
    plane = plane_of(item)
    down, right = np.asarray(plane.column) * plane.spacing[0], np.asarray(plane.row) * plane.spacing[1]
    points = np.asarray(plane.position) + polygon[:, :1] * down + polygon[:, 1:] * right
    result = _dataset(
        ContourImageSequence=[image_reference(item)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
    )
    # Written as bytes, which are those of the file: pydicom would make an object of every number.
    result.set_original_encoding(is_implicit_vr=True, is_little_endian=True, character_encoding="iso8859")
    text = "\\".join(f"{value:.5f}".rstrip("0").rstrip(".") for value in points.ravel().tolist())
    text += " " * (len(text) % 2)
    result[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text.encode(), 0, True, True)
    return result
