"""What lies in a DICOM export: its series, which of them are volumes, and which one would be read."""

from __future__ import annotations

from pathlib import Path

from medunet.errors import DataError, DicomError
from medunet.io.describe.description import Description
from medunet.io.dicom import Export, choose, is_dicom, scan


def describe_dicom(path: Path) -> Description | None:
    """Describe a DICOM folder, file or zip; None if there is nothing of DICOM in it."""
    result = Description("dicom", path)
    try:
        export = scan(path)
    except DataError as error:
        result.blame(error)
        return result
    if not export.series and not any(is_dicom(file) for file in (path.rglob("*") if path.is_dir() else [path])):
        return None
    _add_series(result, export)
    return result


def _add_series(result: Description, export: Export) -> None:
    result.facts["series"] = [
        {
            "modality": series.modality,
            "description": series.description,
            "shape": "x".join(str(length) for length in series.shape),
            "spacing_mm": [round(value, 4) for value in series.spacing] or None,
            "orientation": series.geometry.axcodes if series.geometry is not None else None,
            "files": len(series.files),
            "verdict": series.verdict or "volume",
            "uid": series.uid,
        }
        for series in export.series
    ]
    result.notes += export.ignored
    for series in export.series:
        result.notes += [f"{series.description}: {note}" for note in series.notes]
        if series.upright is not None:
            result.notes.append(f"{series.description}: {series.remedy}")
    volumes = [series for series in export.series if series.plausible]
    try:
        result.facts["read_by_default"] = choose(export.series).uid
    except DicomError as error:
        if volumes:
            result.notes.append(f"{len(volumes)} series are volumes; name one with --series.")
        else:
            result.blame(error)
