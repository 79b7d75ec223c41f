"""What ruff does not check: length, names, and a library that neither prints nor exits."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
BANNED_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "stuff"}
TOP_LEVEL = {
    "pyproject.toml", "medunet", "configs", "tests", "docker", "docs", "README.md", "Makefile", "LICENSE",
    "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt",
}  # fmt: skip


def is_exit(node: ast.AST) -> bool:
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    raised = ast.unparse(node.exc) if isinstance(node, ast.Raise) and node.exc else ""
    return called in {"sys.exit", "os._exit", "exit", "quit"} or raised.startswith("SystemExit")


def body_length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[0]
    docstring = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def breaches(tree: ast.AST, in_cli: bool) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if body_length(node) > MOST_LINES_OF_A_FUNCTION and not in_cli:
                yield node.lineno, f"{node.name} has {body_length(node)} lines"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and not in_cli:
            yield node.lineno, "print() outside the command line"
        elif is_exit(node) and not in_cli:
            yield getattr(node, "lineno", 0), "the library ends the process"


def problems(root: Path) -> list[str]:
    """Every breach below the package folder `root`, as `file:line: what`."""
    found = []
    for file in sorted(root.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        place = file.relative_to(root)
        if len(text.splitlines()) > MOST_LINES:
            found.append(f"{place}: {len(text.splitlines())} lines, at most {MOST_LINES}")
        if BANNED_NAMES & set(place.with_suffix("").parts):
            found.append(f"{place}: a name that says nothing")
        found += [f"{place}:{line}: {what}" for line, what in breaches(ast.parse(text), "cli" in place.parts)]
    return found


def test_the_package_keeps_its_style() -> None:
    assert problems(ROOT / "medunet") == []


def test_the_top_level_holds_what_it_should() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("this is no git checkout")
    tracked = {line.split("/")[0] for line in done.stdout.splitlines() if not line.startswith(".")}
    assert tracked <= TOP_LEVEL
    assert [name for name in TOP_LEVEL if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("io/files.py", "x = 1\n" * 401, "401 lines"),
        ("io/utils.py", "x = 1\n", "a name that says nothing"),
        ("misc/files.py", "x = 1\n", "a name that says nothing"),
        ("io/files.py", "def f():\n    print('x')\n", "files.py:2: print() outside"),
        ("io/files.py", "import sys\nsys.exit(1)\n", "files.py:2: the library ends the process"),
        ("io/files.py", "raise SystemExit(2)\n", "files.py:1: the library ends the process"),
        ("io/files.py", "def f():\n" + "    x = 1\n" * 60, "f has 61 lines"),
    ],
)
def test_a_planted_breach_is_reported(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    found = problems(tmp_path)
    assert len(found) == 1
    assert complaint in found[0]


def test_the_command_line_may_print_and_exit(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "main.py").write_text("print('x')\nsys.exit(1)\n")
    assert problems(tmp_path) == []


def test_a_long_docstring_does_not_make_a_function_long(tmp_path: Path) -> None:
    (tmp_path / "geometry.py").write_text('def f():\n    """' + "line\n" * 100 + '    """\n    return 1\n')
    assert problems(tmp_path) == []
