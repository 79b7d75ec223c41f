"""Writes a segmentation as NRRD or MHA through SimpleITK, on the grid of its source."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.atomic import atomic_file
from medunet.errors import OutputError, UsageError
from medunet.geometry import RAS_FROM_LPS
from medunet.io.volume import Segmentation

ENDINGS = (".nrrd", ".mha")


def write_itk(segmentation: Segmentation, path: str | Path) -> Path:
    """Write label values to `path` (.nrrd, .mha), compressed, atomically.

    Raises:
        UsageError: another ending, such as .mhd, which would be two files.
        OutputError: the file cannot be written.
    """
    import SimpleITK

    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise UsageError(f"{path} cannot be written; masks are {' or '.join(ENDINGS)}, which are one file each.")
    geometry = segmentation.geometry
    values = segmentation.labels.to_values(segmentation.array)
    array = np.ascontiguousarray(values.transpose())
    image = SimpleITK.GetImageFromArray(array)
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
