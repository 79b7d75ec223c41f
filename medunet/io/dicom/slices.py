"""The noun that the rest of the package works with: `Slice`, one two-dimensional image of a series.

A file of a classic object holds one, an enhanced multi-frame file many. Knows nothing of files' contents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOCALIZER = "a localizer"


@dataclass(frozen=True)
class Identity:
    """What images of one volume have in common.

    Attributes:
        series_uid: Series Instance UID (0020,000E), "" if absent.
        study_uid: Study Instance UID (0020,000D).
        frame_of_reference: Frame of Reference UID (0020,0052); positions are comparable within one only.
        patient: Patient ID (0010,0020); tells patients apart where UIDs were anonymised away. Never shown.
        modality: for example "CT".
    """

    series_uid: str
    study_uid: str
    frame_of_reference: str
    patient: str = field(repr=False)
    modality: str


@dataclass(frozen=True)
class Plane:
    """Where the pixels of one image lie, as the header states it (PS3.3 section C.7.6.2), in LPS.

    Attributes:
        spacing: millimetres between rows, then between columns: Pixel Spacing (0028,0030).
        row: unit vector along a row, in which the column index grows.
        column: unit vector along a column, in which the row index grows.
        position: millimetres of the centre of the first pixel: Image Position (Patient) (0020,0032).
    """

    spacing: tuple[float, float]
    row: tuple[float, float, float]
    column: tuple[float, float, float]
    position: tuple[float, float, float]

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector out of the plane, row x column."""
        normal: NDArray[np.float64] = np.cross(self.row, self.column)
        normal /= np.linalg.norm(normal)
        return normal


@dataclass(frozen=True)
class Native:
    """Where the uncompressed pixels of a file of one frame lie.

    Attributes:
        offset: bytes before the first.
        dtype: of one value.
        bits: how many of its bits are the value's, from the lowest.
        stamp: size and time of the file that this is true of.
    """

    offset: int
    dtype: np.dtype[Any]
    bits: int
    stamp: tuple[int, int]

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest value that may be stored."""
        values = 1 << self.bits
        return (-values // 2, values // 2 - 1) if self.dtype.kind == "i" else (0, values - 1)


@dataclass(frozen=True)
class Slice:
    """One two-dimensional image.

    Attributes:
        path: file.
        frame: index in an enhanced multi-frame file, else None.
        identity: what it shares with the other images of its volume.
        description: Series Description, printable.
        rows, columns: pixels.
        plane: where it lies; None if the header does not say.
        rescale: slope and intercept to physical values.
        thickness: Slice Thickness in mm, else Spacing Between Slices, None if neither is stated.
        component: "M", "P", "R", "I" for magnitude, phase, real and imaginary images, else "".
        traits: further values (label, text) by which several images at one position are told apart.
        fault: why it cannot belong to a volume; "" if it can.
        beside: the fault is its kind (localizer, screenshot): it is no volume that somebody misses.
        series_images: Number of Series Related Instances (0020,1209), 0 if not stated.
        instance: Instance Number (0020,0013); None if it is not stated, or no whole number.
        sop_class, sop_uid: of the object that it belongs to.
        native: where its pixels lie, if they can be read as they are.
        contrast: the header states a contrast agent.
        colour: a colour image that says where it lies, so that it could be read as grey values.
    """

    path: Path
    frame: int | None
    identity: Identity
    description: str
    rows: int
    columns: int
    plane: Plane | None
    rescale: tuple[float, float] = (1.0, 0.0)
    thickness: float | None = None
    component: str = ""
    traits: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    beside: bool = False
    series_images: int = 0
    instance: int | None = None
    sop_class: str = ""
    sop_uid: str = ""
    native: Native | None = field(default=None, repr=False, compare=False)
    contrast: bool = False
    colour: bool = False

    @property
    def name(self) -> str:
        """File name, with the frame number (from 1, as viewers count) for multi-frame files."""
        return self.path.name if self.frame is None else f"{self.path.name} frame {self.frame + 1}"
