"""What lies in a DICOM export: `scan` a folder to a list of `Series`.

From headers only. A file that cannot be read is noted and costs nothing but itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pydicom

from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry, format_mm, format_shape
from medunet.io.dicom.elements import quiet
from medunet.io.dicom.grouping import Part, group
from medunet.io.dicom.header import DIRECTORY_CLASS, is_dicom, read_header, sop_class_of
from medunet.io.dicom.opening import files_below, opened
from medunet.io.dicom.slices import Slice
from medunet.io.dicom.stack import IrregularError, Stack, stack
from medunet.io.dicom.upright import Upright, upright

_REMARKS = 5
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
        number: which volume of its series this is, from 1; 0: the only one.
        grey: of colour images that say where they lie, what they are as grey values.
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
    number: int = 0
    grey: Series | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The Series Instance UID, hashed: may stand where the UID may not."""
        return hashed(self.uid)

    @property
    def study_id(self) -> str:
        """The Study Instance UID, hashed."""
        return hashed(self.study_uid)

    @property
    def kernel(self) -> str:
        """Convolution Kernel, "" if it is not stated."""
        return dict(self.slices[0].traits).get("kernel", "")

    @property
    def contrast(self) -> bool:
        """Whether a contrast agent is stated."""
        return self.slices[0].contrast

    @property
    def voxels(self) -> int:
        """How many it has."""
        return int(np.prod(self.shape))

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


def hashed(uid: str) -> str:
    """12 hexadecimal digits that stand for a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:12]


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

    def remarks(self) -> str:
        """The first of the sentences, and how many there are more."""
        more = len(self.ignored) - _REMARKS
        return " ".join([*self.ignored[:_REMARKS], *([f"And {more} reasons more."] if more > 0 else [])])


def scan(path: Path) -> Export:
    """List the series in a file, folder or zip, at any depth, under any file names.

    A DICOMDIR stands for its folder: what it lists lies there, and what it lists wrongly does, too.

    Raises:
        ReadError: there is no such path, or a zip that cannot be read.
    """
    if not path.exists():
        raise ReadError(f"There is no file or folder {path}.", "Check the path.")
    path = folder_of(path)
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
    found = _counted(_numbered([_series(part) for part in group(slices, _digests())]), slices)
    found.sort(key=lambda series: (not series.plausible, -series.voxels, series.uid, series.number, series.description))
    logger.debug("DICOM: %d images in %d series, %d remarks", len(slices), len(found), len(ignored))
    return Export(path, tuple(found), ignored)


def folder_of(path: Path) -> Path:
    """The folder of a DICOMDIR; any other path itself."""
    return path.parent if is_dicom(path) and sop_class_of(path) == DIRECTORY_CLASS else path


def _numbered(found: Sequence[Series]) -> list[Series]:
    """Number the volumes of each series that holds several; what is no volume of it, such as a localizer, is none."""
    parts: dict[tuple[str, bool], list[int]] = {}
    for place, series in enumerate(found):
        if series.plausible or series.missed or series.grey is not None:
            parts.setdefault((series.uid, series.grey is not None), []).append(place)
    result = list(found)
    for places in parts.values():
        for number, place in enumerate(places if len(places) > 1 else (), start=1):
            series = result[place]
            grey = None if series.grey is None else replace(series.grey, number=number)
            result[place] = replace(series, number=number, grey=grey)
    return result


def _counted(found: Sequence[Series], slices: Sequence[Slice]) -> list[Series]:
    """Say of a series that fewer images are here than it states, whatever volumes they belong to."""
    here: dict[str, set[str]] = {}
    for item in slices:
        here.setdefault(item.identity.series_uid, set()).add(item.sop_uid or str(item.path))
    result = []
    for series in found:
        stated, images = max(item.series_images for item in series.slices), len(here[series.uid])
        note = (f"The series states {stated} images; {images} are here.",) if stated > images else ()
        grey = None if series.grey is None else replace(series.grey, notes=series.grey.notes + note)
        result.append(replace(series, notes=series.notes + note, grey=grey))
    return result


def _some(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return f"{', '.join(names)} {'was' if len(names) == 1 else 'were'}"
    return f"{', '.join(names[:2])} and {len(names) - 2} more were"


def _digests() -> Callable[[Slice], str]:
    """What names the pixels of a slice: those of its file and which frame it is; "" if the file cannot be read now."""
    of_file = cache(_digest)

    def name(item: Slice) -> str:
        found = of_file(item.path)
        return found if item.frame is None or not found else f"{found} {item.frame}"

    return name


def _digest(path: Path) -> str:
    try:
        with quiet(), opened(path) as handle:
            dataset = pydicom.dcmread(handle, force=True, specific_tags=list(_PIXEL_TAGS))
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")).encode()
        values = [bytes(dataset.get_item(keyword).value) for keyword in _PIXEL_TAGS]
    except Exception:  # as in header.py; without a digest the slice counts as different, and the series is refused
        return ""
    return hashlib.sha256(b"\0".join([syntax, *values])).hexdigest()


def _series(part: Part) -> Series:
    first = part.slices[0]
    if first.fault and first.colour:
        return _in_colour(part)
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
        notes=(found.notes if found else ()) + _notes(part),
        upright=grid,
    )


def _in_colour(part: Part) -> Series:
    """Refused as they are; what they would be as grey values stands beside."""
    first = part.slices[0]
    grey = _series(replace(part, slices=tuple(replace(item, fault="", beside=False) for item in part.slices)))
    return replace(
        grey,
        geometry=None,
        spacing=(),
        verdict=first.fault,
        remedy="To read the colours as grey values, add --colour grey.",
        missed=False,
        upright=None,
        grey=replace(grey, notes=(*grey.notes, "Colours were read as their luma (ITU-R BT.601).")),
    )


def _resampling(slices: tuple[Slice, ...]) -> tuple[Upright | None, str]:
    """The grid that irregular slices could be resampled to, and what to do about them."""
    try:
        grid = upright(slices)
    except DicomError as error:
        return None, f"It is not resampled either: {error.message}. Export all slices again."
    shape, spacing = format_shape(grid.geometry.shape), format_mm(grid.geometry.spacing)
    return grid, f"To resample it to {shape} voxels of {spacing}, add --irregular resample; or export it regularly."


def _notes(part: Part) -> tuple[str, ...]:
    notes = []
    if part.dropped:
        notes.append(f"{part.dropped} repeat(s) of images at the same position with equal pixels were dropped.")
    return (*notes, *_ends(part))


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
