"""Masks of pictures as PNG, written row by row: a few MB of memory for any size. Pillow needs all of it at once.

PNG is ISO/IEC 15948. Rows are not filtered: masks are long runs of one number.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medunet.atomic import atomic_file
from medunet.errors import OutputError
from medunet.geometry import format_shape
from medunet.io.mapped import blocks, let_go
from medunet.io.volume import Segmentation

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY = 0
_WRITTEN = 1 << 22  # pixels that are written at a time


def write_mask_png(path: str | Path, segmentation: Segmentation) -> None:
    """Write a 2D mask as a grey PNG of 8 or 16 bits whose pixels are the values in files of its labels.

    Raises:
        OutputError: a mask of rank 3, values that are negative or above 65535, a file that cannot be written.
    """
    if segmentation.geometry.rank != 2:
        raise OutputError(
            f"A PNG mask is a 2D picture, and this mask is {format_shape(segmentation.array.shape)}.",
            "Write NIfTI, NRRD or DICOM SEG instead.",
        )
    labels, array = segmentation.labels, segmentation.array
    unknown = labels.ignore_index
    ignored = unknown is not None and any((part == unknown).any() for part in blocks(array))
    dtype = labels.to_values(np.asarray([unknown if ignored else 0])).dtype
    if dtype not in (np.uint8, np.uint16):
        raise OutputError(
            f"PNG holds whole numbers from 0 to 65535, and the labels are {segmentation.labels.describe()}.",
            "Give the labels such values, or write NIfTI.",
        )
    step = max(1, _WRITTEN // len(array))

    def rows() -> Iterator[NDArray[np.generic]]:
        for first in range(0, array.shape[1], step):
            yield labels.to_values(array[:, first : first + step].T)
            let_go(array)

    write_grey_png(Path(path), array.shape, dtype, rows())


def write_grey_png(path: Path, size: tuple[int, int], dtype: Any, parts: Iterable[NDArray[Any]]) -> None:
    """Write a grey picture of 8 or 16 bits, atomically.

    Args:
        path: where to.
        size: (columns, rows).
        dtype: uint8 or uint16.
        parts: (n, columns) of `dtype`: the rows, some at a time.

    Raises:
        OutputError: the file cannot be written.
    """
    kind = np.dtype(dtype)
    packer = zlib.compressobj(6)
    with atomic_file(path) as part, open(part, "wb") as file:
        file.write(_SIGNATURE)
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", *size, 8 * kind.itemsize, _GREY, 0, 0, 0))
        for rows in parts:
            values = np.ascontiguousarray(rows, kind.newbyteorder(">")).view(np.uint8).reshape(len(rows), -1)
            unfiltered = np.zeros((len(rows), 1), np.uint8)
            _chunk(file, b"IDAT", packer.compress(np.hstack([unfiltered, values]).tobytes()))
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: IO[bytes], name: bytes, data: bytes) -> None:
    if data or name != b"IDAT":
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
