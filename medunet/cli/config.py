"""`medunet config`: check, show and describe configurations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medunet.config.schema import Config

app = typer.Typer(help="Check, show and describe configurations.", no_args_is_help=True)

File = Annotated[
    str, typer.Argument(metavar="FILE", help="A YAML file, or the name of a shipped one.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. train.batch_size=4. Repeatable."),
]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data set; takes the place of data.root.")]


@app.command()
def check(file: File, overrides: Overrides = None, data: Data = None) -> None:
    """Say whether a configuration is valid; list everything that is wrong with it."""
    from medunet.config.advice import advice
    from medunet.config.load import load_config

    config = load_config(file, overrides=overrides or (), data=data)
    print(f"{file}: valid: {_summary(config)}")
    for sentence in advice(config):
        print(f"Note: {sentence}")


@app.command()
def show(file: File, overrides: Overrides = None, data: Data = None) -> None:
    """Print a configuration with every key, after extends, --set and defaults."""
    from medunet.config.load import dump_config, load_config

    print(dump_config(load_config(file, overrides=overrides or (), data=data)), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema, for editors that complete and check YAML."""
    import json

    from medunet.config.describe import config_schema

    print(json.dumps(config_schema(), indent=2))


def _summary(config: Config) -> str:
    """One line: network, patch, labels, length of the training."""
    network, train = config.network, config.train
    structures = [name for name in config.labels if name != "background"]
    length = f"{train.epochs} epochs of {train.iterations_per_epoch} steps"
    return ", ".join(
        [
            f"{network.dims}D {network.name}{_levels(network.features)}",
            f"patch {'x'.join(str(size) for size in train.patch_size)}",
            f"batch {train.batch_size}",
            f"{len(structures)} {'label' if len(structures) == 1 else 'labels'} "
            f"({', '.join(structures[:6])}{', ...' if len(structures) > 6 else ''})",
            f"at most {train.budget} or {length}" if train.budget else length,
        ]
    )


def _levels(features: tuple[int, ...]) -> str:
    return f" of {len(features)} levels ({features[0]} to {max(features)} features)" if features else ""
