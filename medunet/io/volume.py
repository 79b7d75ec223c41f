"""The two things that are read and written: `Volume` and `Segmentation`.

Arrays are in file axis order `(i, j, k)` (NIfTI's x, y, z), channel first; pictures have two axes.
Knows nothing of file formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError
from medunet.geometry import Geometry, format_shape
from medunet.io.mapped import blocks
from medunet.labels import LabelMap

if TYPE_CHECKING:
    from medunet.io.dicom import Series


_COUNTED = 1 << 20
"""Bytes of a mask that are counted at a time, which takes 8 bytes per voxel."""


@dataclass(frozen=True)
class Source:
    """Where an image came from, and what is needed to write a mask that fits it.

    Attributes:
        path: file or folder.
        kind: "nifti", "nrrd", "picture", "dicom" or "array".
        header: NIfTI header of the image (a `nibabel` header), else None.
        series_uid: Series Instance UID of a DICOM series, else "".
        files: the files that were read, in slice order for DICOM.
        notes: sentences about what was left out or noticed while reading.
        series: the `medunet.io.dicom.Series` that was read; what is written in DICOM refers to its slices.
        alpha: whether the last channel is transparency.
    """

    path: Path
    kind: str
    header: Any = None
    series_uid: str = ""
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    series: Series | None = field(default=None, repr=False)
    alpha: bool = False


@dataclass(frozen=True)
class Volume:
    """An image: array (C, *spatial), any real dtype, rescaled to physical values (HU for CT), on a grid.

    Raises:
        DataError: the array does not fit the grid.
    """

    array: NDArray[np.generic]
    geometry: Geometry
    source: Source = field(default_factory=lambda: Source(Path(), "array"))

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape:
            raise DataError(
                f"An array of {format_shape(self.array.shape)} (channel first) does not fit a grid of "
                f"{format_shape(self.geometry.shape)}."
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.array.shape[0])


@dataclass(frozen=True)
class Segmentation:
    """A label array (*spatial) of internal indices (see `LabelMap`), on a grid; a reference may hold ignored voxels.

    Raises:
        DataError: the array does not fit the grid.
    """

    array: NDArray[np.generic]
    geometry: Geometry
    labels: LabelMap
    source: Source = field(default_factory=lambda: Source(Path(), "array"))

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise DataError(
                f"A mask of {format_shape(self.array.shape)} does not fit a grid of "
                f"{format_shape(self.geometry.shape)}."
            )

    def volumes_ml(self) -> dict[str, float]:
        """Millilitres per foreground label, those of labels inside of it included; ignored voxels count for none."""
        counts = np.zeros(len(self.labels), dtype=np.int64)
        for part in blocks(self.array, _COUNTED):
            counts += np.bincount(part.ravel(order="K"), minlength=len(self.labels))[: len(self.labels)]
        members = self.labels.membership @ counts
        unit = self.geometry.voxel_volume_ml
        return {label.name: float(members[label.index]) * unit for label in self.labels.foreground}
