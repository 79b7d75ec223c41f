"""What a caller may hand to the predictor instead of a path: arrays of the libraries they work with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medunet.errors import DataError, UsageError
from medunet.geometry import Geometry
from medunet.io.files import check_finite, from_itk, from_simpleitk
from medunet.io.read import read_volume
from medunet.io.selection import ANY, Selection
from medunet.io.volume import Source, Volume

_MEMORY = Path("image")


def as_volume(
    source: Any, selection: Selection = ANY, *, channels: int | None = None, scratch: Path | None = None
) -> Volume:
    """Turn what a caller has into a `Volume`.

    Args:
        source: as `Predictor` takes it.
        selection: which volume of a DICOM export, and how it is read.
        channels: channels that are expected, for pictures that may be stored grey or in colour.
        scratch: folder that takes large pictures; None: that of the system for temporary files.

    Raises:
        UsageError: a type that is not understood.
        DataError: an image that cannot be read or holds NaN.
    """
    if isinstance(source, str | Path):
        return read_volume(Path(source), selection=selection, channels=channels, scratch=scratch)
    if isinstance(source, list | tuple) and all(isinstance(item, str | Path) for item in source):
        paths = tuple(Path(item) for item in source)
        return read_volume(paths, selection=selection, channels=channels, scratch=scratch)
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, Volume):
        volume = source
    elif module == "nibabel":
        volume = _from_nibabel(source)
    elif module == "SimpleITK":
        volume = from_simpleitk(source, Source(_MEMORY, "nrrd"))
    elif module == "itk":
        volume = from_itk(source, Source(_MEMORY, "nrrd"))
    else:
        raise UsageError(
            f"A {type(source).__name__} cannot be segmented.",
            "Give a path, a Volume, a nibabel, SimpleITK or itk image.",
        )
    check_finite(volume.array, volume.source.path)
    return volume


def _from_nibabel(image: Any) -> Volume:
    """A nibabel image as it would be read from a file: float32 where its header scales, else as stored."""
    from nibabel import Nifti1Image

    stored = image.dataobj
    scaled = (getattr(stored, "slope", 1.0), getattr(stored, "inter", 0.0)) != (1.0, 0.0)
    array = np.asarray(stored, dtype=np.float32) if scaled else np.asarray(stored)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3 or array.dtype.kind not in "biuf" or image.affine is None:
        affine = "no affine" if image.affine is None else "an affine"
        raise DataError(
            f"A nibabel image of {array.ndim} axes, {array.dtype} voxels and {affine} is no volume.",
            "Give one 3D image of real numbers.",
        )
    geometry = Geometry.from_affine(image.affine, array.shape)
    known = isinstance(image, Nifti1Image)
    source = Source(_MEMORY, "nifti", header=image.header) if known else Source(_MEMORY, "array")
    return Volume(array[None], geometry, source)
