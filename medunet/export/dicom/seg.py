"""Writes a segmentation as DICOM SEG (PS3.3 section A.51) through highdicom.

One frame per label and slice of the source that holds it, each refers to its source image. BINARY is what archives and
viewers take today; LABELMAP (Supplement 243) is a tenth of the size. Nested labels give segments that overlap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import OutputError, UsageError
from medunet.export.algorithm import SOFTWARE_VERSION, Algorithm
from medunet.export.dicom.codes import Meaning, meaning_of
from medunet.export.dicom.origin import CHARACTERS, MANUFACTURER, Origin, write_dataset
from medunet.io.dicom.elements import quiet
from medunet.io.volume import Segmentation
from medunet.labels import Label, LabelMap

logger = logging.getLogger("medunet")

KINDS = ("BINARY", "LABELMAP")
_NUMBERS = 8000


def write_seg(
    segmentation: Segmentation,
    path: str | Path,
    algorithm: Algorithm | None = None,
    *,
    kind: str = "BINARY",
) -> Path:
    """Write all labels to one object, atomically.

    Args:
        segmentation: its source is the series that the object refers to; on any grid, labels on other grids than the
            series' are interpolated.
        path: where to.
        algorithm: what made it.
        kind: of `KINDS`.

    Raises:
        UsageError: no DICOM series, or labels that overlap in a LABELMAP.
        OutputError: the file cannot be written, or the source's files cannot be read any more.
    """
    origin = Origin.of(segmentation, algorithm or Algorithm())
    if kind not in KINDS or (segmentation.labels.nested and kind == "LABELMAP"):
        raise UsageError(
            f"A {kind} segmentation of these labels cannot be written.",
            "The kinds are BINARY and LABELMAP; labels that lie inside of each other need BINARY.",
        )
    with quiet():
        return write_dataset(_build(origin, kind), Path(path))


def _build(origin: Origin, kind: str) -> Any:
    from highdicom.seg import Segmentation as Seg

    images, labels = origin.images(), origin.segmentation.labels
    pixels = _pixels(origin, images)
    try:
        return Seg(
            source_images=images,
            pixel_array=_stacked(pixels, labels) if labels.nested else pixels,
            segmentation_type=kind,
            segment_descriptions=[_described(label, origin) for label in labels.foreground],
            series_instance_uid=origin.uid("series", "SEG"),
            series_number=origin.number(_NUMBERS, images),
            sop_instance_uid=origin.uid("instance", "SEG", kind),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=origin.algorithm.name[:64] or MANUFACTURER,
            software_versions=SOFTWARE_VERSION,
            device_serial_number=origin.algorithm.digest[:64] or "1",
            content_label="SEGMENTATION",
            content_description=(origin.algorithm.name or "Segmentation")[:64],
            series_description=f"Segmentation {origin.algorithm.name}".strip()[:64],
            specific_character_set=CHARACTERS,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # what highdicom makes of odd headers
        raise OutputError(
            f"No DICOM segmentation can be made of the series {origin.series.title}: {error}.",
            "Write a NIfTI mask instead (-f nifti).",
        ) from error


def _pixels(origin: Origin, images: Sequence[Any]) -> NDArray[Any]:
    """Label indices (frames, rows, columns): a frame per image, or per frame of the one multi-frame image."""
    dtype = np.uint8 if len(origin.segmentation.labels) < 256 else np.uint16
    first = origin.series.slices[0]
    if first.frame is None:
        return np.stack([plane.astype(dtype) for _, plane in origin.planes()])
    if len(images) > 1:
        raise OutputError(
            f"The series {origin.series.title} lies in {len(images)} multi-frame files, and a DICOM segmentation "
            "refers to one.",
            "Write a NIfTI mask or an RT structure set instead.",
        )
    result = np.zeros((int(images[0].NumberOfFrames), first.rows, first.columns), dtype=dtype)
    for item, plane in origin.planes():
        result[item.frame] = plane
    return result


def _stacked(pixels: NDArray[Any], labels: LabelMap) -> NDArray[np.uint8]:
    """(slices, rows, columns, labels) of 0 and 1."""
    members = labels.membership
    result = np.empty((*pixels.shape, len(labels) - 1), dtype=np.uint8)
    for label in labels.foreground:
        result[..., label.index - 1] = members[label.index][pixels]
    return result


def _described(label: Label, origin: Origin) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    meaning, algorithm = meaning_of(label.name), origin.algorithm
    if not meaning.known:
        logger.warning(
            'No coded term is known for the label "%s"; the DICOM objects name it with a private code.', label.name
        )
    family = codes.cid7162.ArtificialIntelligence
    described = SegmentDescription(
        segment_number=label.index,
        segment_label=label.name[:64],
        segmented_property_category=meaning.category,
        segmented_property_type=meaning.type,
        algorithm_type="AUTOMATIC" if algorithm.name else "MANUAL",
        algorithm_identification=AlgorithmIdentificationSequence(algorithm.name[:64], family, algorithm.version)
        if algorithm.name
        else None,
        tracking_uid=origin.uid("tracking", label.name),
        tracking_id=label.name[:64],
        display_color=CIELabColor(*_lab(label.colour)),
    )
    _add_side(described, meaning)
    return described


def _add_side(described: Any, meaning: Meaning) -> None:
    if meaning.side is None:
        return
    from highdicom.sr import CodedConcept

    side = CodedConcept(meaning.side.value, meaning.side.scheme_designator, meaning.side.meaning)
    described.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]


def _lab(colour: Sequence[int]) -> tuple[float, float, float]:
    """CIELab under D50, as DICOM wants it (PS3.3 section C.10.7.1.1), of an sRGB colour (IEC 61966-2-1)."""
    from PIL import Image, ImageCms

    rgb = Image.new("RGB", (1, 1), tuple(colour))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(rgb, to_lab)
    assert converted is not None  # noqa: S101  a new image was asked for
    level, a, b = np.asarray(converted).reshape(-1, 3)[0]
    return float(level) / 255 * 100, float(np.int8(a)), float(np.int8(b))
