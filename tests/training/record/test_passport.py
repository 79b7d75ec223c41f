"""run.json says what a run was made with, start by start."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.io.check import CaseStatistics
from medunet.training.record.passport import fingerprint, git_state, hardware, read_passports, write_passport

CPU = torch.device("cpu")
CASE = CaseStatistics("a", (4, 4), (1.0, 1.0), "RA", 1, (0.0,), (1.0,), ((0.0, 0.5, 1.0),), {}, "11")
OTHER = replace(CASE, id="b", sha256="22")


def test_each_start_has_an_entry(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    config = make_config(tmp_path, {"seed": 7})
    entry = write_passport(tmp_path, config, CPU, [CASE, OTHER])
    write_passport(tmp_path, config, CPU, [CASE, OTHER])
    first, second = read_passports(tmp_path)
    assert first == json.loads(json.dumps(entry))
    assert first["command"] == sys.argv
    assert (first["seed"], first["device"], first["precision"]) == (7, "cpu", "float32")
    assert first["versions"]["torch"] == torch.__version__
    assert first["hardware"]["cores"] >= 1
    assert first["hardware"]["processor"]
    assert first["data"] == {"root": str(tmp_path), "cases": 2, "sha256": fingerprint([CASE, OTHER])}
    assert second["started"] >= first["started"]


def test_data_that_changed_since_is_told(
    tmp_path: Path, make_config: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="medunet"):
        for cases in ([CASE, OTHER], [OTHER, CASE]):
            write_passport(tmp_path, make_config(tmp_path), CPU, cases)
        assert caplog.text == ""
        write_passport(tmp_path, make_config(tmp_path), CPU, [CASE, replace(OTHER, sha256="33")])
    assert "not those that this run was started with" in caplog.text


def test_the_fingerprint_is_that_of_contents_and_ids_in_any_order() -> None:
    assert fingerprint([CASE, OTHER]) == fingerprint([OTHER, CASE])
    assert fingerprint([CASE, OTHER]) != fingerprint([CASE])
    assert fingerprint([CASE, OTHER]) != fingerprint([replace(CASE, id="c"), OTHER])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"starts": 3}', '{"starts": [1]}'])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, make_config: Callable[..., Any], text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert read_passports(tmp_path) == []
    write_passport(tmp_path, make_config(tmp_path), CPU, [CASE])
    assert len(read_passports(tmp_path)) == 1


def test_the_commit_of_a_checkout_is_known_and_whether_it_was_changed(tmp_path: Path) -> None:
    package = tmp_path / "medunet"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    assert git_state(package) is None
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert git_state(package) == {"commit": head.stdout.strip(), "changed": False}
    (package / "a.py").write_text("x = 2\n")
    assert git_state(package) == {"commit": head.stdout.strip(), "changed": True}


def test_a_checkout_without_git_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    assert git_state(tmp_path / "medunet") is None  # no repository
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path / "medunet") is None  # no git


@pytest.mark.gpu
def test_the_gpu_is_named() -> None:
    assert hardware(torch.device("cuda"))["gpu"]
