"""`medunet evaluate`: masks against reference masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from medunet.evaluation.summary import Evaluation

_COLUMNS = (
    ("Dice", "dice", "mean", 3),
    ("SD", "dice", "std", 3),
    ("surface", "surface_dice", "mean", 3),
    ("HD95", "hd95_mm", "mean", 2),
    ("ASSD", "assd_mm", "mean", 2),
    ("RAVD", "ravd_percent", "mean", 1),
)
"""Heading, metric, statistic, decimals."""

_FILE_WIDTH = 160
"""Columns where stdout is no terminal: long names stay on one line."""


def evaluate(
    predictions: Annotated[
        Path, typer.Option("--predictions", "-p", help="Folder of predicted masks, or one mask.", show_default=False)
    ],
    references: Annotated[
        Path,
        typer.Option(
            "--references",
            "-r",
            help="Folder of reference masks, or one mask. Files match by name, with or without _seg (_rtstruct).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for per_case.csv and summary.json.", show_default=False)
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            metavar="FILE|NAME=VALUE,...",
            help="Structures to score: a config, model.yaml, dataset.json, or liver=1,tumour=2+3. "
            "Default: every value that occurs.",
            show_default=False,
        ),
    ] = None,
    objects: Annotated[
        list[str] | None,
        typer.Option("--objects", metavar="LABEL", help="Tell its objects apart, too (Rand scores); may be repeated."),
    ] = None,
    tolerance: Annotated[float, typer.Option("--tolerance", metavar="MM", help="Tolerance of the surface Dice.")] = 1.0,
) -> None:
    """Score masks against reference masks: Dice, surface Dice, HD95, ASSD, volumes.

    Exit code 3: some cases could not be scored (the others are); 1: none could.
    """
    from rich.console import Console
    from rich.progress import Progress

    from medunet.evaluation.folders import evaluate as evaluate_folders

    errors = Console(stderr=True)
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("evaluate", total=None)
        result = evaluate_folders(
            predictions,
            references,
            out,
            labels=labels,
            objects=objects or (),
            tolerance_mm=tolerance,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if result.scored:
        _show(result, tolerance, objects or ())
    for name in ("per_case.csv", "summary.json"):
        print(out / name)
    if result.problems:
        raise typer.Exit(3 if result.scored else 1)


def _show(result: Evaluation, tolerance: float, objects: Sequence[str]) -> None:
    """The table, and what stands below it."""
    from rich.console import Console

    output = Console(highlight=False, markup=False, emoji=False)
    if not output.is_terminal:
        output.width = _FILE_WIDTH
    output.print(_table(result.summary))
    print(_closing(result.summary, result.scored, len(result.problems), tolerance))
    for name in dict.fromkeys(objects):
        print(_objects(name, result.summary["labels"][name]["metrics"]))


def _table(summary: dict[str, Any]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("Label", overflow="fold", min_width=8)
    for heading in ("n", *(column[0] for column in _COLUMNS), "missed", "false"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, label in summary["labels"].items():
        cells = [_number(label["metrics"][metric][statistic], digits) for _, metric, statistic, digits in _COLUMNS]
        counts = (label["n_missed"], label["n_false_positive"])
        table.add_row(Text(name), str(label["metrics"]["dice"]["n"]), *cells, *map(str, counts))
    return table


def _objects(name: str, metrics: dict[str, Any]) -> str:
    rand, split, merge, wrong = (
        _number(metrics[metric]["mean"] if metric in metrics else None, 4)
        for metric in ("rand_f", "rand_split", "rand_merge", "pixel_error")
    )
    return f"Objects of {name}: Rand F-score {rand} (split {split}, merge {merge}), pixel error {wrong}."


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _closing(summary: dict[str, Any], scored: int, problems: int, tolerance: float) -> str:
    mean = _number(summary["mean_foreground_dice"], 4)
    lines = [
        f"Mean foreground Dice {mean}; {scored} of {scored + problems} cases scored.",
        f"n: cases with a Dice; surface: surface Dice at {tolerance:g} mm; HD95, ASSD in mm; RAVD in %;",
        "missed: the prediction is empty; false: the reference is empty. Both count as Dice 0.",
    ]
    return "\n".join(lines)
