"""Which drawn structure is which label of a config, by their names: `match`.

A name is a word, not a guess: names that are merely alike never match. Knows nothing of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medunet.errors import DataError
from medunet.labels import BACKGROUND

_SPELLINGS = (
    *(("oesophag", "esophag"), ("tumour", "tumor"), ("oedema", "edema"), ("haem", "hem"), ("grey", "gray")),
    *(("ischaem", "ischem"), ("caec", "cec"), ("foet", "fet"), ("centre", "center"), ("fibre", "fiber")),
)
_SIDES = ("left", "right")
_SUFFIXES = {"l": "left", "r": "right"}
"""Last words that stand for a side, as in the names of AAPM TG-263: Kidney_L."""


def words(name: str) -> list[str]:
    """In lower case and American spelling, without punctuation: `Tumour_(left)` is `tumor`, `left`."""
    text = name.casefold()
    for british, american in _SPELLINGS:
        text = text.replace(british, american)
    return re.findall(r"[^\W_]+", text)


@dataclass(frozen=True)
class Match:
    """Which structures are which label.

    Attributes:
        label: name of the label by number of the structure; several structures may be one label.
        absent: labels that no structure has the name of.
        unnamed: names of structures that no label has.
    """

    label: dict[int, str]
    absent: tuple[str, ...]
    unnamed: tuple[str, ...]


def match(labels: Iterable[str], structures: Mapping[int, str], where: str, *, needed: bool = True) -> Match:
    """Match by equal names; then by equal words, whatever the case, punctuation and spelling; then by equal words and
    side, wherever the side stands (`kidney_left`, `Left Kidney`, `Kidney_L`).

    Args:
        labels: names of a config.
        structures: names by number, as they were drawn.
        where: file of the structures, for messages.
        needed: at least one structure must be a label.

    Raises:
        DataError: no structure is a label, or one is two of them.
    """
    wanted = [name for name in labels if name != BACKGROUND]
    found: dict[int, str] = {}
    for key in (_exact, _plain, _sided):
        open_labels = [name for name in wanted if name not in found.values()]
        for number, name in structures.items():
            fitting = [label for label in open_labels if number not in found and key(label) == key(name)]
            if len(fitting) > 1:
                raise DataError(
                    f'The structure "{name}" of {where} may be the label {fitting[0]} or {fitting[1]}.',
                    "Give the labels names that differ by more than case, spelling and punctuation.",
                )
            if fitting:
                found[number] = fitting[0]
    if needed and wanted and not found:
        there = ", ".join(dict.fromkeys(structures.values())) or "none"
        raise DataError(
            f"No structure of {where} has the name of a label; its structures are {there}, the labels are "
            f"{', '.join(wanted)}.",
            "Name the labels in the config as the structures are named.",
        )
    rest = (name or "without a name" for number, name in structures.items() if number not in found)
    return Match(
        label=found,
        absent=tuple(name for name in wanted if name not in found.values()),
        unnamed=tuple(dict.fromkeys(name for name in rest if _plain(name) != _plain(BACKGROUND))),
    )


def _exact(name: str) -> str:
    return name


def _plain(name: str) -> object:
    return tuple(words(name)) or name


def _sided(name: str) -> object:
    """Side and the other words, or what `_plain` gives where there is not exactly one side."""
    parts = words(name)
    if len(parts) > 1 and parts[-1] in _SUFFIXES:
        parts[-1] = _SUFFIXES[parts[-1]]
    sides = [part for part in parts if part in _SIDES]
    return (sides[0], *(part for part in parts if part not in _SIDES)) if len(sides) == 1 else _plain(name)
