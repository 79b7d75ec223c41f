"""Writes a segmentation as NIfTI on exactly the grid of its source.

A mask of a NIfTI image takes over that image's header: shape, pixdim, qform, sform and their codes, bit for bit.
A mask of a DICOM series, NRRD or array, or on another grid than its source, gets its affine as sform and qform
(code 1, scanner).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.atomic import atomic_file
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation, Source

_SCANNER = 1


def write_nifti(segmentation: Segmentation, path: str | Path) -> Path:
    """Write label values (as in the label map) to `path` (.nii or .nii.gz), atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    values = segmentation.labels.to_values(segmentation.array)
    return _write(values, segmentation.geometry, segmentation.source, Path(path), label=True)


def write_nifti_array(array: NDArray[np.generic], geometry: Geometry, source: Source, path: str | Path) -> Path:
    """Write a real array (*spatial) or (C, *spatial) (channels become the fourth axis) on the source's grid.

    Raises:
        OutputError: the file cannot be written.
    """
    if array.ndim > geometry.rank:
        array = np.moveaxis(array, 0, -1).reshape(*geometry.shape, *(1,) * (3 - geometry.rank), -1)
        source = Source(source.path, source.kind)
    return _write(array, geometry, source, Path(path), label=False)


def _write(values: NDArray[np.generic], geometry: Geometry, source: Source, path: Path, *, label: bool) -> Path:
    import nibabel

    if _describes(source.header, values.shape):
        header = source.header.copy()
        values = values.reshape(header.get_data_shape())
        header.set_data_dtype(values.dtype)
        header["cal_min"] = header["cal_max"] = 0
        # No affine is passed: nibabel then leaves qform, sform and their codes as they are. The slope it drops itself.
        image = nibabel.Nifti1Image(values, None, header)
    else:
        affine = np.eye(4)
        rank = geometry.rank
        affine[:rank, :rank] = geometry.affine[:rank, :rank]
        affine[:rank, 3] = geometry.affine[:rank, rank]
        image = nibabel.Nifti1Image(values, affine)
        image.set_sform(affine, code=_SCANNER)
        image.set_qform(affine, code=_SCANNER)
        image.header.set_xyzt_units("mm")
    if label:
        image.header.set_intent("label")
    with atomic_file(path) as part:
        nibabel.save(image, part)
    return path


def _describes(header: Any, shape: Sequence[int]) -> bool:
    """Whether this is a NIfTI header of a volume of `shape`, up to trailing axes of length 1."""
    import nibabel

    if not isinstance(header, nibabel.Nifti1Header):  # other formats of nibabel have headers of their own
        return False
    stated = tuple(header.get_data_shape())
    rank = len(shape)
    return stated[:rank] == tuple(shape) and all(n == 1 for n in stated[rank:])
