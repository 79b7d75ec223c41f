"""`VolumeReader`: medunet's reading of DICOM, NIfTI, NRRD and pictures for MONAI's `LoadImage` and `LoadImaged`.

MONAI's own readers sort DICOM by instance number, stack series into one and pass gaps and tilts; this one gives the
right volume or an error that says why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys
from numpy.typing import NDArray

from medunet.io.read import read_volume
from medunet.io.selection import Selection

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


@dataclass(frozen=True)
class _Request:
    paths: tuple[Path, ...]


class VolumeReader(ImageReader):
    """Reads image files and DICOM folders: `LoadImaged("image", reader=VolumeReader())`.

    The array is (C, *spatial) of physical values (HU for CT), without the channel if there is one; the meta data hold
    its RAS affine.

    Args:
        series: which series of a DICOM folder: UID, text of its description, or "largest".
        irregular: DICOM slices on no regular grid are an error ("refuse") or interpolated ("resample").
        volume: number, from 1, within a series of several volumes.
        colour: colour slices that state where they lie are an error ("refuse") or read as luma ("grey").
    """

    def __init__(
        self,
        series: str | None = None,
        irregular: str = "refuse",
        volume: int | None = None,
        colour: str = "refuse",
    ) -> None:
        super().__init__()
        self.selection = Selection(series, irregular, volume, colour)

    def verify_suffix(self, filename: Paths) -> bool:  # noqa: ARG002
        """Every path is tried: bytes decide what it is."""
        return True

    def read(self, data: Paths, **_: Any) -> _Request:
        """Note what is to be read.

        Nothing is read here: whatever `read` raises, MONAI goes on to its own readers, which would turn a refusal into
        a wrong volume. It does not so after `get_data`.
        """
        parts = [data] if isinstance(data, str | PathLike) else data
        return _Request(tuple(Path(part) for part in parts))

    def get_data(self, img: _Request) -> tuple[NDArray[np.generic], dict[str, Any]]:
        """Array and meta data.

        Raises:
            DataError: it cannot be read as one volume.
        """
        volume = read_volume(img.paths, selection=self.selection)
        rank = volume.geometry.rank
        affine = np.eye(4)
        affine[:rank, :rank] = volume.geometry.affine[:rank, :rank]
        affine[:rank, 3] = volume.geometry.affine[:rank, rank]
        single = volume.channels == 1
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.geometry.shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: "no_channel" if single else 0,
        }
        return (volume.array[0] if single else volume.array), meta
