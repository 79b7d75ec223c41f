"""Which volume of a DICOM export is meant, and how it is to be read: `Selection`. Knows nothing of DICOM itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medunet.errors import UsageError

if TYPE_CHECKING:  # pydantic takes its time, which a NIfTI file need not wait for
    from medunet.config.series import SeriesRules

LARGEST = "largest"
ALL = "all"
IRREGULAR = ("refuse", "resample")
COLOUR = ("refuse", "grey")


@dataclass(frozen=True)
class Selection:
    """A choice among the volumes of an export; of no meaning for other files.

    Attributes:
        series: Series Instance UID or its hashed form, text that occurs in the Series Description (any case), or
            "largest" for the most voxels; None: the only volume there is.
        irregular: slices that lie on no regular grid are refused ("refuse") or interpolated to one ("resample").
        volume: number, from 1, within a series that holds several volumes; "all" where several can be taken.
        colour: colour slices that state where they lie are refused ("refuse") or read as luma ("grey").
        rules: what a series must be like that is not named: `series` is None or "largest".

    Raises:
        UsageError: another value of `volume`, `irregular` or `colour`.
    """

    series: str | None = None
    irregular: str = "refuse"
    volume: int | str | None = None
    colour: str = "refuse"
    rules: SeriesRules | None = None

    def __post_init__(self) -> None:
        for value, ways, what in (
            (self.irregular, IRREGULAR, "irregular slices"),
            (self.colour, COLOUR, "colour images"),
        ):
            if value not in ways:
                raise UsageError(f'"{value}" is no way to treat {what}.', f"The ways are {' and '.join(ways)}.")
        number = isinstance(self.volume, int) and not isinstance(self.volume, bool) and self.volume > 0
        if not (self.volume in (None, ALL) or number):
            raise UsageError(f'"{self.volume}" is no volume of a series.', "Give a number from 1, or all.")


ANY = Selection()
"""The only volume there is."""
