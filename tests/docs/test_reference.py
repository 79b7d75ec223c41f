"""Every command, option, argument, configuration key and public name is documented, and nothing that does not exist."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

import medunet
from medunet import errors
from medunet.cli.main import app
from medunet.config.describe import sections_with
from medunet.inference.quality import FLAGS
from medunet.model.seen import ChannelSeen, Seen, StructureSeen

DOCS = Path(__file__).resolve().parents[2] / "docs"
REFERENCE = DOCS / "reference"


def commands(command: Any, name: str = "medunet") -> Iterator[tuple[str, Any]]:
    """Every command with its full name, the groups among them left out, but for the top."""
    inner = getattr(command, "commands", {})
    if name == "medunet" or not inner:
        yield name, command
    for key, value in inner.items():
        yield from commands(value, f"{name} {key}")


COMMANDS = dict(commands(typer.main.get_command(app)))


def sections(page: Path) -> dict[str, str]:
    """Text below each second-level heading."""
    parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def spellings(command: Any) -> set[str]:
    """All spellings of all options, and the arguments in capitals."""
    found = set()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            found.add(parameter.make_metavar(None) if parameter.metavar is None else parameter.metavar)
        else:
            found.update([*parameter.opts, *parameter.secondary_opts])
    return found - {"--help", "-h", "--install-completion", "--show-completion"}


def test_the_walk_finds_the_commands() -> None:
    assert {"medunet", "medunet train", "medunet predict", "medunet config check"} <= set(COMMANDS)


def test_exactly_the_commands_that_exist_are_documented() -> None:
    assert set(sections(REFERENCE / "cli.md")) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_exactly_the_options_of_a_command_are_documented(name: str) -> None:
    text = sections(REFERENCE / "cli.md").get(name, "")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    documented = {word.split()[0] for cell in cells for word in re.findall(r"`([^`]+)`", cell)}
    assert documented - {"--help", "-h"} == spellings(COMMANDS[name])


def generator() -> ModuleType:
    """`docs/config_reference.py` as a module."""
    spec = importlib.util.spec_from_file_location("config_reference", DOCS / "config_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_configuration_keys_is_up_to_date() -> None:
    written = (REFERENCE / "config.md").read_text(encoding="utf-8")
    assert written == generator().page(), "Run: python docs/config_reference.py"


def test_every_configuration_key_is_documented() -> None:
    keys = sections_with()
    text = (REFERENCE / "config.md").read_text(encoding="utf-8")
    assert len(keys) > 60
    assert [key for key in keys if f"| `{key}` |" not in text] == []


def test_every_error_is_documented_with_its_exit_code() -> None:
    text = (REFERENCE / "exit-codes.md").read_text(encoding="utf-8")
    tree = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    public = [error for error in tree if not error.__name__.startswith("_")]
    assert len(public) > 10
    wrong = [e.__name__ for e in public if not re.search(rf"\b{e.__name__} +{e.exit_code}\b", text)]  # type: ignore[attr-defined]
    assert wrong == []


def test_exactly_the_quality_flags_that_exist_are_documented() -> None:
    text = (REFERENCE / "quality-flags.md").read_text(encoding="utf-8").split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == [*FLAGS]


def test_every_key_of_what_training_saw_is_documented() -> None:
    text = (REFERENCE / "quality-flags.md").read_text(encoding="utf-8")
    keys = {key for section in (Seen, ChannelSeen, StructureSeen) for key in section.model_fields} - {"name"}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_every_public_name_is_documented() -> None:
    text = (REFERENCE / "python.md").read_text(encoding="utf-8")
    assert [name for name in medunet.__all__ if name != "__version__" and f"| `{name}` |" not in text] == []


def test_every_benchmark_is_listed() -> None:
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    files = list((DOCS.parent / "tests" / "benchmarks").glob("test_*.py"))
    assert files
    assert [file.name for file in files if f"`{file.name}`" not in text] == []
