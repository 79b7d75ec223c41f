"""Structures that may overlap, in one mask: voxels of several get a value of their own, as nested labels do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError
from medunet.labels import BACKGROUND, LabelMap, clashes


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


def unlike(names: Mapping[int, str]) -> dict[int, str]:
    """Names with their numbers behind them where two are alike, or one is that of the background."""
    plain = {number: name or "structure" for number, name in names.items()}
    often = [*plain.values(), BACKGROUND]
    return {number: name if often.count(name) == 1 else f"{name} {number}" for number, name in plain.items()}
