"""`medunet info`: what is it, is it healthy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from medunet.config.catalogue import Choice
    from medunet.networks.overview import Overview

_SHOWN_PROBLEMS = 20
_GIB = 2**30


def info(
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="An image, a DICOM folder, a data set, a model, a run or a config; with --networks the name of one.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", metavar="FILE", help="Look at a data set as this config reads it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    networks: Annotated[
        bool, typer.Option("--networks", help="List the networks, what they cost and their options.")
    ] = False,
    losses: Annotated[bool, typer.Option("--losses", help="List the losses and their options.")] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="List the parameters of a model: names, as train.freeze takes them.")
    ] = False,
) -> None:
    """Say what a path is and whether it is healthy (exit code 1 if not)."""
    from medunet.errors import UsageError

    if [networks, losses, path is not None and not networks].count(True) != 1:
        raise UsageError("Give one of PATH, --networks and --losses.", "For example: medunet info scan.nii.gz.")
    if layers and (networks or losses):
        raise UsageError("--layers needs a model.", "For example: medunet info runs/liver/model --layers.")
    if config is not None and (networks or losses or layers):
        raise UsageError("--config needs a data set.", "For example: medunet info drive --config retina_vessels.yaml.")
    from medunet.config import catalogue

    if networks:
        _show_networks(_chosen(catalogue.networks(), path), as_json=as_json)
    elif losses:
        _show_choices(catalogue.losses(), as_json=as_json)
    elif path is not None and layers:
        _show_layers(path, as_json=as_json)
    elif path is not None:
        _show_path(path, config, as_json=as_json)


def _show_layers(path: Path, *, as_json: bool) -> None:
    """A line per parameter: name and shape."""
    from medunet.cli.facts import show_json
    from medunet.io.describe.model import layers_of

    found = layers_of(path)
    if as_json:
        show_json({name: list(shape) for name, shape in found.items()})
        return
    width = max(map(len, found), default=0)
    for name, shape in found.items():
        typer.echo(f"{name:<{width}}  {'x'.join(map(str, shape))}".rstrip())


def _show_path(path: Path, config: str | None, *, as_json: bool) -> None:
    from medunet.cli.facts import show_facts, show_json, show_sentences
    from medunet.io.describe.path import describe

    options = None
    if config is not None:
        from medunet.config.load import load_config

        options = load_config(config, data=path).data
    result = describe(path, options)
    if as_json:
        show_json(result.to_json())
    else:
        show_facts({"kind": result.kind, "path": result.path, "healthy": result.healthy, **result.for_people()})
        show_sentences("notes", result.notes)
    if result.healthy:
        return
    for problem in result.problems[:_SHOWN_PROBLEMS]:
        typer.echo(f"medunet: {problem}", err=True)
    if len(result.problems) > _SHOWN_PROBLEMS:
        typer.echo(f"medunet: ... {len(result.problems)} problems in all; --json lists them.", err=True)
    raise typer.Exit(1)


def _chosen(choices: tuple[Choice, ...], name: Path | None) -> tuple[Choice, ...]:
    """All networks, or the one that is named."""
    import difflib

    from medunet.errors import UsageError

    if name is None:
        return choices
    names = [choice.name for choice in choices]
    if str(name) not in names:
        near = difflib.get_close_matches(str(name), names, n=1)
        remedy = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names)}."
        raise UsageError(f'"{name}" is no network.', remedy)
    return tuple(choice for choice in choices if choice.name == str(name))


def _show_networks(choices: tuple[Choice, ...], *, as_json: bool) -> None:
    """A table, row by row as costs become known, then the options of each."""
    from dataclasses import asdict

    from medunet.cli.facts import show_json
    from medunet.networks import overview

    found = overview.overview([choice.name for choice in choices])
    if as_json:
        by_name = {choice.name: choice for choice in choices}
        show_json([{**asdict(by_name[row.name]), **asdict(row)} for row in found])
        return
    for line in _table(found, width=max(len(choice.name) for choice in choices)):
        typer.echo(line)
    typer.echo(
        f"Default options, {overview.CHANNELS} channel, {overview.LABELS} labels, 3D; the patch is {overview.SIDE} "
        "voxels wide or the next size that the network takes. GFLOP: of one patch, forward.\n"
        f"Memory is a forecast for a CPU in float32: training with {overview.TRAINED} patches (SGD with momentum), "
        f"inference with {overview.PREDICTED}.\n"
    )
    _show_choices(choices, as_json=False)


def _table(rows: Iterator[Overview], width: int) -> Iterator[str]:
    """Lines of columns that fit any network; the header is known before the first row is."""
    widths: dict[str, int] = {}
    for row in rows:
        cells = _cells(row)
        if not widths:
            widths = {name: max(len(name), len(cell)) for name, cell in cells.items()} | {"network": width}
            yield "  ".join(f"{name:<{wide}}" for name, wide in widths.items()).rstrip()
        yield "  ".join(f"{cells[name]:<{wide}}" for name, wide in widths.items()).rstrip()


def _cells(row: Overview) -> Mapping[str, str]:
    def sizes(values: tuple[int, ...]) -> str:
        return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))

    def number(value: int | None, unit: float, form: str) -> str:
        return "?" if value is None else format(value / unit, form)

    return {
        "network": row.name,
        "rank": ", ".join(f"{rank}D" for rank in row.ranks),
        "deep supervision": "yes" if row.deep_supervision else "no",
        "stride": sizes(row.stride),
        "minimum": sizes(row.minimum_size),
        "parameters": f"{number(row.parameters, 1e6, '5.1f')} M",
        "patch": f"{sizes(row.patch):<5}",
        "GFLOP": number(row.forward_flops, 1e9, "5.0f"),
        "training": f"{number(row.training_bytes, _GIB, '4.1f')} GiB",
        "inference": f"{number(row.inference_bytes, _GIB, '5.2f')} GiB",
        "export": "yes" if row.export else "no",
        "source": row.source,
    }


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
