"""`medunet train`: from a YAML file to a model."""

from __future__ import annotations

from contextlib import nullcontext
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
    fold: Annotated[
        str | None, typer.Option("--fold", metavar="N|all", help="Fold that is held out, or all of them in turn.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --resume: go on with a changed config, too.")] = False,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Train on one fold, or on all; the best model and its scores end in the run folder.

    Prints the path of the model. Ctrl-C saves the state and ends with exit code 130; --resume goes on.
    """
    from medunet.config.load import load_config

    every = fold == "all"
    loaded = load_config(config, data=data, overrides=overrides or (), fold=None if every else _fold(fold))

    from medunet.cli.progress import training_bar
    from medunet.training.folds import train_folds
    from medunet.training.run import train as run
    from medunet.training.torchrun import is_first

    speaks = is_first()
    with training_bar() if speaks else nullcontext() as observer:
        if every:
            model = train_folds(loaded, out, resume=resume, force=force, device=device, observer=observer).model
        else:
            model = run(loaded, out, resume=resume, force=force, device=device, observer=observer).model
    if speaks:
        print(model)


def _fold(text: str | None) -> int | None:
    from medunet.errors import UsageError

    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f'--fold is "{text}"; it must be a whole number from 0, or all.')
    return int(text)
