"""Which of the series of an export is meant: `choose` one, or `choose_volumes` all of a series.

What cannot be decided is an error that lists what there is. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence

from medunet.errors import DicomError
from medunet.geometry import format_mm
from medunet.io.dicom.rules import failing
from medunet.io.dicom.series import Series
from medunet.io.selection import ALL, ANY, LARGEST, Selection

_ROWS = 20


def choose(series: Sequence[Series], selection: Selection = ANY) -> Series:
    """The one volume that is meant. Single slices stand back behind volumes, and colour images behind others.

    Args:
        series: as `scan` lists them.
        selection: which one; what it wants resampled or read as grey values counts as volumes.

    Raises:
        DicomError: none or several fit; the message lists them, or says why each is none.
    """
    found = choose_volumes(series, selection)
    if len(found) > 1:
        raise DicomError(_several(found), f"Give the number of one.\n{table(found)}")
    return found[0]


def choose_volumes(series: Sequence[Series], selection: Selection = ANY) -> tuple[Series, ...]:
    """The one volume that is meant; with the volume "all" those of its series, also such as cannot be read.

    Raises:
        DicomError: as `choose`, but not for several volumes of one series.
    """
    if not series:
        raise DicomError("There is no DICOM image here.", "Give the folder that holds the exported series.")
    matching = _matching(_as_read(series, selection), selection)
    volumes = _foremost(matching)
    if not volumes:
        raise DicomError(*_none(matching))
    size = max(each.voxels for each in volumes)
    if selection.series == LARGEST:
        volumes = [each for each in volumes if each.voxels == size]
    alike = {each.uid for each in volumes}
    whole = selection.volume == ALL and len(alike) == 1
    broken = [each for each in matching if each.missed and not (whole and each.uid in alike)]
    missed = max(broken, key=lambda each: each.voxels, default=None)
    if missed and missed.voxels > size:
        raise DicomError(
            f"The largest series, {missed.title}, cannot be read as a volume: {missed.verdict}.",
            f"{missed.remedy} To read another one, name it with --series:\n{table(volumes)}".strip(),
        )
    if whole:
        parts = [s for s in matching if s.uid in alike and s.number and _in_colour(s) == _in_colour(volumes[0])]
        return tuple(sorted(parts, key=lambda part: part.number)) or tuple(volumes)
    if len(volumes) > 1:
        by_name = "Name one with --series: its UID or text of its description."
        remedy = "Give its number with --volume." if len(alike) == 1 else by_name
        raise DicomError(_several(volumes), f"{remedy}\n{table(volumes)}")
    return (volumes[0],)


def _as_read(series: Sequence[Series], selection: Selection) -> list[Series]:
    """The series as the selection wants them read."""
    found = [each.grey or each for each in series] if selection.colour == "grey" else list(series)
    return [each.on_upright_grid() for each in found] if selection.irregular == "resample" else found


def _foremost(series: Sequence[Series]) -> list[Series]:
    """Volumes; single slices where there is none, colour images where there is nothing else."""
    volumes = [each for each in series if each.plausible]
    volumes = [each for each in volumes if not _in_colour(each)] or volumes
    return [each for each in volumes if each.shape[2] > 1] or volumes


def _in_colour(series: Series) -> bool:
    return series.slices[0].colour


def _matching(series: Sequence[Series], selection: Selection) -> list[Series]:
    """What has the name and the number that are wanted, or fits the rules where there is no name."""
    wanted = selection.series
    if wanted not in (None, LARGEST):
        found = _named(series, str(wanted))
    elif selection.rules is not None:
        found = [each for each in series if not failing(each, selection.rules)]
        if not found:
            lines = [f"  {each.title}: {'; '.join(failing(each, selection.rules))}" for each in series[:_ROWS]]
            remedy = "To read one all the same, name it with --series: its UID or text of its description."
            raise DicomError(
                "No series is of the kind that the rules (data.series) want.",
                "\n".join([remedy, *lines, *_rest(series)]),
            )
    else:
        found = list(series)
    return _of_number(found, selection.volume)


def _of_number(series: list[Series], number: int | str | None) -> list[Series]:
    if not isinstance(number, int):
        return series
    found = [each for each in series if max(each.number, 1) == number]
    if not found:
        raise DicomError(f"There is no volume {number}.", f"The volumes here are:\n{table(series)}")
    return found


def _several(volumes: Sequence[Series]) -> str:
    if len({series.uid for series in volumes}) == 1:
        return f"The series holds {len(volumes)} volumes (orientations, echoes, time points, ...), and one is needed."
    return f"{len(volumes)} series fit, and one is needed."


def table(series: Sequence[Series]) -> str:
    """UID, number of the volume if there is one, description, slices and spacing, one line each, aligned."""
    numbered = any(each.number for each in series)
    lines = [("series UID", *(["volume"] if numbered else []), "description", "slices", "spacing")]
    for row in series[:_ROWS]:
        spacing = format_mm(row.spacing) if row.spacing else "unknown"
        number = [str(row.number or "-")] if numbered else []
        lines.append((row.uid, *number, row.description, str(row.shape[2]), spacing))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(["  " + "  ".join(line).rstrip() for line in cells] + _rest(series))


def _none(series: Sequence[Series]) -> tuple[str, str]:
    if len(series) == 1:
        return f"The series {series[0].title} cannot be read as a volume: {series[0].verdict}.", series[0].remedy
    reasons = [f"  {s.title}: {s.verdict}" for s in series[:_ROWS]]
    remedies = dict.fromkeys(s.remedy for s in series if s.missed)
    only = next(iter(remedies)) if len(remedies) == 1 else ""
    return "\n".join([f"None of the {len(series)} series is a volume:", *reasons, *_rest(series)]), only


def _rest(series: Sequence[Series]) -> list[str]:
    return [f"  ... {len(series) - _ROWS} more"] if len(series) > _ROWS else []


def _named(series: Sequence[Series], select: str) -> list[Series]:
    wanted = select.strip().casefold()
    for fits in (
        [s for s in series if wanted in (s.uid, s.id)],
        [s for s in series if s.description.casefold() == wanted],
        [s for s in series if wanted and wanted in s.description.casefold()],
    ):
        if fits:
            return fits
    raise DicomError(
        f'No series has the UID "{select}" or that text in its description.', f"The series here are:\n{table(series)}"
    )
