"""One door to images of every kind: a file, a DICOM series, or one of them per channel.

Decides by what a path is, not by what it holds; reading itself is `io.files` and `io.dicom`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.io.files import check_finite, image_ending, read_image, stack_channels
from medunet.io.mapped import blocks
from medunet.io.pictures import fit_alpha
from medunet.io.selection import ANY, Selection
from medunet.io.volume import Volume


def reads_as_dicom(path: Path) -> bool:
    """Whether `read_volume` takes `path` for DICOM: a folder, a zip, or a file that is DICOM by its bytes."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        return True
    if image_ending(path) or not path.is_file():
        return False
    from medunet.io.dicom import is_dicom

    return is_dicom(path)


def read_volume(
    paths: Path | Sequence[Path],
    *,
    selection: Selection = ANY,
    channels: int | None = None,
    check_values: bool = True,
    referred: Sequence[str] = (),
    scratch: Path | None = None,
) -> Volume:
    """Read an image file, a DICOM series, or several of them as the channels of one volume.

    Args:
        paths: a file, a DICOM folder or zip; or a sequence of them, one per channel, all on one grid.
        selection: which volume of a DICOM folder, and how it is read.
        channels: channels that are expected. A grey picture then becomes three equal channels where three
            are, and a picture of three equal channels becomes one. An alpha channel stays only where there are as many
            channels with it, else it is left out, with a note unless it is opaque everywhere. No more is lost.
        check_values: refuse NaN and infinite voxels.
        referred: Series Instance UIDs that a label refers to, see `io.dicom.read_dicom`.
        scratch: folder that takes large pictures, see `io.large`; None: that of the system for temporary files.

    Returns:
        Volume of (C, *spatial) in physical values (HU for CT).

    Raises:
        ReadError, DataError, GeometryError: as `io.files.read_image`.
        DicomError: the folder does not hold exactly one regular volume.
    """
    parts = [paths] if isinstance(paths, Path) else list(paths)
    volumes = [_read_part(path, selection, check_values, referred, scratch) for path in parts]
    volume = stack_channels(fit_alpha(volumes, channels))
    return volume if channels is None else _fit_channels(volume, channels)


def _read_part(
    path: Path, selection: Selection, check_values: bool, referred: Sequence[str], scratch: Path | None
) -> Volume:
    if not reads_as_dicom(path):
        return read_image(path, check_values=check_values, scratch=scratch, opaque=True)
    from medunet.io.dicom import read_dicom

    volume = read_dicom(path, selection, referred)
    if check_values:
        check_finite(volume.array, path)
    return volume


def _fit_channels(volume: Volume, channels: int) -> Volume:
    """Grey to three equal channels and back, for pictures only: cameras and editors store grey pictures either way."""
    if volume.source.kind != "picture" or volume.channels == channels:
        return volume
    if volume.channels == 1 and channels == 3:
        return replace(volume, array=np.broadcast_to(volume.array, (3, *volume.geometry.shape)))
    if volume.channels == 3 and channels == 1 and _are_equal(volume.array):
        return replace(volume, array=volume.array[:1])
    return volume


def _are_equal(channels: NDArray[np.generic]) -> bool:
    """Whether all channels (C, *spatial) are the same."""
    first, *others = channels
    pairs = (zip(blocks(first), blocks(other), strict=True) for other in others)
    return all((one == two).all() for pair in pairs for one, two in pair)
