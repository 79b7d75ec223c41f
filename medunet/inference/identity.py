"""What a report may say of whose images they were: UIDs hashed, and nothing else, unless it is asked for.

UIDs lead to the patient for whoever may look into the archive. Hashed they still tell series apart, and may be given to
`--series`.
"""

from __future__ import annotations

from dataclasses import replace

from medunet.inference.inputs import Input
from medunet.inference.report import CaseReport


def as_filed(report: CaseReport, entry: Input, *, show: bool) -> CaseReport:
    """A report as it may be written to a file.

    Args:
        report: with UIDs in its sentences.
        entry: what it is about.
        show: leave them, and add those of the series and the Patient ID.
    """
    if show:
        return replace(report, identifiers=_identifiers(report, entry))
    names = {series.uid: series.id for series in entry.series} | {
        series.study_uid: series.study_id for series in entry.series
    }
    longest_first = sorted(filter(None, names), key=len, reverse=True)

    def hidden(text: str) -> str:
        for uid in longest_first:
            text = text.replace(uid, names[uid])
        return text

    return replace(
        report,
        identifiers={},
        warnings=[hidden(sentence) for sentence in report.warnings],
        error=hidden(report.error),
        hint=hidden(report.hint),
    )


def _identifiers(report: CaseReport, entry: Input) -> dict[str, str]:
    """In the clear; without a chosen series, of the study alone."""
    named = [series for series in entry.series if series.id == report.series]
    chosen = next((series for series in named if series.number == (report.volume or 0)), next(iter(named), None))
    known = chosen or next(iter(entry.series), None)
    if known is None:
        return {}
    identity = known.slices[0].identity
    series = {} if chosen is None else {"series_uid": chosen.uid}
    return {"study_uid": known.study_uid, **series, "patient_id": identity.patient}
