"""Structures that may overlap, in one mask: `Overlaps` gives the voxels of several a value of their own, as nested
labels do; `Ranked` gives them to one of the labels of a config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError
from medunet.labels import BACKGROUND, IGNORE, LabelMap, clashes


class Layers(Protocol):
    """A way to draw structures over each other."""

    def add(self, array: NDArray[Any], where: NDArray[np.bool_], structure: int) -> None:
        """Let voxels of `array` belong to a structure too."""


@dataclass
class Overlaps:
    """What the values of a mask mean: the numbers of all structures that a voxel belongs to.

    A voxel of one structure has its number as value; those of several get values from `free` on.
    """

    free: int
    sets: dict[int, frozenset[int]] = field(default_factory=lambda: {0: frozenset()})
    values: dict[frozenset[int], int] = field(default_factory=lambda: {frozenset(): 0})

    def add(self, array: NDArray[np.uint16], where: NDArray[np.bool_], structure: int) -> None:
        """Let voxels of `array` belong to a structure too."""
        before = array[where]
        after = before.copy()
        for value in np.unique(before).tolist():
            after[before == value] = self._value(self.sets[value] | {structure})
        array[where] = after

    def _value(self, members: frozenset[int]) -> int:
        if members not in self.values:
            value = next(iter(members)) if len(members) == 1 else self.free
            self.free += len(members) > 1
            if value > np.iinfo(np.uint16).max:
                raise DataError("There are more sets of overlapping structures than a mask has values for.")
            self.values[members], self.sets[value] = value, members
        return self.values[members]

    def labels(self, names: Mapping[int, str], path: Path) -> LabelMap:
        """Labels of the values.

        Args:
            names: of the structures, by number.
            path: what was read, for messages.

        Raises:
            DataError: two overlap, and neither lies inside of the other.
        """
        mapping = {BACKGROUND: [0]}
        for structure, name in names.items():
            mapping[name] = sorted(value for value, found in self.sets.items() if structure in found) or [structure]
        problems = clashes(mapping)
        if problems:
            raise DataError(
                f"{problems[0].other} and {problems[0].label} of {path.name} overlap, and neither lies inside of the "
                "other, so one mask cannot hold both.",
                "Take one of them, or export them as objects of their own.",
            )
        return LabelMap.from_mapping(mapping)


@dataclass
class Ranked:
    """Voxels of several labels get the one of the highest rank: an inner label before those around it, `ignore` before
    all, else the later in the config. Whatever order they are drawn in, the result is the same.

    Attributes:
        labels: of the config.
        contested: voxels that two labels claimed although neither lies inside of the other, by their ranks: the lower,
            then the higher, which got them.
    """

    labels: LabelMap
    contested: Counter[tuple[int, int]] = field(default_factory=Counter)

    @cached_property
    def indices(self) -> tuple[int, ...]:
        """Internal index of a label by rank; rank 0 is the background."""
        inner_last = [index for level in self.labels.levels for index in level]
        unknown = self.labels.ignore_index
        return (0, *inner_last, *(() if unknown is None else (unknown,)))

    def rank(self, name: str) -> int:
        """That of a label, `ignore` included."""
        names = self.labels.names
        return len(names) if name == IGNORE else self.indices.index(names.index(name))

    def name(self, rank: int) -> str:
        """Inverse of `rank`."""
        return self.labels.names[self.indices[rank]] if rank < len(self.labels) else IGNORE

    def add(self, array: NDArray[Any], where: NDArray[np.bool_], structure: int) -> None:
        """Let voxels of `array`, of ranks, belong to the label of a rank too."""
        before = array[where]
        for other, voxels in enumerate(np.bincount(before).tolist()):
            if voxels and other not in (0, structure) and not self._share(*sorted((other, structure))):
                self.contested[min(other, structure), max(other, structure)] += voxels
        array[where] = np.maximum(before, structure)

    def _share(self, low: int, high: int) -> bool:
        """Whether a voxel may belong to both: one lies inside of the other, or it is unknown."""
        if high >= len(self.labels):
            return True
        one, other = self.indices[low], self.indices[high]
        return bool(self.labels.membership[one, other] or self.labels.membership[other, one])

    def to_indices(self, ranks: NDArray[Any]) -> NDArray[np.generic]:
        """Internal indices of an array of ranks."""
        result: NDArray[np.generic] = np.asarray(self.indices, self.labels.index_dtype)[ranks]
        return result


def unlike(names: Mapping[int, str]) -> dict[int, str]:
    """Names with their numbers behind them where two are alike, or one is that of the background."""
    plain = {number: name or "structure" for number, name in names.items()}
    often = [*plain.values(), BACKGROUND]
    return {number: name if often.count(name) == 1 else f"{name} {number}" for number, name in plain.items()}
