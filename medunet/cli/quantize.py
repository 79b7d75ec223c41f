"""`medunet quantize`: an int8 form of a trained network, measured before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quantize(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of one fold.", show_default=False)],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set of the training, where it was moved since.")
    ] = None,
) -> None:
    """Make an int8 form of a model for --engine openvino-int8, if it segments the held-out cases as well.

    Prints Dice and speed with and without. Exit code 1: it loses too much, and was not kept.
    """
    from medunet.cli.progress import counted
    from medunet.inference.choice import INT8
    from medunet.inference.int8 import BOUND
    from medunet.inference.int8 import quantize as run_trial

    with counted("cases") as progress:
        trial = run_trial(run, data, progress=progress)
    print(f"{trial.model}: {trial.cases} held-out cases")
    print(f"  {'':14}  Dice    seconds per window")
    for name, label in (("openvino", trial.precision), (INT8, "int8")):
        print(f"  {label:14}  {trial.dice[name]:.4f}  {trial.window_seconds[name]:.4g}")
    print(f"  voxels with another label: {trial.changed:.3%}")
    if not trial.kept:
        print(f"Not kept: it loses {trial.lost:.4f} of Dice, less than {BOUND:g} is allowed.")
        raise typer.Exit(1)
    print("Kept. Use it with: medunet predict --engine openvino-int8")
