"""`medunet preview-augment`: what augmentation does to a data set, as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def preview_augment(
    config: Annotated[
        str, typer.Option("--config", "-c", metavar="FILE", help="A path, or a shipped config such as ct_liver.yaml.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="The picture.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set folder, dataset.json or CSV; overrides data.root.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.")
    ] = None,
    cases: Annotated[int, typer.Option("--cases", min=1, max=100, help="Rows: the first cases of the data set.")] = 4,
    draws: Annotated[int, typer.Option("--draws", min=1, max=100, help="Augmented patches per case.")] = 6,
) -> None:
    """Draw training patches: as they are, and as augmentation changes them.

    Prints the path of the picture.
    """
    from medunet.config.load import load_config

    loaded = load_config(config, data=data, overrides=overrides or ())

    from medunet.training.preview import preview_augmentation

    print(preview_augmentation(loaded, output, cases=cases, draws=draws))
