"""Writes a segmentation as DICOM SEG (PS3.3 sections A.51 and A.101) through highdicom.

One frame per label and slice of the source that holds it, each refers to its source image. BINARY is what archives and
viewers take today; LABELMAP (Supplement 243) is a tenth of the size; FRACTIONAL holds the probabilities of a model.
Nested labels give segments that overlap. Where the source's slices are tilted or unevenly spaced, the grid that they
were resampled to can be written instead: for programs that take regular volumes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DicomError, UsageError
from medunet.export.algorithm import SOFTWARE_VERSION, Algorithm
from medunet.export.dicom.frames import (
    fractions,
    grid_frames,
    grid_places,
    in_frames,
    label_frames,
    one_pixel_frames,
    refer,
    slice_places,
    stacked,
    unrefer,
    with_fractions,
)
from medunet.export.dicom.origin import CHARACTERS, MANUFACTURER, Origin, write_dataset
from medunet.export.dicom.segment import described
from medunet.io.dicom.elements import quiet, reason_of
from medunet.io.volume import Segmentation


@dataclass(frozen=True)
class Kind:
    """A kind of segmentation.

    Attributes:
        number: what Series Numbers of its objects begin at.
        type: Segmentation Type.
        title: of its series.
        class_uid: SOP class.
    """

    number: int
    type: str
    title: str
    class_uid: str = "1.2.840.10008.5.1.4.1.1.66.4"


KINDS = {
    "BINARY": Kind(8000, "BINARY", "Segmentation"),
    "LABELMAP": Kind(12000, "LABELMAP", "Label map", "1.2.840.10008.5.1.4.1.1.66.7"),
    "FRACTIONAL": Kind(13000, "FRACTIONAL", "Probabilities"),
    "GRID": Kind(14000, "BINARY", "Segmentation on a regular grid"),
}
"""By name. GRID is BINARY on the grid of the series; where the slices are that grid, it is no other object."""


def write_seg(
    segmentation: Segmentation,
    path: str | Path,
    algorithm: Algorithm | None = None,
    *,
    kind: str = "BINARY",
    probabilities: NDArray[np.floating[Any]] | None = None,
) -> Path:
    """Write all labels to one object, atomically.

    Args:
        segmentation: its source is the series that the object refers to; on any grid, labels on other grids than the
            series' are interpolated.
        path: where to.
        algorithm: what made it.
        kind: of `KINDS`.
        probabilities: for FRACTIONAL: (C, *spatial) on the grid of the segmentation, as a `Prediction` has them.

    Raises:
        UsageError: no DICOM series, labels that overlap in a LABELMAP, or no probabilities for FRACTIONAL.
        DicomError: the headers of the images allow for none.
        OutputError: the file cannot be written, or the source's files cannot be read any more.
    """
    origin = Origin.of(segmentation, algorithm or Algorithm(), probabilities if kind == "FRACTIONAL" else None)
    if kind not in KINDS or (segmentation.labels.nested and kind == "LABELMAP"):
        raise UsageError(
            f"A {kind} segmentation of these labels cannot be written.",
            f"The kinds are {', '.join(KINDS)}; labels that lie inside of each other cannot be a LABELMAP.",
        )
    if kind == "FRACTIONAL" and probabilities is None:
        raise UsageError(
            "A fractional DICOM segmentation holds the probabilities of a model, and a mask has none.",
            "Write it where the mask is made: medunet predict -f dicom-seg-fractional.",
        )
    with quiet():
        return write_dataset(_build(origin, kind_of(kind, origin), probabilities), Path(path))


def kind_of(kind: str, origin: Origin) -> str:
    """What is written if this kind is wanted: a grid only where the slices are none."""
    return "BINARY" if kind == "GRID" and not origin.series.resampled else kind


def seg_uids(kind: str, origin: Origin) -> tuple[str, str]:
    """Series Instance UID and SOP Instance UID of the object of a kind, written or not."""
    what = () if kind == "BINARY" else (kind,)
    return origin.uid("series", "SEG", *what), origin.uid("instance", "SEG", kind)


def _build(origin: Origin, kind: str, probabilities: NDArray[np.floating[Any]] | None) -> Any:
    images = origin.images()
    try:
        if kind == "FRACTIONAL" and probabilities is not None:
            found = fractions(origin, probabilities)
            seg = _seg(origin, kind, images, lambda: one_pixel_frames(origin, images, found))
            return with_fractions(seg, origin, found)
        if kind == "GRID":
            return _seg(origin, kind, images, lambda: grid_frames(origin))
        return _seg(origin, kind, images, lambda: label_frames(origin))
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # what highdicom makes of odd headers
        raise DicomError(
            f"No DICOM segmentation can be made of the series {origin.series.title}: {reason_of(error).rstrip('.')}.",
            "Write a NIfTI mask instead (-f nifti).",
        ) from error


def _seg(origin: Origin, kind: str, images: list[Any], frames: Callable[[], NDArray[Any]]) -> Any:
    from highdicom.seg import Segmentation as Seg

    labels, name, of = origin.segmentation.labels, origin.algorithm.name, KINDS[kind]
    series_uid, sop_uid = seg_uids(kind, origin)
    pixels, framed = frames(), in_frames(origin)
    places: dict[str, Any] = {}
    if kind == "GRID" and origin.series.geometry is not None:
        places = grid_places(origin.series.geometry)
    elif framed:
        places = slice_places(origin)
    seg = Seg(
        source_images=images[:1] if framed else images,
        further_source_images=images[1:] if framed else None,
        pixel_array=stacked(pixels, labels) if labels.nested and pixels.ndim == 3 else pixels,
        segmentation_type=of.type,
        segment_descriptions=[described(label, origin) for label in labels.foreground],
        series_instance_uid=series_uid,
        series_number=origin.number(of.number, images),
        sop_instance_uid=sop_uid,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=name[:64] or MANUFACTURER,
        software_versions=SOFTWARE_VERSION,
        device_serial_number=origin.algorithm.digest[:64] or "1",
        content_label="SEGMENTATION",
        content_description=(name or "Segmentation")[:64],
        series_description=f"{of.title} {name}".strip()[:64],
        specific_character_set=CHARACTERS,
        **places,
    )
    seg.ContributingEquipmentSequence = [origin.equipment()]
    if kind == "GRID":
        unrefer(seg)
    elif framed:
        refer(seg, origin)
    return seg
