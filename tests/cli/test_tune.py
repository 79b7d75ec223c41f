"""`medunet tune`: the best trial on stdout, all else on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from medunet.config.load import dump_config
from medunet.training.tune import trial as trial_module

QUIET = {"tensorboard": False, "images": None, "monitor": None}
SPACES = {"train.optimizer.lr": {"low": 1e-3, "high": 0.1, "log": True}, "seed": {"low": 0, "high": 3}}


@pytest.fixture
def file(make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> Path:
    quick = {"train.epochs": 1, "train.iterations_per_epoch": 2, "logging": QUIET, "tune": SPACES}
    path = tmp_path / "tune.yaml"
    path.write_text(dump_config(make_config(tiny_dataset, quick)))
    return path


def test_it_prints_the_folder_of_the_best_trial_and_its_config_trains(
    cli: Callable[..., Any], file: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    done = cli("tune", "--config", file, "--trials", 2, "--out", study, "--fold", 1, "-d", "cpu")
    assert done.code == 0, done.err
    assert done.out.strip() in (str(study / "trial_000"), str(study / "trial_001"))
    assert "2 trials: 2 done. Best: trial_00" in done.err
    assert "train.optimizer.lr" in done.err
    assert cli("config", "check", study / "best.yaml").code == 0
    known = json.loads(cli("info", study, "--json").out)
    assert (known["kind"], known["healthy"]) == ("study", True)
    assert known["trials"] == {"done": 2}
    assert str(study / known["best"]["trial"]) == done.out.strip()
    again = cli("train", "--config", study / "best.yaml", "--out", tmp_path / "run", "-d", "cpu")
    assert again.code == 0, again.err


def test_wrong_values_are_usage_errors(cli: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    for options, said in (
        (("--timeout", "soon"), "it must be a time"),
        (("--trials", 0), "At least one trial"),
        (("--metric", "iou"), "cannot be judged by iou"),
        (("--set", "tune={train.optimizer.lrr: {low: 1, high: 2}}"), "Did you mean lr?"),
        (("--fold", 9), "must be less than data.folds"),
        (("--config", "none.yaml"), "There is no configuration"),
    ):
        done = cli("tune", "--config", file, "--out", study, "-d", "cpu", *options)
        assert (done.code, done.out) == (2, ""), options
        assert said in done.err
    assert not study.exists()


def test_a_device_that_is_not_there_is_told_before_any_trial(
    cli: Callable[..., Any], file: Path, tmp_path: Path
) -> None:
    done = cli("tune", "--config", file, "--out", tmp_path / "study", "-d", "cuda:77")
    assert done.code == 1
    assert not (tmp_path / "study").exists()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(
    cli: Callable[..., Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medunet.errors import Interrupted

    def train(*_: Any, **__: Any) -> None:
        raise Interrupted("Stopped after step 3.", "Go on with --resume.")

    monkeypatch.setattr(trial_module, "train", train)
    done = cli("tune", "--config", file, "--out", tmp_path / "study", "-d", "cpu")
    assert done.code == 130
    assert "trial_000: Stopped after step 3. The same command goes on." in done.err
