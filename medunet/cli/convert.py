"""`medunet convert`: images and masks from one kind of file to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medunet.cli.options import ColourOption, IrregularOption, SeriesOption, VolumeOption, selection_of


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Image file, DICOM folder, mask or DICOM SEG.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="What it becomes, by the ending.", show_default=False)
    ],
    reference: Annotated[
        Path | None,
        typer.Option("--reference", metavar="SERIES", help="The images that a mask belongs to.", show_default=False),
    ] = None,
    wanted: Annotated[
        str | None, typer.Option("--format", "-f", help="One that predict has; default: by the ending.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="FILE|NAME=VALUE,...", help="Names of a mask's values.", show_default=False),
    ] = None,
    series: SeriesOption = None,
    volume: VolumeOption = None,
    irregular: IrregularOption = "refuse",
    colour: ColourOption = "refuse",
) -> None:
    """Convert an image or a mask; a mask to DICOM with --reference.

    Prints the path of the new file, or of each with --volume all.
    """
    from medunet.errors import UsageError
    from medunet.interop.convert import convert as run
    from medunet.interop.convert import convert_volumes
    from medunet.io.selection import ALL

    selection = selection_of(series, volume, irregular, colour)
    if selection.volume == ALL:
        if reference is not None or labels is not None:
            raise UsageError("A mask belongs to one volume.", "Give its number with --volume.")
        for path in convert_volumes(source, output, selection=selection, wanted=wanted):
            print(path)
        return
    print(run(source, output, reference=reference, selection=selection, labels=labels, wanted=wanted))
