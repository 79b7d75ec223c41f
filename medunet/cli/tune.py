"""`medunet tune`: many trainings with other values, and the best of them as a configuration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunet.cli.options import seconds_from

if TYPE_CHECKING:
    from medunet.training.tune.study import TuneResult


def tune(
    config: Annotated[str, typer.Option("--config", "-c", metavar="FILE", help="A path, or a shipped config.")],
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="Of the study, earlier ones counted.")] = 20,
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set folder, dataset.json or CSV; overrides data.root.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the study; default runs/NAME-tune.")] = None,
    fold: Annotated[int | None, typer.Option("--fold", metavar="N", help="Fold that judges the trials.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value; may be repeated.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="dice, dice/LABEL or validation_loss; default validate.metric.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Begin no trial after this time, such as 12h.")
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End trials early that are worse than half of the others.")
    ] = True,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
) -> None:
    """Search for better values of the keys that the section tune names; the same command goes on with a study.

    Without such a section it is the learning rate and the weight decay that are tuned.

    Prints the run folder of the best trial; its configuration is best.yaml beside it. A trial that fails or is ended
    early costs itself only. Ctrl-C ends with exit code 130.
    """
    from medunet.config.load import load_config

    seconds = seconds_from("--timeout", timeout)
    loaded = load_config(config, data=data, overrides=overrides or (), fold=fold)

    from medunet.cli.progress import training_bar
    from medunet.training.tune.study import Search
    from medunet.training.tune.study import tune as run

    with training_bar() as observer:
        result = run(loaded, out, Search(trials, metric, seconds, prune), device=device, observer=observer)
    print(_summary(result), file=sys.stderr)
    print(result.run)


def _summary(result: TuneResult) -> str:
    """The best trial and what mattered, for people."""
    from medunet.config.document import as_written

    states = [entry.state for entry in result.entries]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    lines = [f"{len(states)} trials: {counts}. Best: {result.best.folder}, {result.metric} {result.best.value:.4f}"]
    width = max(len(key) for key in result.best.values)
    for key in sorted(result.best.values, key=lambda key: -result.importance.get(key, 0.0)):
        share = f"  importance {result.importance[key]:.2f}" if key in result.importance else ""
        lines.append(f"  {key:<{width}}  {as_written(result.best.values[key])}{share}")
    lines.append(f"Train with it: medunet train --config {result.config}")
    return "\n".join(lines)
