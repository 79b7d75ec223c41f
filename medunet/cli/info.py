"""`medunet info`: what is it, is it healthy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medunet.config.catalogue import Choice

_SHOWN_PROBLEMS = 20


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH", help="An image, a DICOM folder, a data set, a model, a run or a config.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    networks: Annotated[bool, typer.Option("--networks", help="List the networks and their options.")] = False,
    losses: Annotated[bool, typer.Option("--losses", help="List the losses and their options.")] = False,
) -> None:
    """Say what a path is and whether it is healthy (exit code 1 if not)."""
    from medunet.errors import UsageError

    if (path is not None) + networks + losses != 1:
        raise UsageError("Give one of PATH, --networks and --losses.", "For example: medunet info scan.nii.gz.")
    if path is not None:
        _show_path(path, as_json=as_json)
        return
    from medunet.config import catalogue

    _show_choices(catalogue.networks() if networks else catalogue.losses(), as_json=as_json)


def _show_path(path: Path, *, as_json: bool) -> None:
    from medunet.cli.facts import show_facts, show_json, show_sentences
    from medunet.io.describe.path import describe

    result = describe(path)
    if as_json:
        show_json(result.to_json())
    else:
        show_facts({"kind": result.kind, "path": result.path, "healthy": result.healthy, **result.facts})
        show_sentences("notes", result.notes)
    if result.healthy:
        return
    for problem in result.problems[:_SHOWN_PROBLEMS]:
        typer.echo(f"medunet: {problem}", err=True)
    if len(result.problems) > _SHOWN_PROBLEMS:
        typer.echo(f"medunet: ... {len(result.problems)} problems in all; --json lists them.", err=True)
    raise typer.Exit(1)


def _show_choices(choices: tuple[Choice, ...], *, as_json: bool) -> None:
    from dataclasses import asdict

    from medunet.cli.facts import show_json, show_rows

    if as_json:
        show_json([asdict(choice) for choice in choices])
        return
    for choice in choices:
        typer.echo(f"{choice.name}: {choice.summary}")
        rows = []
        for option in choice.options:
            words = f" One of {', '.join(option.words)}." if option.words else ""
            rows.append({"option": option.name, "default": option.default, "meaning": option.description + words})
        show_rows(rows, indent=2)
