"""Writes the volumes of structures as a DICOM structured report: TID 1500 (PS3.16), as Comprehensive 3D SR.

A report on a segmentation that is written beside it refers to its segments (TID 1411), with the same tracking
identifiers. One without refers to nothing that the archive might lack: its measurements stand for themselves
(TID 1501), and the images are its evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medunet.errors import DicomError
from medunet.export.algorithm import SOFTWARE_VERSION, Algorithm
from medunet.export.dicom.origin import CHARACTERS, MANUFACTURER, Origin, write_dataset
from medunet.export.dicom.seg import KINDS, kind_of, seg_uids
from medunet.export.dicom.segment import concept, tracking_uid
from medunet.io.dicom.elements import quiet, reason_of
from medunet.io.volume import Segmentation
from medunet.labels import Label

_NUMBERS = 10000


def write_sr(
    segmentation: Segmentation,
    path: str | Path,
    algorithm: Algorithm | None = None,
    *,
    kind: str | None = "BINARY",
    probabilities: NDArray[np.floating[Any]] | None = None,
) -> Path:
    """Write the volume of every structure to one object, atomically.

    Args:
        segmentation: its source is the series that was segmented.
        path: where to.
        algorithm: what made it.
        kind: of `seg.KINDS`, the segmentation that the report refers to; None: none is written.
        probabilities: those that a FRACTIONAL one holds.

    Raises:
        UsageError: no DICOM series.
        DicomError: the headers of the images allow for none.
        OutputError: the file cannot be written, or the source's files cannot be read any more.
    """
    origin = Origin.of(segmentation, algorithm or Algorithm(), probabilities if kind == "FRACTIONAL" else None)
    with quiet():
        return write_dataset(_build(origin, kind), Path(path))


def _build(origin: Origin, kind: str | None) -> Any:
    from highdicom.sr import Comprehensive3DSR

    images = origin.images()
    segments = None if kind is None else _segments(origin, kind_of(kind, origin), images[0])
    try:
        report = Comprehensive3DSR(
            evidence=images if segments is None else [*images, segments],
            content=_content(origin, segments),
            series_instance_uid=origin.uid("series", "SR"),
            series_number=origin.number(_NUMBERS, images),
            sop_instance_uid=origin.uid("instance", "SR", kind or "images"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            is_complete=True,
            manufacturer_model_name=origin.algorithm.name[:64] or MANUFACTURER,
            software_versions=SOFTWARE_VERSION,
            series_description=f"Volumes {origin.algorithm.name}".strip()[:64],
            specific_character_set=CHARACTERS,
        )
    except (ValueError, TypeError, AttributeError, KeyError) as error:  # what highdicom makes of odd headers
        raise DicomError(
            f"No DICOM report can be made of the series {origin.series.title}: {reason_of(error).rstrip('.')}.",
            "The volumes stand in predict.json, too.",
        ) from error
    report.ContributingEquipmentSequence = [origin.equipment()]
    return report


def _segments(origin: Origin, kind: str, image: Dataset) -> Dataset:
    """The segmentation as far as a report refers to it."""
    result = Dataset()
    result.SOPClassUID, result.StudyInstanceUID = KINDS[kind].class_uid, image.StudyInstanceUID
    result.SeriesInstanceUID, result.SOPInstanceUID = seg_uids(kind, origin)
    return result


def _content(origin: Origin, segments: Dataset | None) -> Any:
    from highdicom import sr

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=str(generate_uid(entropy_srcs=[MANUFACTURER, origin.algorithm.digest])),
        name=(origin.algorithm.name or MANUFACTURER)[:64],
        manufacturer_name=MANUFACTURER,
        model_name=origin.algorithm.version[:64],
    )
    context = sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, device))
    volumes = origin.segmentation.volumes_ml()
    return sr.MeasurementReport(
        observation_context=context,
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            _group(label, volumes[label.name], origin, segments) for label in origin.segmentation.labels.foreground
        ],
        title=codes.DCM.ImagingMeasurementReport,
    )[0]


def _group(label: Label, ml: float, origin: Origin, segments: Dataset | None) -> Any:
    """The measurements of one structure."""
    from highdicom import sr

    meaning, algorithm = origin.meaning(label), origin.algorithm
    site, side = meaning.region, meaning.region_side
    if site is None and meaning.known and not meaning.lesion:
        site, side = meaning.type, meaning.side
    common: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(tracking_uid(label, origin), label.name[:64]),
        "finding_category": concept(meaning.category),
        "finding_type": concept(meaning.type),
        "finding_sites": None
        if site is None
        else [sr.FindingSite(concept(site), None if side is None else concept(side))],
        "algorithm_id": sr.AlgorithmIdentification(algorithm.name[:64], algorithm.version) if algorithm.name else None,
        "measurements": [
            sr.Measurement(codes.SCT.Volume, float(f"{1000 * ml:.8g}"), codes.UCUM.CubicMillimeter),
        ],
    }
    if segments is None:
        return sr.MeasurementsAndQualitativeEvaluations(**common)
    segment = sr.ReferencedSegment(
        segments.SOPClassUID,
        segments.SOPInstanceUID,
        label.index,
        source_series=sr.SourceSeriesForSegmentation(origin.series.uid),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)
