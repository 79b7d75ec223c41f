"""One item of Segment Sequence (PS3.3 section C.8.20.4): what a segment is, who drew it, how it is coloured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom.sr.coding import Code

from medunet.export.dicom.codes import Meaning
from medunet.export.dicom.origin import Origin
from medunet.labels import Label

logger = logging.getLogger("medunet")


def described(label: Label, origin: Origin) -> Any:
    """The description of a label, as highdicom takes it."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    meaning, algorithm = origin.meaning(label), origin.algorithm
    if not meaning.known:
        logger.warning(
            'No coded term is known for the label "%s"; the DICOM objects name it with a private code.', label.name
        )
    family = codes.cid7162.ArtificialIntelligence
    result = SegmentDescription(
        segment_number=label.index,
        segment_label=label.name[:64],
        segmented_property_category=concept(meaning.category),
        segmented_property_type=concept(meaning.type),
        algorithm_type="AUTOMATIC" if algorithm.name else "MANUAL",
        algorithm_identification=AlgorithmIdentificationSequence(algorithm.name[:64], family, algorithm.version)
        if algorithm.name
        else None,
        tracking_uid=tracking_uid(label, origin),
        tracking_id=label.name[:64],
        anatomic_regions=None if meaning.region is None else [concept(meaning.region)],
        display_color=CIELabColor(*_lab(label.colour)),
    )
    _add_sides(result, meaning)
    return result


def tracking_uid(label: Label, origin: Origin) -> str:
    """Identity of what was found, the same in a segmentation and in the report on it."""
    return origin.uid("tracking", label.name)


def concept(code: Code) -> Any:
    """A code as highdicom's content items need it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme_designator, code.meaning[:64])


def _add_sides(result: Any, meaning: Meaning) -> None:
    if meaning.side is not None:
        result.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [concept(meaning.side)]
    if meaning.region_side is not None:
        result.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [concept(meaning.region_side)]


def _lab(colour: Sequence[int]) -> tuple[float, float, float]:
    """CIELab under D50, as DICOM wants it (PS3.3 section C.10.7.1.1), of an sRGB colour (IEC 61966-2-1)."""
    from PIL import Image, ImageCms

    rgb = Image.new("RGB", (1, 1), tuple(colour))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(rgb, to_lab)
    assert converted is not None  # noqa: S101  a new image was asked for
    level, a, b = np.asarray(converted).reshape(-1, 3)[0]
    return float(level) / 255 * 100, float(np.int8(a)), float(np.int8(b))
