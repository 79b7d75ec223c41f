"""One case of a data set, and the unchecked list of cases that a parser of a layout returns.

Knows nothing of layouts, files or what images hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from medunet.errors import Problem
from medunet.io.selection import ANY, Selection


@dataclass(frozen=True)
class Case:
    """One patient, scan or picture.

    Attributes:
        id: name that is unique in the data set and safe as a file name.
        images: one path for all channels, or one per channel; a folder is a DICOM series.
        label: mask file; None where there is none.
        group: patient (or site, ...) whose cases must stay in one fold; None where none is stated.
        fold: fold in which the case is held out, from 0; None where the data set does not say.
        selection: which volume of its DICOM folders is meant.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None = None
    group: str | None = None
    fold: int | None = None
    selection: Selection = ANY


@dataclass
class Listing:
    """What a layout states, before anybody has looked whether the files are there.

    Attributes:
        cases: in the order of the data set.
        label_names: names to a value in files, or to several (regions); None where none are stated.
        modality: name per channel; empty where none are stated.
        problems: what is wrong with the listing itself.
        notes: sentences about what was left out.
    """

    cases: list[Case] = field(default_factory=list)
    label_names: dict[str, int | list[int]] | None = None
    modality: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
