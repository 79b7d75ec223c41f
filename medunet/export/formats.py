"""What masks are written as: names of formats, their files, their writers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.itk import ENDINGS as ITK
from medunet.export.itk import write_itk
from medunet.export.nifti import write_nifti
from medunet.io.files import NIFTI
from medunet.io.volume import Segmentation


@dataclass(frozen=True)
class Making:
    """What a writer may want to know beside the mask.

    Attributes:
        algorithm: what made the mask.
        probabilities: (C, *spatial) on the grid of the mask, see `inference.predictor.Prediction`; None: not known.
        together: formats that are written of the same mask.
    """

    algorithm: Algorithm = field(default_factory=Algorithm)
    probabilities: NDArray[np.floating[Any]] | None = None
    together: tuple[str, ...] = ()


Write = Callable[[Segmentation, Path, Making], Path]


@dataclass(frozen=True)
class Format:
    """A format of masks.

    Attributes:
        suffix: what follows the name of a case.
        endings: of single files.
        write: its writer.
        dicom: it refers to the DICOM images that were segmented, so there must be some.
        probabilities: it holds those of the model, so they must be computed.
        flat: it holds pictures only, no volumes.
    """

    suffix: str
    endings: tuple[str, ...]
    write: Write
    dicom: bool = False
    probabilities: bool = False
    flat: bool = False


SEG_KINDS = {
    "dicom-seg": "BINARY",
    "dicom-seg-labelmap": "LABELMAP",
    "dicom-seg-fractional": "FRACTIONAL",
    "dicom-seg-grid": "GRID",
}
"""Kinds of DICOM segmentations by format; a report refers to the first of them that is written."""


def _seg(kind: str) -> Write:
    def write(segmentation: Segmentation, path: Path, making: Making) -> Path:
        from medunet.export.dicom.seg import write_seg

        return write_seg(segmentation, path, making.algorithm, kind=kind, probabilities=making.probabilities)

    return write


def _rtstruct(segmentation: Segmentation, path: Path, making: Making) -> Path:
    from medunet.export.dicom.rtstruct import write_rtstruct

    return write_rtstruct(segmentation, path, making.algorithm)


def _report(segmentation: Segmentation, path: Path, making: Making) -> Path:
    from medunet.export.dicom.sr import write_sr

    kind = next((kind for name, kind in SEG_KINDS.items() if name in making.together), None)
    return write_sr(segmentation, path, making.algorithm, kind=kind, probabilities=making.probabilities)


def _preview(segmentation: Segmentation, path: Path, making: Making) -> Path:
    from medunet.export.dicom.preview import write_preview

    return write_preview(segmentation, path, making.algorithm)


def _png(segmentation: Segmentation, path: Path, _: Making) -> Path:
    from medunet.export.png import write_mask_png

    write_mask_png(path, segmentation)
    return path


_DCM = (".dcm",)

FORMATS = {
    "nifti": Format("_seg.nii.gz", NIFTI, lambda segmentation, path, _: write_nifti(segmentation, path)),
    "png": Format("_mask.png", (".png",), _png, flat=True),
    "nrrd": Format("_seg.nrrd", ITK, lambda segmentation, path, _: write_itk(segmentation, path)),
    "dicom-seg": Format("_seg.dcm", _DCM, _seg("BINARY"), dicom=True),
    "dicom-seg-labelmap": Format("_labelmap.dcm", _DCM, _seg("LABELMAP"), dicom=True),
    "dicom-seg-fractional": Format("_fractional.dcm", _DCM, _seg("FRACTIONAL"), dicom=True, probabilities=True),
    "dicom-seg-grid": Format("_grid_seg.dcm", _DCM, _seg("GRID"), dicom=True),
    "rtstruct": Format("_rtstruct.dcm", _DCM, _rtstruct, dicom=True),
    "dicom-sr": Format("_sr.dcm", _DCM, _report, dicom=True),
    "dicom-preview": Format("_preview.dcm", _DCM, _preview, dicom=True),
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
    segmentation: Segmentation, path: str | Path, making: Making | None = None, *, wanted: str | None = None
) -> Path:
    """Write a mask, atomically, in a named format or in that of the file's ending.

    Raises:
        UsageError: no format has that name or ending, a DICOM format for an image that did not come as DICOM, or one
            that holds probabilities where there are none.
        OutputError: the file cannot be written.
    """
    return FORMATS[format_of(Path(path), wanted)].write(segmentation, Path(path), making or Making())
