"""The code blocks of README and docs are run, in order, page by page, each page in a folder of its own.

- ```python: all blocks of a page share one namespace.
- ```console: lines that begin with `$ ` are run by bash; the block fails if one of them does.
- ```yaml title="name.yaml": written to a file of that name.
- `<!-- not run: reason -->` before a block leaves it out; `<!-- exit: 2 -->` expects that exit code.

A page that mentions `demo-out` finds there what `medunet demo` leaves, after a training of two steps.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = {"text", "json"}
"""Languages of blocks that are only shown."""

TINY = (
    "data.folds=2",
    "network.channels=[4, 8]",
    "preprocess.spacing=[8, 8, 8]",
    "train.patch_size=[32, 32, 32]",
    "train.budget=null",
    "train.epochs=1",
    "train.iterations_per_epoch=2",
)
PATIENTS = 4

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>.+?) -->\n)?```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block and what the comment before it says."""

    line: int
    language: str
    title: str
    body: str
    reason: str
    exit_code: int

    @property
    def commands(self) -> list[str]:
        return [line[2:] for line in self.body.splitlines() if line.startswith("$ ")]


def blocks(text: str) -> Iterator[Block]:
    for match in _FENCE.finditer(text):
        note = match["note"] or ""
        title = re.search(r'title="([^"]+)"', match["options"])
        yield Block(
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"],
            title=title[1] if title else "",
            body=match["body"],
            reason=note.removeprefix("not run: ") if note.startswith("not run: ") else "",
            exit_code=int(note.removeprefix("exit: ")) if note.startswith("exit: ") else 0,
        )


def run_block(block: Block, folder: Path, namespace: dict[str, object]) -> None:
    """Run one block in `folder`, which is the working directory."""
    if block.reason or block.language in SHOWN:
        return
    if block.language == "yaml":
        yaml.safe_load(block.body)
        if block.title:
            (folder / block.title).write_text(block.body, encoding="utf-8")
    elif block.language == "python":
        exec(compile(block.body, f"block at line {block.line}", "exec"), namespace)  # noqa: S102
    elif block.language == "console":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(block.commands)],
            cwd=folder,
            env={**os.environ, "PATH": path, "COLUMNS": "120"},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        shown = f"line {block.line}: {block.commands}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == block.exit_code, shown
        output = [line for line in block.body.splitlines() if line and not line.startswith("$ ")]
        assert [line for line in output if line not in f"{done.stdout}\n{done.stderr}"] == [], shown
    else:
        pytest.fail(f"line {block.line}: a block of language {block.language!r}; use python, console, yaml or text.")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `medunet demo` leaves, after a training of two steps."""
    from medunet.config.load import load_config
    from medunet.demo import run

    folder = tmp_path_factory.mktemp("demo") / "demo-out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_config", lambda name, **options: load_config(name, overrides=TINY, **options))
        patch.setattr(run, "TRAINING_PATIENTS", PATIENTS)
        run.run_demo(folder, device="cpu")
    return folder


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(blocks(text))
    if any("demo-out" in block.body for block in found if not block.reason):
        shutil.copytree(request.getfixturevalue("demo"), tmp_path / "demo-out")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in found:
        run_block(block, tmp_path, namespace)


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_no_block_of_a_page_escapes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = list(blocks(text))
    assert len(re.findall(r"^\s*(```|~~~)", text, flags=re.MULTILINE)) == 2 * len(found)
    assert [block.line for block in found if block.language == "console" and not block.commands] == []
    notes = re.findall(r"<!--\s*(.+?)\s*-->", text)
    assert [note for note in notes if not re.match(r"not run: \w.{10,}|exit: \d+$|measured: (start|end)$", note)] == []


def test_the_guard_sees_the_examples() -> None:
    found = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"))]
    ran = [block.language for block in found if not block.reason]
    assert len(PAGES) > 20
    assert ran.count("console") > 10
    assert ran.count("python") >= 5


@pytest.mark.parametrize(
    "text",
    [
        "```python\nraise ValueError\n```\n",
        "```console\n$ false\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        '```yaml title="a.yaml"\na: [\n```\n',
        "```bash\ntrue\n```\n",
        "<!-- exit: 2 -->\n```console\n$ true\n```\n",
    ],
)
def test_an_example_that_fails_is_noticed(text: str, tmp_path: Path) -> None:
    (block,) = blocks(text)
    with pytest.raises((AssertionError, ValueError, yaml.YAMLError, pytest.fail.Exception)):
        run_block(block, tmp_path, {})


def test_blocks_of_a_page_share_files_and_names(tmp_path: Path) -> None:
    text = (
        '```yaml title="a.yaml"\na: 1\n```\n```console\n$ cat a.yaml\na: 1\n```\n'
        "```python\nx = 1\n```\n```python\nassert x == 1\n```\n<!-- not run: takes hours -->\n```python\n1 / 0\n```\n"
    )
    namespace: dict[str, object] = {}
    for block in blocks(text):
        run_block(block, tmp_path, namespace)
    assert namespace["x"] == 1
