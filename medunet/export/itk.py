"""Writes segmentations and images as NRRD or MHA through SimpleITK, on their grids."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.atomic import atomic_file
from medunet.errors import OutputError, UsageError
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.volume import Segmentation

ENDINGS = (".nrrd", ".mha")


def write_itk(segmentation: Segmentation, path: str | Path) -> Path:
    """Write label values to `path` (.nrrd, .mha), compressed, atomically.

    Raises:
        UsageError: another ending, such as .mhd, which would be two files.
        OutputError: the file cannot be written.
    """
    return _write(segmentation.labels.to_values(segmentation.array)[None], segmentation.geometry, Path(path))


def write_itk_array(array: NDArray[np.generic], geometry: Geometry, path: str | Path) -> Path:
    """Write an image (C, *spatial) to `path` (.nrrd, .mha), compressed, atomically; several channels become vectors.

    Raises:
        UsageError, OutputError: as `write_itk`.
    """
    return _write(array, geometry, Path(path))


def _write(channels: NDArray[np.generic], geometry: Geometry, path: Path) -> Path:
    import SimpleITK

    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path} cannot be written; masks are {' or '.join(ENDINGS)}, which are one file each.")
    several = len(channels) > 1
    array = np.ascontiguousarray(channels.transpose() if several else channels[0].transpose())
    image = SimpleITK.GetImageFromArray(array, isVector=several)
    flip = RAS_FROM_LPS if geometry.rank == 3 else np.diag([-1.0, -1.0, 1.0])
    lps = flip @ geometry.affine
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(lps[:-1, -1].tolist())
    image.SetDirection((lps[:-1, :-1] / np.asarray(geometry.spacing)).ravel().tolist())
    with atomic_file(path) as part:
        try:
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise OutputError(f"{path} cannot be written: {reason}.", "Check free space and permissions.") from error
        if path.suffix.lower() == ".nrrd":
            _check_end(part, array, path)
    return path


def _check_end(part: Path, array: NDArray[np.generic], path: Path) -> None:
    """Refuse a cut-off file: the NRRD library does not notice when there is no room for the last bytes.

    Gzip data end with CRC-32 and size of what was compressed (RFC 1952, section 2.3.1).
    """
    end = struct.pack("<II", zlib.crc32(array.data), array.nbytes & 0xFFFFFFFF)
    with open(part, "rb") as handle:
        handle.seek(-len(end), os.SEEK_END)
        whole = handle.read() == end
    if not whole:
        raise OutputError(f"{path} cannot be written: its end did not reach the disk.", "Check free space.")
