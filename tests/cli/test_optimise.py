"""`medunet optimise`: a table on stdout, or JSON; what predict takes, and how to ask for another."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "engines"))


def test_it_prints_a_row_per_engine_and_what_predict_takes(cli: Callable[..., Any], run: Path) -> None:
    done = cli("optimise", run, "--engine", "openvino", "--engine", "onnx", "--cases", 1)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{run / 'model'}: 1 case held out by the run, of ")
    assert lines[1].split()[:4] == ["engine", "precision", "ms/window", "s/case"]
    assert [line.split()[0] for line in lines[2:6]] == ["torch", "torch", "openvino", "openvino"]
    assert lines[2].split()[4] == "1.00x"
    assert any(line.strip().startswith("--engine auto: ") for line in lines)
    assert "--engine onnx" in lines[-1]


def test_json_holds_what_the_table_shows(cli: Callable[..., Any], run: Path, tiny_dataset: Path) -> None:
    done = cli("optimise", run, "--data", tiny_dataset, "--engine", "onnx", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [row["engine"] for row in told["rows"]] == ["torch", "torch", "onnx"]
    assert told["rows"][2]["agreement"] > 0.999
    assert set(told["rows"][0]["dice"]) == {"organ", "core"}


def test_bad_input_is_a_usage_error(cli: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    for arguments in (
        (tmp_path / "none",),
        (run, "--engine", "cuda"),
        (run, "--cases", 0),
        (run, "--data", tmp_path / "x"),
    ):
        done = cli("optimise", *arguments)
        assert (done.code, done.out) == (2, ""), arguments
