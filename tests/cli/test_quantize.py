"""`medunet quantize`: a table on stdout, and an exit code that says whether the form was kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.inference import int8


@pytest.mark.parametrize(("bound", "code", "last"), [(1, 0, "Kept. Use it with"), (-1, 1, "Not kept: it loses")])
def test_it_says_what_int8_costs_and_whether_it_was_kept(
    cli: Callable[..., Any],
    tiny_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bound: float,
    code: int,
    last: str,
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "engines"))
    monkeypatch.setattr(int8, "BOUND", bound)
    done = cli("quantize", run)
    assert done.code == code, done.err
    lines = done.out.splitlines()
    assert lines[0].endswith("2 held-out cases")
    assert lines[-1].startswith(last)
    assert any(line.split()[0] == "int8" for line in lines)


def test_a_folder_that_is_no_run_is_a_usage_error(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("quantize", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "is no run of one fold" in done.err
