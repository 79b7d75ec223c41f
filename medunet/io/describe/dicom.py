"""What lies in a DICOM export: its series, which of them are volumes, and which one would be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.errors import DataError, DicomError
from medunet.io.describe.description import Description
from medunet.io.dicom import Export, Series, choose, is_dicom, scan

_SHOWN = 3
_FIRST = ("uid", "modality", "description")
_LAST = ("shape", "spacing_mm", "orientation", "verdict")


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
    result.facts["series"] = [_row(series) for series in export.series]
    numbered = any(series.number for series in export.series)
    result.columns["series"] = (*_FIRST, *(("volume",) if numbered else ()), *_LAST)
    result.notes += export.ignored
    remarks: dict[str, list[str]] = {}
    for series in export.series:
        for note in (*series.notes, *((series.remedy,) if series.upright or series.grey else ())):
            remarks.setdefault(note, []).append(series.description)
    result.notes += [f"{_some(names)}: {note}" for note, names in remarks.items()]
    volumes = [series for series in export.series if series.plausible]
    try:
        result.facts["read_by_default"] = choose(export.series).uid
    except DicomError as error:
        if len({series.uid for series in volumes}) == 1:
            result.notes.append(
                f"The series holds {len(volumes)} volumes; give the number of one with --volume, or all."
            )
        elif volumes:
            result.notes.append(f"{len(volumes)} series are volumes; name one with --series.")
        else:
            result.blame(error)


def _row(series: Series) -> dict[str, Any]:
    return {
        "uid": series.uid,
        "modality": series.modality,
        "description": series.description,
        "volume": series.number or None,
        "shape": "x".join(str(length) for length in series.shape),
        "spacing_mm": [round(value, 4) for value in series.spacing] or None,
        "verdict": series.verdict or "volume",
        "orientation": series.geometry.axcodes if series.geometry is not None else None,
        "files": len(series.files),
        "kernel": series.kernel or None,
        "contrast": series.contrast,
        "id": series.id,
        "study_uid": series.study_uid,
    }


def _some(descriptions: Sequence[str]) -> str:
    """The series that a note is about; a long list is cut."""
    names = list(dict.fromkeys(description or "no description" for description in descriptions))
    if len(descriptions) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:_SHOWN])} ... ({len(descriptions)} in all)"
