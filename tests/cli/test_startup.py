"""A command that needs no network must not load one: what is imported, not how long it takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "monai", "ignite", "numpy", "scipy", "pydantic", "yaml", "nibabel", "SimpleITK", "pydicom", "PIL")

RUN = """
import sys
sys.argv = ["medunet", *{arguments!r}]
from medunet.cli.main import main
try:
    main()
finally:
    print("loaded:", *sorted(set({heavy!r}) & set(sys.modules)), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> set[str]:
    """Which heavy modules a command line has imported when it ends."""
    code = RUN.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].removeprefix("loaded:").split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert loaded_by(*arguments) == set()


@pytest.mark.parametrize("command", ["demo", "train", "predict", "evaluate", "info", "doctor"])
def test_help_of_a_command_imports_nothing_heavy(command: str) -> None:
    by_typer_itself = {"pydantic"}
    assert loaded_by(command, "--help") <= by_typer_itself


def test_the_guard_sees_what_a_command_imports() -> None:
    assert {"pydantic", "yaml"} <= loaded_by("config", "schema")


def test_config_commands_load_no_torch() -> None:
    assert not {"torch", "monai", "ignite"} & loaded_by("config", "schema")
