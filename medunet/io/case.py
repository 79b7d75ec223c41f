"""One case of a data set, and the unchecked list of cases that a parser of a layout returns.

Knows nothing of layouts, files or what images hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medunet.errors import Problem
from medunet.io.selection import ANY, Selection


@dataclass(frozen=True)
class Part:
    """One structure of a `Drawn` label.

    Attributes:
        label: its name, or its value in words ("1"); "" where the data set has one structure.
        kind: "mask", a picture in which all but 0 is the structure; "columns" or "rows", runs of pixels (Kaggle's CSV)
            that are counted from 1 down the columns or along the rows; "coco", a segmentation as in COCO's JSON.
        text: path of the picture, or the runs or the segmentation as they stand in the file.
        where: file and line, for messages.
        crowd: it covers many objects and what is between them (COCO's `iscrowd`).
    """

    label: str
    kind: Literal["mask", "columns", "rows", "coco"]
    text: str
    where: str
    crowd: bool = False


@dataclass(frozen=True)
class Drawn:
    """A label that is no image: structures that are drawn over each other on the grid of the picture.

    Attributes:
        source: the table, JSON file or folder that they stand in.
        parts: structures in the order of the source; none where the picture shows nothing.
        size: width and height of the picture, where the source states them.
    """

    source: Path
    parts: tuple[Part, ...]
    size: tuple[int, int] | None = None

    def __str__(self) -> str:
        return str(self.source)

    @property
    def files(self) -> tuple[Path, ...]:
        """Pictures of single structures; what else it holds stands in `parts`."""
        return tuple(Path(part.text) for part in self.parts if part.kind == "mask")

    @property
    def text(self) -> str:
        """All that counts beside the files."""
        return repr([(part.label, part.kind, part.crowd, part.text) for part in self.parts if part.kind != "mask"])


@dataclass(frozen=True)
class Reading:
    """How the masks of a data set are read, see the keys of the same names in `data:`.

    Attributes:
        colours: colours in words ("#804080") by the name of their label.
        resize_label: bring masks and regions of another size to that of their picture.
        grey_edges: take values between the two of a mask for smoothed edges.
    """

    colours: tuple[tuple[str, tuple[str, ...]], ...] = ()
    resize_label: bool = False
    grey_edges: bool = True


@dataclass(frozen=True)
class Case:
    """One patient, scan or picture.

    Attributes:
        id: name that is unique in the data set and safe as a file name.
        images: one path for all channels, or one per channel; a folder is a DICOM series.
        label: mask file, DICOM object, or what is drawn; None where there is none.
        group: patient (or site, ...) whose cases must stay in one fold; None where none is stated.
        fold: fold in which the case is held out, from 0; None where the data set does not say.
        selection: which volume of its DICOM folders is meant.
        region: picture or volume that is 0 where nothing is learned or scored; None: all is.
        reading: how the label is read.
        extra: names and texts of what else the data set says of the case; nothing is done with it.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | Drawn | None = None
    group: str | None = None
    fold: int | None = None
    selection: Selection = ANY
    region: Path | None = None
    reading: Reading = Reading()
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Files of the label alone."""
        return self.label.files if isinstance(self.label, Drawn) else (self.label,) if self.label else ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files and folders of the case: images in the order of the channels, label, region."""
        return (*self.images, *self.label_files, *((self.region,) if self.region else ()))


@dataclass
class Listing:
    """What a layout states, before anybody has looked whether the files are there.

    Attributes:
        cases: in the order of the data set.
        label_names: names to a value in files, or to several (regions); None where none are stated.
        modality: name per channel; empty where none are stated.
        problems: what is wrong with the listing itself.
        notes: sentences about what was left out, or found out.
    """

    cases: list[Case] = field(default_factory=list)
    label_names: dict[str, int | list[int]] | None = None
    modality: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
