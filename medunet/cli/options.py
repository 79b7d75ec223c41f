"""Options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

SeriesOption = Annotated[
    str | None, typer.Option("--series", metavar="UID|TEXT|largest", help="Which series of a DICOM export.")
]
IrregularOption = Annotated[
    str, typer.Option("--irregular", metavar="refuse|resample", help="DICOM slices with gaps, or tilted.")
]
