"""What the numbers in a mask mean: `LabelMap`.

Files may use any integer (0, 4, 205, ...). Networks need contiguous indices from 0. The translation
happens here and at the border only. Knows nothing of files or networks.

Labels may lie inside of each other (BraTS: whole tumour, core, enhancing). A mask holds one number per voxel, so
the index of a voxel is that of the innermost label it belongs to; `LabelMap.membership` tells the others.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError

BACKGROUND = "background"
IGNORE = "ignore"
"""Name of the values that mean "unknown": such voxels are neither learned from nor scored."""

_IGNORE_BYTE, _IGNORE_WORD = 255, 32767

_PALETTE = (
    (0, 0, 0), (221, 130, 101), (128, 174, 128), (157, 108, 162), (241, 214, 145), (111, 184, 210),
    (216, 101, 79), (144, 238, 144), (177, 122, 101), (192, 104, 188), (128, 220, 220), (206, 160, 84),
)  # fmt: skip


@dataclass(frozen=True)
class Coded:
    """A concept in a coding scheme, as DICOM's code sequences hold it: `SCT`, `10200004`, "Liver"."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Term:
    """What a structure is in coded terms, as far as somebody has said; None: it is looked up by the label's name.

    Attributes:
        category: such as "Anatomical Structure".
        type: what it is.
        modifier: of the type, such as left or right.
        region: where it lies, of a lesion for example.
        region_modifier: of the region.
    """

    category: Coded | None = None
    type: Coded | None = None
    modifier: Coded | None = None
    region: Coded | None = None
    region_modifier: Coded | None = None


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        name: as in the config, for example "liver".
        index: number inside of the program, 0 for background.
        values: integers that mean this structure in files, those of labels inside of it included.
        colour: red, green, blue, 0 to 255, for overlays. Not compared.
        term: what DICOM objects call it. Not compared.
    """

    name: str
    index: int
    values: tuple[int, ...]
    colour: tuple[int, int, int] = field(compare=False)
    term: Term = field(default=Term(), compare=False)


def _colour(index: int) -> tuple[int, int, int]:
    if index < len(_PALETTE):
        return _PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb((index * 0.61803398875) % 1.0, 0.6, 0.9)
    return int(red * 255), int(green * 255), int(blue * 255)


def shares_values(values: Mapping[str, Sequence[int]]) -> bool:
    """Whether some value belongs to several of the labels; where none of them clash, some then lie inside of others."""
    numbers = [number for members in values.values() for number in set(members)]
    return len(set(numbers)) < len(numbers)


@dataclass(frozen=True)
class Clash:
    """A label whose values cannot stand beside those of another: the two names, why (a predicate), what to do."""

    label: str
    other: str
    rule: str
    remedy: str


def clashes(values: Mapping[str, Sequence[int]]) -> list[Clash]:
    """What keeps labels from being told apart: values may be shared only with labels that lie wholly inside.

    Args:
        values: by name, `background` and `ignore` included; neither shares a value with any other.

    Returns:
        Nothing if the sets of the structures are nested or disjoint and each has a value that belongs to no label
        inside of it.
    """
    counts: dict[int, int] = {}
    sets = {name: frozenset(numbers) for name, numbers in values.items()}
    for number in (number for numbers in sets.values() for number in numbers):
        counts[number] = counts.get(number, 0) + 1
    sharing = {name: numbers for name, numbers in sets.items() if any(counts[number] > 1 for number in numbers)}
    found = [clash for pair in combinations(sharing, 2) for clash in _pair_clash(*pair, sharing)]
    return found or list(_without_own(sharing))


def _pair_clash(first: str, second: str, sets: Mapping[str, frozenset[int]]) -> Iterator[Clash]:
    """What is wrong with two labels; the second is blamed."""
    shared = sets[first] & sets[second]
    if not shared:
        return
    numbers, alone = format_values(sorted(shared)), [name for name in (first, second) if name in (BACKGROUND, IGNORE)]
    if alone:
        rule = f"shares {numbers} with {first}, but {alone[0]} lies neither inside of a structure nor around one."
        yield Clash(second, first, rule, f"Take {numbers} out of one of the two.")
    elif sets[first] == sets[second]:
        rule = f"has the same values as {first}, so that the two could not be told apart."
        yield Clash(second, first, rule, "Leave one of them out, or correct its values.")
    elif shared not in (sets[first], sets[second]):
        rule = (
            f"shares {numbers} with {first}, and each has values that the other lacks; "
            "labels may lie inside of each other, but not cross."
        )
        yield Clash(second, first, rule, f"Take {numbers} out of one of the two.")


def _without_own(sets: Mapping[str, frozenset[int]]) -> Iterator[Clash]:
    """Labels that are nothing but the sum of labels inside."""
    for name, numbers in sets.items():
        inner = [other for other, members in sets.items() if members < numbers]
        if inner and numbers == frozenset().union(*(sets[other] for other in inner)):
            rule = f"has no value of its own: all belong to labels that lie inside of it ({', '.join(inner)})."
            yield Clash(name, inner[-1], rule, f"Leave out {name} or one of those, or add the value of its rest.")


@dataclass(frozen=True)
class LabelMap:
    """Ordered labels; index 0 is the background.

    Attributes:
        labels: background and structures.
        ignore: integers that mean "unknown" in files; it is not counted among the labels.

    Raises:
        DataError: no labels, no background first, a label without a value, a name used twice, or values that
            cannot be told apart (see `clashes`).
    """

    labels: tuple[Label, ...]
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        names = [label.name for label in self.labels]
        if len(self.labels) < 2 or self.labels[0].name != BACKGROUND:
            raise DataError("A label map needs background first and at least one structure.")
        empty = [label.name for label in self.labels if not label.values]
        if empty:
            raise DataError(f"Every label needs a value in the mask files, but {', '.join(empty)} has none.")
        groups = [*(label.values for label in self.labels), self.ignore]
        if len(set(names)) != len(names) or any(len(set(values)) != len(values) for values in groups):
            values = [list(values) for values in groups if values]
            raise DataError(f"Each name may occur once, and each value once per label, not {names} with {values}.")
        if IGNORE in names:
            raise DataError(f"The name {IGNORE} means unknown voxels; it cannot be a structure.")
        for clash in clashes({**{label.name: label.values for label in self.labels}, IGNORE: self.ignore}):
            raise DataError(f"The label {clash.label} {clash.rule}", clash.remedy)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, int | Sequence[int]]) -> LabelMap:
        """Build from names to values in files, as in `labels: {background: 0, liver: 1, lesion: [2, 3], ignore: 255}`.

        Background comes first, the others in the order given. A list merges several values into one label; a value
        in several lists makes the shorter a part of the longer.
        """
        values = {name: (value,) if isinstance(value, int) else tuple(value) for name, value in mapping.items()}
        ignore = values.pop(IGNORE, None)
        if ignore == ():
            raise DataError(f"Every label needs a value in the mask files, but {IGNORE} has none.")
        ordered = sorted(values.items(), key=lambda item: item[0] != BACKGROUND)
        labels = (Label(name, index, numbers, _colour(index)) for index, (name, numbers) in enumerate(ordered))
        return cls(tuple(labels), ignore or ())

    def described(
        self, terms: Mapping[str, Term] | None = None, colours: Mapping[str, tuple[int, int, int]] | None = None
    ) -> LabelMap:
        """The same labels; those that are named get other terms and colours."""
        terms, colours = terms or {}, colours or {}
        labels = (
            replace(each, term=terms.get(each.name, each.term), colour=colours.get(each.name, each.colour))
            for each in self.labels
        )
        return replace(self, labels=tuple(labels))

    def to_mapping(self) -> dict[str, int | list[int]]:
        """Inverse of `from_mapping`; `ignore` comes last."""
        values = {label.name: label.values for label in self.labels}
        if self.ignore:
            values[IGNORE] = self.ignore
        return {name: numbers[0] if len(numbers) == 1 else list(numbers) for name, numbers in values.items()}

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
    def membership(self) -> NDArray[np.bool_]:
        """(L, L): entry [i, j] tells whether a voxel of index j belongs to label i; the identity if nothing is nested.

        The background's row and column hold nothing but [0, 0].
        """
        sets = [frozenset(label.values) for label in self.labels]
        return np.asarray([[inner <= outer for inner in sets] for outer in sets])

    @cached_property
    def nested(self) -> bool:
        """Whether some label lies inside of another; then each has a probability of its own (sigmoid)."""
        return shares_values({label.name: label.values for label in self.labels})

    @property
    def outputs(self) -> int:
        """Channels of the network: one per label; without the background if nested (channel c is index c + 1)."""
        return len(self) - self.nested

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the structures by how many others they lie in: outermost ones first."""
        depths = self.membership.sum(axis=0)[1:] - 1
        return tuple(tuple((np.flatnonzero(depths == depth) + 1).tolist()) for depth in range(depths.max() + 1))

    @cached_property
    def enclosing(self) -> tuple[int, ...]:
        """By index, the index of the smallest label around it; 0 for the outermost ones."""
        around = [np.flatnonzero(self.membership[:, label.index]).tolist() for label in self.labels]
        return tuple(
            min(set(indices) - {index}, key=lambda other: len(self.labels[other].values), default=0)
            for index, indices in enumerate(around)
        )

    @cached_property
    def index_of(self) -> dict[int, int]:
        """By value in files, the index of the innermost label it belongs to; `ignore_index` for ignored ones."""
        outermost_first = [self.labels[index] for level in ((0,), *self.levels) for index in level]
        result = {value: label.index for label in outermost_first for value in label.values}
        if self.ignore_index is not None:
            result.update(dict.fromkeys(self.ignore, self.ignore_index))
        return result

    @cached_property
    def written(self) -> tuple[int, ...]:
        """By index, the value that is written to files: the first that belongs to no label inside."""
        return tuple(
            next(value for value in label.values if self.index_of[value] == label.index) for label in self.labels
        )

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All integers that may occur in files."""
        return tuple(dict.fromkeys([*(value for label in self.labels for value in label.values), *self.ignore]))

    @cached_property
    def file_dtype(self) -> np.dtype[Any]:
        """Smallest integer type that holds every value of the labels: uint8, uint16, int16 or int32."""
        return _smallest([value for label in self.labels for value in label.values])

    @property
    def index_dtype(self) -> np.dtype[Any]:
        """uint8 for up to 256 indices, that of ignored voxels included, else uint16."""
        return np.dtype(np.uint8 if len(self) + bool(self.ignore) <= 256 else np.uint16)

    @property
    def ignore_index(self) -> int | None:
        """Index of voxels whose truth is unknown: 255, or 32767 in two bytes; None without an `ignore` label."""
        if not self.ignore:
            return None
        return _IGNORE_BYTE if self.index_dtype == np.uint8 else _IGNORE_WORD

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
        values = np.asarray(sorted(self.index_of))
        indices = np.asarray([self.index_of[value] for value in sorted(self.index_of)], dtype=self.index_dtype)
        return _by_planes(lambda plane: indices[np.searchsorted(values, plane)], array, self.index_dtype)

    def to_values(self, indices: NDArray[np.generic]) -> NDArray[np.generic]:
        """Translate indices into the values that are written to files, of `file_dtype`.

        Ignored voxels, which no prediction holds, get the first value of `ignore`, and a type that holds it too.
        """
        if self.ignore_index is None or not (indices == self.ignore_index).any():
            table = np.asarray(self.written, dtype=self.file_dtype)
            return _by_planes(lambda plane: table[plane], indices, self.file_dtype)
        unknown, dtype = self.ignore_index, _smallest([*self.values])
        table = np.asarray(self.written, dtype=dtype)

        def translate(plane: Any) -> NDArray[np.generic]:
            result: NDArray[np.generic] = table[np.where(plane == unknown, 0, plane)]
            return np.where(plane == unknown, np.asarray(self.ignore[0], dtype), result)

        return _by_planes(translate, indices, dtype)

    def describe(self) -> str:
        """`background 0, liver 1, lesion 2/3`."""
        values = {label.name: label.values for label in self.labels}
        if self.ignore:
            values[IGNORE] = self.ignore
        return ", ".join(f"{name} {'/'.join(map(str, numbers))}" for name, numbers in values.items())


def _smallest(values: Sequence[int]) -> np.dtype[Any]:
    """Smallest integer type that holds every value."""
    low, high = min(values), max(values)
    for dtype in (np.uint8, np.uint16, np.int16, np.int32):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return np.dtype(dtype)
    raise DataError(f"Label values from {low} to {high} do not fit into 32 bits.")


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
