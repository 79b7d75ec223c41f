"""What lies in a DICOM export: `scan` a folder to a list of `Series`, and `choose` one of them.

From headers only. A file that cannot be read is noted and costs nothing but itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pydicom

from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry, format_mm, format_shape
from medunet.io.dicom.elements import quiet
from medunet.io.dicom.grouping import Part, group
from medunet.io.dicom.header import is_dicom, read_header
from medunet.io.dicom.opening import files_below, opened
from medunet.io.dicom.slices import Slice
from medunet.io.dicom.stack import IrregularError, Stack, stack
from medunet.io.dicom.upright import Upright, upright
from medunet.io.selection import ANY, LARGEST, Selection

_ROWS = 20
_PIXEL_TAGS = ("BitsStored", "PixelRepresentation", "PixelData")
logger = logging.getLogger("medunet")


@dataclass(frozen=True)
class Series:
    """Images of one series that form, or could have formed, one volume.

    Attributes:
        uid: Series Instance UID; the parts of a series that holds several volumes share it.
        study_uid: Study Instance UID.
        modality: "CT", "MR", ...
        description: Series Description, and in brackets which part of the series this is.
        files: in slice order; one for a multi-frame object.
        shape: columns, rows, slices.
        spacing: millimetres per array axis; () where no grid was found.
        verdict: "" for a plausible volume, else the reason why it is none.
        remedy: what to do about the verdict.
        missed: it has a verdict although it is of a kind that somebody may want read (not a localizer or screenshot).
        geometry: the grid, None where there is none.
        slices: every image in order.
        notes: what was noticed.
        upright: of slices that lie on no regular grid, the grid that they could be resampled to.
        resampled: they are read so: `geometry` is that of `upright`.
    """

    uid: str
    study_uid: str
    modality: str
    description: str
    files: tuple[Path, ...] = field(repr=False)
    shape: tuple[int, int, int]
    spacing: tuple[float, ...]
    verdict: str
    remedy: str = field(default="", repr=False)
    missed: bool = False
    geometry: Geometry | None = field(default=None, repr=False)
    slices: tuple[Slice, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    upright: Upright | None = field(default=None, repr=False)
    resampled: bool = False

    @property
    def plausible(self) -> bool:
        """Whether it can be read as one volume."""
        return not self.verdict

    @property
    def title(self) -> str:
        """Description and size for messages: `"Head 5mm" (CT, 512x512x28)`."""
        return f'"{self.description}" ({self.modality or "no modality"}, {format_shape(self.shape)})'

    def on_upright_grid(self) -> Series:
        """This series resampled, if that is what it takes to be a volume."""
        if self.upright is None:
            return self
        geometry = self.upright.geometry
        note = (
            f"{self.verdict[:1].upper()}{self.verdict[1:]}: resampled to {format_shape(geometry.shape)} voxels of "
            f"{format_mm(geometry.spacing)}. Masks in DICOM lie on the original slices, other files on that grid."
        )
        return replace(
            self,
            verdict="",
            remedy="",
            missed=False,
            geometry=geometry,
            shape=(geometry.shape[0], geometry.shape[1], geometry.shape[2]),
            spacing=geometry.spacing,
            resampled=True,
            notes=(*self.notes, note),
        )


@dataclass(frozen=True)
class Export:
    """What `scan` found.

    Attributes:
        path: file or folder.
        series: plausible volumes first, then by size.
        ignored: sentences about everything else: other objects, broken files, files that are not DICOM.
    """

    path: Path
    series: tuple[Series, ...]
    ignored: tuple[str, ...] = ()


def scan(path: Path) -> Export:
    """List the series in a file, folder or zip, at any depth, under any file names.

    Raises:
        ReadError: there is no such path, or a zip that cannot be read.
    """
    if not path.exists():
        raise ReadError(f"There is no file or folder {path}.", "Check the path.")
    slices: list[Slice] = []
    left_out: dict[str, list[str]] = {}
    for file in files_below(path):
        name = str(file.relative_to(path)) if file != path else file.name
        if not is_dicom(file):
            left_out.setdefault("not DICOM", []).append(name)
            continue
        try:
            header = read_header(file)
        except ReadError as error:
            left_out.setdefault(error.message, []).append(name)
            continue
        slices.extend(header.slices)
        if not header.slices:
            left_out.setdefault(f"{header.kind}, no scanner image", []).append(name)
    ignored = tuple(f"{_some(names)} left out: {reason}." for reason, names in left_out.items())
    found = [_series(part) for part in group(slices, _digest)]
    found.sort(key=lambda series: (not series.plausible, -int(np.prod(series.shape)), series.uid, series.description))
    logger.debug("DICOM: %d images in %d series, %d remarks", len(slices), len(found), len(ignored))
    return Export(path, tuple(found), ignored)


def _some(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
    return f"{', '.join(names[:2])} and {len(names) - 2} more were"


def choose(series: Sequence[Series], selection: Selection = ANY) -> Series:
    """The one series that is meant. Single slices stand back behind volumes.

    Args:
        series: as `scan` lists them.
        selection: which one; stacks that it wants resampled count as volumes.

    Raises:
        DicomError: none or several fit; the message lists them, or says why each is none.
    """
    if not series:
        raise DicomError("There is no DICOM image here.", "Give the folder that holds the exported series.")
    if selection.irregular == "resample":
        series = [each.on_upright_grid() for each in series]
    wanted = selection.series
    matching = list(series) if wanted in (None, LARGEST) else _matching(series, str(wanted))
    volumes = [s for s in matching if s.plausible]
    volumes = [s for s in volumes if s.shape[2] > 1] or volumes
    if not volumes:
        raise DicomError(*_none(matching))
    size = max(_voxels(s) for s in volumes)
    if wanted == LARGEST:
        volumes = [s for s in volumes if _voxels(s) == size]
    missed = max((s for s in matching if s.missed), key=_voxels, default=None)
    if missed and _voxels(missed) > size:
        raise DicomError(
            f"The largest series, {missed.title}, cannot be read as a volume: {missed.verdict}.",
            f"{missed.remedy} To read another one, name it with --series:\n{table(volumes)}".strip(),
        )
    if len(volumes) > 1:
        raise DicomError(
            _several(volumes), f"Name one with --series: its UID or text of its description.\n{table(volumes)}"
        )
    return volumes[0]


def _several(volumes: Sequence[Series]) -> str:
    if len({series.uid for series in volumes}) == 1:
        return f"The series holds {len(volumes)} volumes (orientations, echoes, time points, ...), and one is needed."
    return f"{len(volumes)} series fit, and one is needed."


def table(series: Sequence[Series]) -> str:
    """UID, description, slices and spacing, one line each, aligned."""
    lines = [("series UID", "description", "slices", "spacing")]
    for row in series[:_ROWS]:
        spacing = format_mm(row.spacing) if row.spacing else "unknown"
        lines.append((row.uid, row.description, str(row.shape[2]), spacing))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
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


def _matching(series: Sequence[Series], select: str) -> list[Series]:
    wanted = select.strip().casefold()
    for fits in (
        [s for s in series if s.uid == select.strip()],
        [s for s in series if s.description.casefold() == wanted],
        [s for s in series if wanted and wanted in s.description.casefold()],
    ):
        if fits:
            return fits
    raise DicomError(
        f'No series has the UID "{select}" or that text in its description.', f"The series here are:\n{table(series)}"
    )


def _voxels(series: Series) -> int:
    return int(np.prod(series.shape))


def _digest(item: Slice) -> str:
    """Hash of the pixel bytes of a single-frame file; "" for frames and for files that cannot be read now."""
    if item.frame is not None:
        return ""
    try:
        with quiet(), opened(item.path) as handle:
            dataset = pydicom.dcmread(handle, force=True, specific_tags=list(_PIXEL_TAGS))
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")).encode()
        values = [bytes(dataset.get_item(keyword).value) for keyword in _PIXEL_TAGS]
    except Exception:  # as in header.py; without a digest the slice counts as different, and the series is refused
        return ""
    return hashlib.sha256(b"\0".join([syntax, *values])).hexdigest()


def _series(part: Part) -> Series:
    first = part.slices[0]
    verdict, remedy, slices = first.fault, "", part.slices
    found: Stack | None = None
    grid: Upright | None = None
    if not verdict:
        try:
            found = stack(part.slices)
            slices = found.slices
        except IrregularError as error:
            slices = error.slices
            grid, remedy = _resampling(slices)
            verdict = error.message
        except DicomError as error:
            verdict, remedy = error.message, error.hint
    return Series(
        uid=first.identity.series_uid,
        study_uid=first.identity.study_uid,
        modality=first.identity.modality,
        description=f"{first.description} ({part.label})".strip() if part.label else first.description,
        files=tuple(dict.fromkeys(item.path for item in slices)),
        shape=(first.columns, first.rows, len(slices)),
        spacing=found.geometry.spacing if found else (),
        verdict=verdict,
        remedy=remedy,
        missed=bool(verdict) and not first.beside,
        geometry=found.geometry if found else None,
        slices=slices,
        notes=(found.notes if found else ()) + _notes(part, len(slices)),
        upright=grid,
    )


def _resampling(slices: tuple[Slice, ...]) -> tuple[Upright | None, str]:
    """The grid that irregular slices could be resampled to, and what to do about them."""
    try:
        grid = upright(slices)
    except DicomError as error:
        return None, f"It is not resampled either: {error.message}. Export all slices again."
    shape, spacing = format_shape(grid.geometry.shape), format_mm(grid.geometry.spacing)
    return grid, f"To resample it to {shape} voxels of {spacing}, add --irregular resample; or export it regularly."


def _notes(part: Part, images: int) -> tuple[str, ...]:
    notes = []
    if part.dropped:
        notes.append(f"{part.dropped} repeat(s) of images at the same position with equal pixels were dropped.")
    notes += _ends(part)
    stated = part.slices[0].series_images
    if stated > images + part.dropped:
        notes.append(f"The series states {stated} images; {images} are in this volume.")
    return tuple(notes)


def _ends(part: Part) -> list[str]:
    """What instance numbers tell of slices that are missing at the ends, where positions tell nothing."""
    numbers = [item.instance for item in part.slices if item.instance is not None and item.frame is None]
    whole = len(numbers) == len(part.slices) > 1 and max(numbers) - min(numbers) == len(numbers) - 1
    if part.label or not whole or min(numbers) <= 1:
        return []
    missing = min(numbers) - 1
    return [
        f"Instance numbers run from {min(numbers)} to {max(numbers)}, so {missing} image{'s' if missing > 1 else ''} "
        "may be missing at one end."
    ]
