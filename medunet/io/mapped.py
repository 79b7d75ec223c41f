"""Large arrays in files without a name, and going through an array without holding it.

Such an array is like any other, but what was touched of it need not stay in memory: it is on the disk. The file
vanishes with the process, however that ends. Knows nothing of images.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 24
"""Bytes of an array that are looked at at a time."""


class _Map(mmap.mmap):
    """Told apart from maps of others, whose changes may be nowhere but in memory."""


def mapped_zeros(folder: Path, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """An array of zeros in a file without a name in `folder`.

    Raises:
        OSError: the disk has no room for it.
    """
    kind = np.dtype(dtype)
    size = max(1, int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
    with tempfile.TemporaryFile(dir=folder) as file:
        _reserve(file.fileno(), size)
        place = _Map(file.fileno(), size)
    result: NDArray[Any] = np.ndarray(tuple(shape), kind, place)
    return result


def _reserve(file: int, size: int) -> None:
    """Take the room on the disk now: a disk that fills up later would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether an array, or what it is a view of, was made by `mapped_zeros`."""
    return _place(array) is not None


def let_go(array: NDArray[Any]) -> None:
    """Let the system take back the memory of what was touched of a mapped array; nothing of any other."""
    place = _place(array)
    if place is not None:
        with suppress(AttributeError, OSError, ValueError):  # not every system can
            place.madvise(mmap.MADV_DONTNEED)


def _place(array: Any) -> _Map | None:
    while isinstance(array, np.ndarray):
        array = array.base
    while isinstance(array, memoryview):
        array = array.obj
    return array if isinstance(array, _Map) else None


def blocks(array: NDArray[Any], most: int = BLOCK) -> Iterator[NDArray[Any]]:
    """Parts of an array, one after the other as they lie in memory: views of `most` bytes, or of one row.

    The axis whose neighbours lie farthest apart comes first in them. A part of a mapped array is let go of when the
    next is asked for.
    """
    rows = np.moveaxis(array, outermost(array), 0)
    step = max(1, most // max(1, rows[:1].nbytes))
    for first in range(0, len(rows), step):
        yield rows[first : first + step]
        let_go(array)


def outermost(array: NDArray[Any]) -> int:
    """The axis whose neighbours lie farthest apart in memory."""
    return int(np.argmax(np.abs(array.strides)))
