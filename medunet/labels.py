"""What the numbers in a mask mean: `LabelMap`.

Files may use any integer (0, 4, 205, ...). Networks need contiguous indices from 0. The translation
happens here and at the border only. Knows nothing of files or networks.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError

BACKGROUND = "background"

_PALETTE = (
    (0, 0, 0), (221, 130, 101), (128, 174, 128), (157, 108, 162), (241, 214, 145), (111, 184, 210),
    (216, 101, 79), (144, 238, 144), (177, 122, 101), (192, 104, 188), (128, 220, 220), (206, 160, 84),
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        name: as in the config, for example "liver".
        index: position in the network's output, 0 for background.
        values: integers that mean this structure in files; the first is the one written.
        colour: red, green, blue, 0 to 255, for overlays.
    """

    name: str
    index: int
    values: tuple[int, ...]
    colour: tuple[int, int, int]


def _colour(index: int) -> tuple[int, int, int]:
    if index < len(_PALETTE):
        return _PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb((index * 0.61803398875) % 1.0, 0.6, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


@dataclass(frozen=True)
class LabelMap:
    """Ordered labels; index 0 is the background.

    Raises:
        DataError: no labels, no background first, a label without a value, or one name or value used twice.
    """

    labels: tuple[Label, ...]

    def __post_init__(self) -> None:
        values = [value for label in self.labels for value in label.values]
        names = [label.name for label in self.labels]
        if len(self.labels) < 2 or self.labels[0].name != BACKGROUND:
            raise DataError("A label map needs background first and at least one structure.")
        empty = [label.name for label in self.labels if not label.values]
        if empty:
            raise DataError(f"Every label needs a value in the mask files, but {', '.join(empty)} has none.")
        if len(set(values)) != len(values) or len(set(names)) != len(names):
            raise DataError(f"Each name and value may occur once in a label map, not {names} with values {values}.")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, int | Sequence[int]]) -> LabelMap:
        """Build from names to values in files, as in `labels: {background: 0, liver: 1, lesion: [2, 3]}`.

        Background comes first, the others in the order given. A list merges several values into one label.
        """
        ordered = sorted(mapping.items(), key=lambda item: item[0] != BACKGROUND)
        return cls(
            tuple(
                Label(name, index, (value,) if isinstance(value, int) else tuple(value), _colour(index))
                for index, (name, value) in enumerate(ordered)
            )
        )

    def to_mapping(self) -> dict[str, int | list[int]]:
        """Inverse of `from_mapping`."""
        return {label.name: label.values[0] if len(label.values) == 1 else list(label.values) for label in self.labels}

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def foreground(self) -> tuple[Label, ...]:
        """All labels but the background."""
        return self.labels[1:]

    @property
    def names(self) -> tuple[str, ...]:
        """Names by index."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All integers that may occur in files."""
        return tuple(value for label in self.labels for value in label.values)

    @cached_property
    def file_dtype(self) -> np.dtype[Any]:
        """Smallest integer type that holds every value: uint8, uint16, int16 or int32."""
        low, high = min(self.values), max(self.values)
        for dtype in (np.uint8, np.uint16, np.int16, np.int32):
            info = np.iinfo(dtype)
            if info.min <= low and high <= info.max:
                return np.dtype(dtype)
        raise DataError(f"Label values from {low} to {high} do not fit into 32 bits.")

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """uint8 for up to 256 labels, else uint16."""
        return np.dtype(np.uint8 if len(self) <= 256 else np.uint16)

    def unknown_values(self, array: NDArray[np.generic]) -> list[float]:
        """Values in `array` that no label names, sorted; non-integers included."""
        present = np.unique(array)
        return [float(value) for value in present[~np.isin(present, np.asarray(self.values))]]

    def to_indices(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Translate values as in files into indices.

        Raises:
            DataError: a value that no label names.
        """
        unknown = self.unknown_values(array)
        if unknown:
            raise DataError(
                f"The mask holds {format_values(unknown)}, which no label names.",
                f"The labels are {self.describe()}.",
            )
        pairs = sorted((value, label.index) for label in self.labels for value in label.values)
        values = np.asarray([value for value, _ in pairs])
        indices = np.asarray([index for _, index in pairs], dtype=self.index_dtype)
        return _by_planes(lambda plane: indices[np.searchsorted(values, plane)], array, self.index_dtype)

    def to_values(self, indices: NDArray[np.generic]) -> NDArray[np.generic]:
        """Translate indices into the values that are written to files."""
        table = np.asarray([label.values[0] for label in self.labels], dtype=self.file_dtype)
        return _by_planes(lambda plane: table[plane], indices, self.file_dtype)

    def describe(self) -> str:
        """`background 0, liver 1, lesion 2/3`."""
        return ", ".join(f"{label.name} {'/'.join(map(str, label.values))}" for label in self.labels)


def _by_planes(
    function: Callable[[Any], NDArray[np.generic]], array: NDArray[np.generic], dtype: np.dtype[Any]
) -> NDArray[np.generic]:
    """Apply `function` plane by plane: look-ups take 8 bytes per voxel, which a whole volume need not pay at once."""
    turned = array.flags.f_contiguous and not array.flags.c_contiguous  # as nibabel gives it
    source = array.T if turned else array
    result = np.empty(source.shape, dtype=dtype)
    for index in range(len(source)):
        result[index] = function(source[index])
    return result.T if turned else result


def format_values(values: Sequence[float], limit: int = 8) -> str:
    """`value 7` or `values 7, 9, ... (12 in all)`."""
    shown = ", ".join(f"{value:.10g}" for value in values[:limit])
    more = f", ... ({len(values)} in all)" if len(values) > limit else ""
    return f"value{'s' if len(values) > 1 else ''} {shown}{more}"
