"""One file to its `Slice`s, from the header alone.

Bytes decide what is DICOM, not names. The pixel data are not read, only measured: a truncated file, or one whose
Rows and Columns promise more than is there, is found here, before anything is allocated. Knows nothing of series.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from medunet.errors import ReadError
from medunet.io.dicom import enhanced
from medunet.io.dicom.elements import count, items, parts, printable, quiet, reason_of, shown, text
from medunet.io.dicom.opening import head, opened, size_of, stamp_of
from medunet.io.dicom.plain import native, plain_header
from medunet.io.dicom.planes import plane_of, rescale_of, thickness_of
from medunet.io.dicom.slices import LOCALIZER, Identity, Native, Slice

VOLUME_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT
        "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
        "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
        "1.2.840.10008.5.1.4.1.1.4",  # MR
        "1.2.840.10008.5.1.4.1.1.4.1",  # enhanced MR
        "1.2.840.10008.5.1.4.1.1.4.4",  # legacy converted enhanced MR
        "1.2.840.10008.5.1.4.1.1.128",  # PET
        "1.2.840.10008.5.1.4.1.1.128.1",  # legacy converted enhanced PET
        "1.2.840.10008.5.1.4.1.1.130",  # enhanced PET
        "1.2.840.10008.5.1.4.1.1.13.1.1",  # X-ray 3D angiographic
        "1.2.840.10008.5.1.4.1.1.13.1.2",  # X-ray 3D craniofacial
    }
)
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_LATER_KINDS = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage"}
"""Names that pydicom does not know yet."""
COLOURS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT")
TRAITS = (
    ("image type", "ImageType"),
    ("echo time", "EchoTime"),
    ("echo", "EchoNumbers"),
    ("inversion time", "InversionTime"),
    ("flip angle", "FlipAngle"),
    ("b-value", "DiffusionBValue"),
    ("gradient", "DiffusionGradientOrientation"),
    ("temporal position", "TemporalPositionIdentifier"),
    ("trigger time", "TriggerTime"),
    ("cardiac phase", "NominalPercentageOfCardiacPhase"),
    ("frame reference time", "FrameReferenceTime"),
    ("acquisition", "AcquisitionNumber"),
    ("kernel", "ConvolutionKernel"),
    ("tube voltage", "KVP"),
    ("acquisition time", "AcquisitionTime"),
)
"""Label and keyword of what may tell images at one position apart, the most telling first."""

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Modality", "SeriesDescription"),
    *("PatientID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "NumberOfSeriesRelatedInstances", "Rows", "Columns", "NumberOfFrames"),
    *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SliceThickness", "SpacingBetweenSlices"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *(keyword for _, keyword in TRAITS),
)
_WANTED = frozenset(int(Tag(keyword)) for keyword in _TAGS)
_COMPONENTS = {"MAGNITUDE": "M", "PHASE": "P", "REAL": "R", "IMAGINARY": "I", "M": "M", "P": "P", "R": "R", "I": "I"}
_DENIALS = ("none", "no", "n", "false", "not given", "without", "no contrast", "n/a", "0")
_LARGEST_SIDE = 16384
_LEAST_DOUBTED, _MOST_COMPRESSED = 2**27, 1000  # bytes, and how often any image's bytes fit into compressed ones
_UNDEFINED = 0xFFFFFFFF
_ITEM, _END = 0xFFFEE000, 0xFFFEE0DD


@dataclass(frozen=True)
class Header:
    """What one DICOM file holds.

    Attributes:
        slices: its images; empty if it is another object.
        kind: name of its SOP class, for example "Segmentation Storage".
    """

    slices: tuple[Slice, ...]
    kind: str


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its bytes: "DICM" at byte 128, or a plausible first element without preamble.

    False for what cannot be read and for anything but a regular file.
    """
    try:
        return _looks_like_dicom(head(path, 132))
    except (OSError, ReadError):
        return False


def _looks_like_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    group, element, length = struct.unpack("<HHI", head[:8])
    if head[4:6].isalpha() and head[4:6].isupper():  # explicit VR, either byte order
        return group in (0x0002, 0x0008, 0x0200, 0x0800) and head[4:6] in (b"UL", b"UI", b"CS", b"SH", b"LO", b"DA")
    return group in (0x0002, 0x0008) and element <= 0x0100 and 0 < length <= 256 and length % 2 == 0


def sop_class_of(path: Path) -> str:
    """SOP Class UID of a DICOM file, "" if it states none or cannot be read."""
    try:
        with quiet(), opened(path) as handle:
            tags: list[int | str] = ["SOPClassUID"]
            dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=tags)
        return text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID")
    except Exception:  # as below: what cannot be read has none
        return ""


def checked_header(path: Path, tags: Sequence[str]) -> Any:
    """Elements of one DICOM file that holds pixels, after a look at whether the pixels are there.

    Raises:
        ReadError: as `read_header`.
    """
    try:
        with quiet(), opened(path) as handle:
            dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=[*_TAGS, *tags])
            _check_pixels(dataset, handle)
            return dataset
    except ReadError:
        raise
    except Exception as error:
        raise _unreadable(error) from error


def read_header(path: Path) -> Header:
    """Read the header of one DICOM file.

    Raises:
        ReadError: truncated, malformed, or promising more pixels than it holds; the message is the reason alone,
            without the path.
    """
    try:
        with quiet(), opened(path) as handle:
            dataset = plain_header(handle, _WANTED)
            if dataset is None:
                handle.seek(0)
                dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
            sop_class = UID(text(dataset, "SOPClassUID") or text(dataset.file_meta, "MediaStorageSOPClassUID"))
            kind = kind_name(sop_class)
            if not _is_image(sop_class, dataset):
                return Header((), kind)
            place = _check_pixels(dataset, handle)
            return Header(_slices(dataset, path, sop_class, place), kind)
    except ReadError:
        raise
    except Exception as error:  # pydicom raises a dozen types, RecursionError among them, for hostile headers
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> ReadError:
    return ReadError(f"its header cannot be read ({reason_of(error)})")


def kind_name(sop_class: UID) -> str:
    """Name of a SOP class in words, whatever the file states."""
    known = sop_class.name != str(sop_class)
    return str(sop_class.name) if known else _LATER_KINDS.get(str(sop_class), "an object of unknown class")


def _is_image(sop_class: UID, dataset: Any) -> bool:
    """Anything with pixels that is not a result (segmentation, dose, parametric map) of other images."""
    if sop_class in VOLUME_CLASSES:
        return True
    known = sop_class.name != str(sop_class)
    return "Rows" in dataset and ("Image Storage" in sop_class.name if known else text(dataset, "Modality") != "SEG")


def _check_pixels(dataset: Any, handle: BinaryIO) -> Native | None:
    """Where the pixels lie, None for compressed ones and the like.

    Raises:
        ReadError: they are not there.
    """
    rows, columns = count(dataset, "Rows"), count(dataset, "Columns")
    if not rows and not columns:
        raise ReadError("it states no rows and columns")
    if not (0 < rows <= _LARGEST_SIDE and 0 < columns <= _LARGEST_SIDE):
        raise ReadError(f"it states {rows} rows and {columns} columns; 1 to {_LARGEST_SIDE} are possible")
    bits, stored = count(dataset, "BitsAllocated"), count(dataset, "BitsStored")
    if bits not in (1, 8, 16, 32) or not 0 < stored <= bits:
        raise ReadError(f"it states {stored} bits stored of {bits} allocated, which no image has")
    if text(dataset.file_meta, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        return None  # the pixel data lie inside the compressed stream; decoding checks them
    frames, samples = max(1, count(dataset, "NumberOfFrames", 1)), max(1, count(dataset, "SamplesPerPixel", 1))
    if text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two pixels share their chrominance
    needed = (rows * columns * frames * samples * bits + 7) // 8
    length, there = _pixel_length(dataset, handle)
    if length == _UNDEFINED:
        _check_compressed(handle, needed, f"{frames} x {rows} x {columns}")
        return None
    if min(length, there) < needed:
        raise ReadError(
            f"it holds {min(length, there)} of the {needed} bytes that {frames} x {rows} x {columns} pixels need"
        )
    if length - needed >= needed // max(rows, columns):  # a row or column more is no padding
        raise ReadError(f"it holds {length} bytes where {frames} x {rows} x {columns} pixels need {needed}")
    return native(dataset, handle.tell(), length, stamp_of(handle))


def _check_compressed(handle: BinaryIO, needed: int, pixels: str) -> None:
    start = handle.tell()
    if not _fragments_end(handle):
        raise ReadError("it is truncated: its compressed pixel data do not end")
    size = handle.tell() - start
    if needed > _LEAST_DOUBTED + _MOST_COMPRESSED * size:
        raise ReadError(f"its {size} compressed bytes hold no {pixels} pixels")


def _pixel_length(dataset: Any, handle: BinaryIO) -> tuple[int, int]:
    """Stated length of the pixel data and bytes that are left in the file; the handle ends at their first byte."""
    implicit, little = dataset.original_encoding
    order = "<" if little else ">"
    start = handle.read(8)
    if len(start) < 8:
        raise ReadError("it holds no pixel data")
    if implicit:
        (length,) = struct.unpack(order + "I", start[4:])
    elif start[4:6] in (b"OB", b"OW", b"OF", b"OD", b"UN"):
        (length,) = struct.unpack(order + "I", handle.read(4).ljust(4, b"\0"))
    else:
        (length,) = struct.unpack(order + "H", start[6:])
    return length, size_of(handle) - handle.tell()


def _fragments_end(handle: BinaryIO) -> bool:
    """Whether the fragments of encapsulated pixel data (PS3.5 section A.4) run to their delimiter."""
    size = size_of(handle)
    while True:
        start = handle.read(8)
        if len(start) < 8:
            return False
        group, element, length = struct.unpack("<HHI", start)
        tag = group << 16 | element
        if tag == _END:
            return True
        if tag != _ITEM or handle.tell() + length > size:
            return False
        handle.seek(length, os.SEEK_CUR)


def _slices(dataset: Any, path: Path, sop_class: UID, place: Native | None) -> tuple[Slice, ...]:
    beside = _beside(dataset, sop_class)
    identity = Identity(
        series_uid=text(dataset, "SeriesInstanceUID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        patient=text(dataset, "PatientID"),
        modality=printable(dataset, "Modality"),
    )
    whole = Slice(
        path=path,
        frame=None,
        identity=identity,
        description=printable(dataset, "SeriesDescription"),
        rows=count(dataset, "Rows"),
        columns=count(dataset, "Columns"),
        plane=None,
        fault=beside or _fault(dataset),
        beside=bool(beside),
        series_images=_remark(dataset, "NumberOfSeriesRelatedInstances") or 0,
        instance=_remark(dataset, "InstanceNumber"),
        sop_class=str(sop_class),
        sop_uid=text(dataset, "SOPInstanceUID"),
        native=place,
        contrast=_contrast(dataset),
    )
    if whole.fault:
        return _coloured(dataset, whole) or (whole,)
    return _placed(dataset, whole)


def _placed(dataset: Any, whole: Slice) -> tuple[Slice, ...]:
    """The images with the places where they lie."""
    if "PerFrameFunctionalGroupsSequence" in dataset:
        return enhanced.frames(dataset, whole)
    return (_classic(dataset, whole),)


def _coloured(dataset: Any, whole: Slice) -> tuple[Slice, ...]:
    """Colour images that are refused, but could be read as grey values; () if these are none of that kind."""
    if text(dataset, "PhotometricInterpretation") not in COLOURS or "LOCALIZER" in parts(dataset, "ImageType"):
        return ()
    if _fault(dataset):
        return ()
    try:
        found = _placed(dataset, replace(whole, fault=""))
    except (ReadError, ValueError):
        return ()
    if any(item.fault for item in found):
        return ()
    return tuple(replace(item, fault=whole.fault, rescale=(1.0, 0.0), colour=True, native=None) for item in found)


def _contrast(dataset: Any) -> bool:
    """Whether a contrast agent is stated; some scanners write the element always, and deny in words."""
    agent = text(dataset, "ContrastBolusAgent").strip().casefold()
    return bool(agent.strip("-") and agent not in _DENIALS) or bool(items(dataset, "ContrastBolusAgentSequence"))


def _remark(dataset: Any, keyword: str) -> int | None:
    """A whole number that is not needed, so that a wrong one must not cost the image."""
    try:
        return count(dataset, keyword) if text(dataset, keyword) else None
    except ValueError:
        return None


def _classic(dataset: Any, whole: Slice) -> Slice:
    plane, fault = plane_of(dataset, dataset, dataset)
    image_type = parts(dataset, "ImageType")
    return replace(
        whole,
        plane=plane,
        fault=fault,
        rescale=rescale_of(dataset),
        thickness=thickness_of(dataset),
        component=next((_COMPONENTS[part] for part in image_type[2:] if part in _COMPONENTS), ""),
        traits=tuple((label, shown(dataset, keyword)) for label, keyword in TRAITS),
    )


def _beside(dataset: Any, sop_class: UID) -> str:
    """Why these images are of a kind that lies beside volumes (localizers, screenshots, radiographs), or ""."""
    samples, photometric = count(dataset, "SamplesPerPixel", 1), text(dataset, "PhotometricInterpretation")
    reasons = (
        (
            sop_class and sop_class not in VOLUME_CLASSES,
            f"{kind_name(sop_class)} is no stack of slices of a scanner",
        ),
        (
            not sop_class and text(dataset, "Modality") not in ("CT", "MR", "PT"),
            "neither SOP class nor modality say that it is a CT, MR or PET image",
        ),
        ("LOCALIZER" in parts(dataset, "ImageType"), LOCALIZER),
        (
            samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"),
            f"colour or palette images ({photometric or 'no photometric interpretation'}) are no measurements",
        ),
    )
    return next((reason for applies, reason in reasons if applies), "")


def _fault(dataset: Any) -> str:
    """Why these images of a scanner cannot be read as slices, or ""."""
    stored = count(dataset, "BitsStored")
    frames, described = count(dataset, "NumberOfFrames", 1), "PerFrameFunctionalGroupsSequence" in dataset
    reasons = (
        (
            not text(dataset, "SeriesInstanceUID"),
            "without a Series Instance UID it is unknown which images belong together",
        ),
        (
            "MOSAIC" in parts(dataset, "ImageType"),
            "a mosaic: each image is a sheet of many slices; export it as single slices or enhanced MR",
        ),
        (
            "ModalityLUTSequence" in dataset,
            "its values are coded by a lookup table (Modality LUT Sequence), not by slope and intercept",
        ),
        (
            count(dataset, "HighBit", stored - 1) != stored - 1,
            "its High Bit is not Bits Stored - 1, so how the values are packed is unknown",
        ),
        (
            frames > 1 and not described,
            f"{frames} frames in one file without functional groups that say where they lie",
        ),
    )
    return next((reason for applies, reason in reasons if applies), "")
