"""Large arrays that lie on the disk until they are written: probabilities, maps of uncertainty, large masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import OutputError
from medunet.io.mapped import let_go, mapped_zeros


class Scratch:
    """Arrays of zeros in files without a name, which vanish with the process however that ends.

    Args:
        folder: on the disk that takes them; None: they are kept in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._arrays: list[NDArray[Any]] = []

    def zeros(self, shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
        """An array.

        Raises:
            OutputError: the disk has no room for it.
        """
        if self._folder is None:
            return np.zeros(shape, dtype)
        try:
            array = mapped_zeros(self._folder, shape, dtype)
        except OSError as error:
            size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
            raise OutputError(
                f"{self._folder} has no room for {size / 1e9:.1f} GB of masks or probabilities: {error.strerror}.",
                "Free some space, or do without --save-probabilities and --save-uncertainty.",
            ) from error
        self._arrays.append(array)
        return array

    def let_go(self) -> None:
        """Let the system take back the memory of what has been filled; it is on the disk."""
        for array in self._arrays:
            let_go(array)
