"""docs/how-to/add-a-network.md does what it says: its blocks, put where it says, make a network that trains.

In a copy of the package: the comment before a block names the file, and the line above which it goes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-network.md"
COPIED = ("medunet", "configs", "docs", "tests/networks", "pyproject.toml")

_BLOCK = re.compile(r"^<!-- not run: (?P<note>.+?) -->\n```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^```$", re.M | re.S)
_ABOVE = re.compile(r'goes into (?P<file>\S+) above the line "(?P<line>.+)"')
_FILE = re.compile(r"becomes the file (?P<file>\S+)")


@dataclass(frozen=True)
class Block:
    """A block of the page and what the comment before it says."""

    note: str
    language: str
    body: str


def blocks() -> list[Block]:
    return [Block(**match.groupdict()) for match in _BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


def apply(block: Block, root: Path) -> str:
    """Put a block of Python where its comment says; returns the file."""
    if whole := _FILE.fullmatch(block.note):
        path = root / whole["file"]
        assert not path.exists()
        path.write_text(block.body, encoding="utf-8")
        return whole["file"]
    place = _ABOVE.fullmatch(block.note)
    assert place is not None, block.note
    path, start = root / place["file"], place["line"].replace('\\"', '"')
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    (number,) = (index for index, line in enumerate(lines) if line.startswith(start))
    path.write_text("".join([*lines[:number], block.body, *lines[number:]]), encoding="utf-8")
    return place["file"]


def run(root: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run with the copy of the package in place of the installed one."""
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the blocks of the page in it."""
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, target)
        else:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks():
        if block.language == "python":
            apply(block, root)
        elif block.language == "yaml":
            (root / "dilated.yaml").write_text(block.body, encoding="utf-8")
    return root


pytestmark = pytest.mark.xdist_group("add-a-network")


def test_the_page_changes_three_files_and_adds_one() -> None:
    notes = [block.note for block in blocks() if block.language == "python"]
    files = {(_ABOVE.fullmatch(note) or _FILE.fullmatch(note))["file"] for note in notes}  # type: ignore[index]
    assert files == {
        "medunet/config/networks.py",
        "medunet/networks/dilated.py",
        "medunet/networks/registry.py",
        "tests/networks/test_contract.py",
    }
    assert len(notes) == 6


def test_the_command_lists_the_network_and_its_options(root: Path) -> None:
    done = run(root, "-m", "medunet", "info", "--networks", "dilated")
    assert done.returncode == 0, done.stderr
    assert "dilated" in done.stdout
    assert "Dilation of every convolution, in their order." in done.stdout
    command = next(block.body for block in blocks() if block.language == "console")
    assert "$ medunet info --networks dilated\n" in command


def test_the_network_keeps_the_contract(root: Path) -> None:
    """The contract test itself, as the page says: sizes, odd ones too, channels, gradients, saving, export."""
    done = run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/networks/test_contract.py", "-k", "dilated")
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 10


def test_the_reference_takes_the_options_up(root: Path) -> None:
    done = run(root, "docs/config_reference.py")
    assert done.returncode == 0, done.stderr
    page = (root / "docs" / "reference" / "config.md").read_text(encoding="utf-8")
    assert "Dilation of every convolution, in their order." in page


def test_the_network_trains_from_the_configuration_of_the_page(root: Path, tiny_dataset: Path) -> None:
    options = ("--set", "data.folds=2", "--set", "train.batch_size=1")
    done = run(root, "-m", "medunet", "train", "--config", "dilated.yaml", "--data", tiny_dataset, "--out", "run",
               "-d", "cpu", *options)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "name: dilated" in (root / "run" / "model" / "model.yaml").read_text(encoding="utf-8")


def test_its_mistakes_are_told_as_those_of_any_network(root: Path) -> None:
    done = run(root, "-m", "medunet", "config", "check", "dilated.yaml", "--set", "network.filter=3")
    assert done.returncode == 2
    assert "network.filter" in done.stderr
    assert "Did you mean filters?" in done.stderr


def test_a_block_without_a_place_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 2\n")
    with pytest.raises(AssertionError):
        apply(Block("needs something", "python", "z = 3\n"), tmp_path)
    with pytest.raises(ValueError, match="unpack"):
        apply(Block('goes into a.py above the line "w"', "python", "z = 3\n"), tmp_path)
    apply(Block('goes into a.py above the line "y"', "python", "z = 3\n"), tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 1\nz = 3\ny = 2\n"
