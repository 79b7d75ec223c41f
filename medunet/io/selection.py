"""Which volume of a DICOM export is meant, and how it is to be read: `Selection`. Knows nothing of DICOM itself."""

from __future__ import annotations

from dataclasses import dataclass

from medunet.errors import UsageError

LARGEST = "largest"
IRREGULAR = ("refuse", "resample")


@dataclass(frozen=True)
class Selection:
    """A choice among the volumes of an export; of no meaning for other files.

    Attributes:
        series: Series Instance UID, text that occurs in the Series Description (any case), or "largest" for the most
            voxels; None: the only volume there is.
        irregular: slices that lie on no regular grid are refused ("refuse") or interpolated to one ("resample").

    Raises:
        UsageError: another value of `irregular`.
    """

    series: str | None = None
    irregular: str = "refuse"

    def __post_init__(self) -> None:
        if self.irregular not in IRREGULAR:
            raise UsageError(
                f'"{self.irregular}" is no way to treat irregular slices.', f"The ways are {' and '.join(IRREGULAR)}."
            )


ANY = Selection()
"""The only volume there is."""
