"""What masks are written as: names of formats, their files, their writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.itk import ENDINGS as ITK
from medunet.export.itk import write_itk
from medunet.export.nifti import write_nifti
from medunet.io.files import NIFTI
from medunet.io.volume import Segmentation

Write = Callable[[Segmentation, Path, Algorithm], Path]


@dataclass(frozen=True)
class Format:
    """A format of masks.

    Attributes:
        suffix: what follows the name of a case.
        endings: of single files.
        write: its writer.
        dicom: it refers to the DICOM images that were segmented, so there must be some.
    """

    suffix: str
    endings: tuple[str, ...]
    write: Write
    dicom: bool = False


def _seg(segmentation: Segmentation, path: Path, algorithm: Algorithm) -> Path:
    from medunet.export.dicom.seg import write_seg

    return write_seg(segmentation, path, algorithm)


def _rtstruct(segmentation: Segmentation, path: Path, algorithm: Algorithm) -> Path:
    from medunet.export.dicom.rtstruct import write_rtstruct

    return write_rtstruct(segmentation, path, algorithm)


FORMATS = {
    "nifti": Format("_seg.nii.gz", NIFTI, lambda segmentation, path, _: write_nifti(segmentation, path)),
    "nrrd": Format("_seg.nrrd", ITK, lambda segmentation, path, _: write_itk(segmentation, path)),
    "dicom-seg": Format("_seg.dcm", (".dcm",), _seg, dicom=True),
    "rtstruct": Format("_rtstruct.dcm", (".dcm",), _rtstruct, dicom=True),
}
"""By name; a file without a named format gets the first whose endings fit."""


def format_of(path: Path, wanted: str | None = None) -> str:
    """Name of the format of a file: the one that is wanted, or the first that has the file's ending.

    Raises:
        UsageError: there is no such format, or the ending is another's.
    """
    if wanted is not None and wanted not in FORMATS:
        raise UsageError(f'"{wanted}" is no output format.', f"The formats are {', '.join(FORMATS)}.")
    offered = tuple(FORMATS) if wanted is None else (wanted,)
    for name in offered:
        if path.name.lower().endswith(FORMATS[name].endings):
            return name
    endings = dict.fromkeys(ending for name in offered for ending in FORMATS[name].endings)
    what = (
        f"A mask cannot be written to {path}: no format has that ending."
        if wanted is None
        else f"{path} has not the ending of the format {wanted}."
    )
    raise UsageError(what, f"Use {', '.join(endings)}, or give a folder.")


def write_mask(
    segmentation: Segmentation, path: str | Path, algorithm: Algorithm | None = None, *, wanted: str | None = None
) -> Path:
    """Write a mask, atomically, in a named format or in that of the file's ending.

    Raises:
        UsageError: no format has that name or ending, or a DICOM format for an image that did not come as DICOM.
        OutputError: the file cannot be written.
    """
    return FORMATS[format_of(Path(path), wanted)].write(segmentation, Path(path), algorithm or Algorithm())
