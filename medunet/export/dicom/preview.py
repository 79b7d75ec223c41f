"""Writes slices with contours burnt in as Multi-frame True Color Secondary Capture (PS3.3 section A.8.5).

One object of some two dozen frames that every archive and viewer shows, also those that know nothing of segmentations.
Nothing of the patient is burnt in. The pixels of the series are read once more: a preview needs as much memory as it.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    ExplicitVRLittleEndian,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
)

from medunet.errors import OutputError
from medunet.export.algorithm import SOFTWARE_VERSION, Algorithm
from medunet.export.dicom.origin import CHARACTERS, MANUFACTURER, Origin, image_reference, write_dataset
from medunet.export.picture import Window
from medunet.export.scroll import draw_scroll
from medunet.io.dicom import read_series
from medunet.io.dicom.elements import items, number, quiet
from medunet.io.volume import Segmentation, Volume

_NUMBERS = 11000
_COPIED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    "ReferringPhysicianName",
)


def write_preview(segmentation: Segmentation, path: str | Path, algorithm: Algorithm | None = None) -> Path:
    """Write the preview of a mask to one object, atomically; arguments and errors are those of `seg.write_seg`.

    Raises:
        ReadError, DicomError: the pixels of the source cannot be read any more.
    """
    origin = Origin.of(segmentation, algorithm or Algorithm())
    with quiet():
        return write_dataset(_build(origin), Path(path))


def _build(origin: Origin) -> Dataset:
    images, now = origin.images(), datetime.now().astimezone()
    pages = _pages(origin, images)
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.MediaStorageSOPClassUID = MultiFrameTrueColorSecondaryCaptureImageStorage
    result.file_meta.MediaStorageSOPInstanceUID = origin.uid("instance", "PREVIEW")
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID
    result.SOPClassUID = result.file_meta.MediaStorageSOPClassUID
    result.SOPInstanceUID = result.file_meta.MediaStorageSOPInstanceUID
    result.SpecificCharacterSet = CHARACTERS
    for keyword in _COPIED:
        if keyword in images[0]:
            result[keyword] = images[0][keyword]
    result.Modality, result.ConversionType, result.Laterality = "OT", "WSD", ""
    result.SeriesInstanceUID, result.SeriesNumber = origin.uid("series", "PREVIEW"), origin.number(_NUMBERS, images)
    result.SeriesDescription = f"Preview {origin.algorithm.name}".strip()[:64]
    result.Manufacturer, result.ManufacturerModelName = MANUFACTURER, origin.algorithm.name[:64] or MANUFACTURER
    result.SoftwareVersions, result.InstanceNumber = SOFTWARE_VERSION, 1
    result.ContributingEquipmentSequence = [origin.equipment()]
    result.PatientOrientation, result.ImageType = "", ["DERIVED", "SECONDARY"]
    result.InstanceCreationDate = result.ContentDate = now.strftime("%Y%m%d")
    result.InstanceCreationTime = result.ContentTime = now.strftime("%H%M%S")
    result.DerivationDescription = "Slices with the contours of a segmentation burnt in"
    result.SourceImageSequence = [image_reference(item) for item in origin.series.slices]
    result.BurnedInAnnotation, result.LossyImageCompression = "NO", "00"
    _add_pixels(result, pages)
    return result


def _add_pixels(result: Dataset, pages: list[Any]) -> None:
    frames = np.stack([np.asarray(page) for page in pages])
    result.SamplesPerPixel, result.PhotometricInterpretation, result.PlanarConfiguration = 3, "RGB", 0
    result.NumberOfFrames, result.Rows, result.Columns = frames.shape[:3]
    result.BitsAllocated, result.BitsStored, result.HighBit, result.PixelRepresentation = 8, 8, 7, 0
    if len(frames) > 1:
        result.add_new("FrameIncrementPointer", "AT", 0x00182001)  # to the next
        result.PageNumberVector = list(range(1, len(frames) + 1))
    data = frames.tobytes()
    result.add_new("PixelData", "OB", data + b"\0" * (len(data) % 2))


def _pages(origin: Origin, images: list[Any]) -> list[Any]:
    volume = read_series(origin.series)
    mask = replace(origin.segmentation, array=origin.on_grid(), geometry=volume.geometry)
    window = _stated_window(origin, images)
    if str(images[0].get("PhotometricInterpretation", "")) == "MONOCHROME1":  # its low values are meant to be bright
        volume = Volume(-volume.array.astype(np.float32), volume.geometry, volume.source)
        window = None if window is None else (-window[1], -window[0])
    try:
        return list(draw_scroll(volume, mask, window=window))
    except MemoryError as error:
        raise OutputError("There is not enough memory for a preview.", "Leave out dicom-preview.") from error


def _stated_window(origin: Origin, images: list[Any]) -> Window | None:
    """The first window that a CT states for its middle slice; other modalities state none that fits all slices."""
    if origin.series.modality != "CT":
        return None
    item = origin.series.slices[len(origin.series.slices) // 2]
    image = images[origin.series.files.index(item.path)]
    try:
        for holder in (image, *_groups(image, item.frame or 0)):
            centre, width = number(holder, "WindowCenter"), number(holder, "WindowWidth")
            if centre is not None and width is not None and width >= 1:
                return centre - width / 2, centre + width / 2
    except ValueError:  # no numbers
        return None
    return None


def _groups(image: Any, frame: int) -> list[Any]:
    """Where an enhanced image states the window of a frame."""
    own = items(image, "PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    groups = [*own, *items(image, "SharedFunctionalGroupsSequence")]
    return [found for group in groups for found in items(group, "FrameVOILUTSequence")]
