"""The `medunet` command: every sub-command in one table, errors to exit codes.

Parses, calls one public function, prints. Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Annotated

import typer

from medunet.cli import (
    config,
    convert,
    demo,
    doctor,
    evaluate,
    info,
    optimise,
    predict,
    preview,
    quantize,
    train,
    tune,
)
from medunet.errors import Interrupted, MedunetError, UsageError

app = typer.Typer(
    name="medunet",
    help="Train and run U-Nets on CT, MR and pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: the rich one takes twice as long as all the rest together
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("preview-augment")(preview.preview_augment)
app.command("tune")(tune.tune)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("convert")(convert.convert)
app.command("optimise")(optimise.optimise)
app.command("quantize")(quantize.quantize)
app.command("info")(info.info)
app.command("doctor")(doctor.doctor)
app.add_typer(config.app, name="config")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        print(version("medunet"))
        raise typer.Exit()


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details to stderr.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on stderr.")] = False,
    version: Annotated[  # noqa: ARG001 - the callback acts on it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train and run U-Nets on CT, MR and pictures."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("medunet")
    logger.handlers[:] = [handler]
    logger.setLevel(min(level, logging.INFO))  # train.log has more than a quiet terminal
    logger.propagate = False


def _told_elsewhere(error: MedunetError) -> bool:
    """Whether another process that torchrun started says the same: it gives all of a host the same command."""
    return error.told or (isinstance(error, UsageError) and os.environ.get("LOCAL_RANK", "0") != "0")


def run() -> None:
    """What the command `medunet` is: `main`, and a quick end.

    Before it ends the interpreter looks through all objects for garbage, several times; for those of torch that takes
    half a second. Frozen ones it leaves alone.
    """
    try:
        main()
    finally:
        gc.freeze()


def main() -> None:
    """Run the command line; ends the process with 0, 1, 2, 3 or 130 (see docs/reference/cli.md)."""
    debug = bool(os.environ.get("MEDUNET_DEBUG"))
    try:
        app()
    except MedunetError as error:
        if debug:
            raise
        if not _told_elsewhere(error):
            print(f"medunet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != Interrupted.exit_code:  # Typer turns Ctrl-C into an exit
            raise
        print("medunet: stopped.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
