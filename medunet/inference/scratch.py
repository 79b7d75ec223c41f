"""Large arrays that lie on the disk until they are written: probabilities, maps of uncertainty."""

from __future__ import annotations

import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import OutputError


class Scratch:
    """Arrays of zeros in files without a name, which vanish with the process however that ends.

    Args:
        folder: on the disk that takes them; None: they are kept in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._maps: list[Any] = []

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array.

        Raises:
            OutputError: the disk has no room for it.
        """
        if self._folder is None:
            return np.zeros(shape, np.float32)
        size = 4 * int(np.prod(shape))
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                _reserve(file.fileno(), size)
                array = np.memmap(file, np.float32, "r+", shape=shape)
        except OSError as error:
            raise OutputError(
                f"{self._folder} has no room for {size / 1e9:.1f} GB of probabilities or maps: {error.strerror}.",
                "Free some space, or do without --save-probabilities and --save-uncertainty.",
            ) from error
        self._maps.append(array)
        return array

    def let_go(self) -> None:
        """Let the system take back the memory of what has been filled; it is on the disk."""
        for array in self._maps:
            with suppress(AttributeError, OSError, ValueError):  # not every system can
                array._mmap.madvise(mmap.MADV_DONTNEED)


def _reserve(file: int, size: int) -> None:
    """Take the room on the disk now: a disk that fills up later would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)
