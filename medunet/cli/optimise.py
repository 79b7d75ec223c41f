"""`medunet optimise`: what each engine takes and gives for a model, before and after converting it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medunet.inference.compare import Comparison, Row


def optimise(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Run folder, model folder, or a zip of one.", show_default=False)
    ],
    data: Annotated[
        Path | None, typer.Option("--data", help="Data set or folder of images; default that of the run.")
    ] = None,
    cases: Annotated[int, typer.Option("--cases", metavar="N", help="At most so many cases.")] = 5,
    engine: Annotated[
        list[str] | None, typer.Option("--engine", metavar="NAME", help="Only this one, beside torch; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Convert and quantise a model for this processor; print speed, memory, size and Dice of each engine.

    Converted networks are kept beside the weights, and predict --engine auto takes the fastest from then on.
    """
    from medunet.cli.facts import show_json
    from medunet.cli.progress import counted
    from medunet.inference.compare import compare

    with counted("cases") as progress:
        result = compare(model, data, cases=cases, engines=engine or (), progress=progress)
    if as_json:
        from dataclasses import asdict

        show_json(asdict(result))
    else:
        _show(result)


def _show(result: Comparison) -> None:
    from medunet.cli.facts import show_rows, show_sentences

    count = len(result.cases)
    print(f"{result.model}: {count} case{'s' if count > 1 else ''} {result.origin}; on the CPU")
    before = result.rows[0].case_seconds or 0.0
    show_rows([_cells(row, before) for row in result.rows])
    notes = [f"{row.engine} {row.precision}: {row.note}" for row in result.rows if row.note]
    show_sentences("not measured", notes)
    show_sentences("what predict takes on this CPU", _advice(result))


def _cells(row: Row, before: float) -> dict[str, Any]:
    def form(value: float | None, pattern: str, factor: float = 1.0) -> str | None:
        return None if value is None else pattern.format(factor * value)

    return {
        "engine": row.engine,
        "precision": row.precision,
        "ms/window": form(row.window_seconds, "{:.3g}", 1e3),
        "s/case": form(row.case_seconds, "{:.3g}"),
        "speed": form(before / row.case_seconds if row.case_seconds else None, "{:.2f}x"),
        "memory MB": form(row.peak_bytes, "{:.0f}", 1e-6),
        "disk MB": form(row.disk_bytes, "{:.2f}", 1e-6),
        "Dice": form(row.dice_mean, "{:.4f}"),
        "labels as torch fp32": form(row.agreement, "{:.3f} %", 100),
    }


def _advice(result: Comparison) -> list[str]:
    asked = [row.engine for row in result.rows if not row.note and row.engine != result.auto]
    others = ", ".join(f"--engine {name}" for name in dict.fromkeys(asked))
    return [f"--engine auto: {result.auto or 'not settled'}. {result.reason}", f"Ask for another with {others}."]
