"""`medunet train`: from a YAML file to a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[
        str, typer.Option("--config", "-c", metavar="FILE", help="A path, or a shipped config such as ct_liver.yaml.")
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set folder, dataset.json or CSV; overrides data.root.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/NAME.")] = None,
    fold: Annotated[str | None, typer.Option("--fold", metavar="N", help="Fold that is held out.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Train on one fold; the best model and its scores end in the run folder.

    Prints the path of the model. Ctrl-C saves the state and ends with exit code 130; --resume goes on.
    """
    from medunet.config.load import load_config

    loaded = load_config(config, data=data, overrides=overrides or (), fold=_fold(fold))

    from medunet.cli.progress import training_bar
    from medunet.training.run import train as run

    with training_bar() as observer:
        result = run(loaded, out, resume=resume, device=device, observer=observer)
    print(result.model)


def _fold(text: str | None) -> int | None:
    from medunet.errors import UsageError

    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f'--fold is "{text}"; it must be a whole number from 0.', "Train the folds one by one.")
    return int(text)
