"""Options that several commands take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medunet.io.selection import Selection

_DURATION = r"[0-9]+(\.[0-9]+)? *(s|sec|min|h)"

SeriesOption = Annotated[
    str | None, typer.Option("--series", metavar="UID|TEXT|largest", help="Which series of a DICOM export.")
]
VolumeOption = Annotated[
    str | None, typer.Option("--volume", metavar="N|all", help="Which volume of a DICOM series of several.")
]
IrregularOption = Annotated[
    str, typer.Option("--irregular", metavar="refuse|resample", help="DICOM slices with gaps, or tilted.")
]
ColourOption = Annotated[
    str, typer.Option("--colour", metavar="refuse|grey", help="DICOM colour slices that state where they lie.")
]


def selection_of(series: str | None, volume: str | None, irregular: str, colour: str) -> Selection:
    """The selection that the options make.

    Raises:
        UsageError: one of them is none.
    """
    from medunet.io.selection import Selection

    number = int(volume) if volume is not None and volume.isdecimal() else volume
    return Selection(series, irregular, number, colour)


def seconds_from(option: str, text: str | None) -> float | None:
    """`"30min"` as given for an option to 1800.0; None to None.

    Raises:
        UsageError: it is no time.
    """
    from medunet.config.derived import seconds_of
    from medunet.errors import UsageError

    if text is not None and not re.fullmatch(_DURATION, text):
        raise UsageError(f'{option} is "{text}"; it must be a time.', "Write 90s, 30min or 12h.")
    return seconds_of(text)
