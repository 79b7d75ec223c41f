"""`tune` on tiny trainings: ordinary run folders, the best configuration, failures that cost one trial only."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from medunet.config.load import dump_config, load_config
from medunet.config.schema import Config
from medunet.errors import DatasetError, Interrupted, OutOfMemoryError, OutputError, TrainingError, UsageError
from medunet.training.run import TrainingResult
from medunet.training.run import train as real_train
from medunet.training.tune import trial as trial_module
from medunet.training.tune.study import Search, tune
from medunet.training.validate import Validation

LR = {"train.optimizer.lr": {"low": 1e-3, "high": 0.1, "log": True}}
QUICK = {
    "train.epochs": 2,
    "train.iterations_per_epoch": 2,
    "network.channels": [2, 4],
    "logging": {"tensorboard": False, "images": None, "monitor": None},
}

RATES = ("train.optimizer.lr", "train.optimizer.weight_decay")

Train = Callable[..., TrainingResult]


@pytest.fixture
def config(make_config: Callable[..., Any], tiny_dataset: Path) -> Config:
    result: Config = make_config(tiny_dataset, {**QUICK, "tune": LR})
    return result


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], None]:
    """`drawn(function)`: trials train with that instead."""
    return lambda function: monkeypatch.setattr(trial_module, "train", function)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def reached(folder: Path, dice: float) -> TrainingResult:
    return TrainingResult(folder, folder / "model", Validation({"organ": dice, "core": dice}, dice), 1)


def by_rate(config: Config, folder: Path, **_: Any) -> TrainingResult:
    """As if a smaller learning rate were better."""
    return reached(folder, 1 - config.train.optimizer.lr)


def test_each_trial_is_a_run_and_the_best_is_a_configuration(config: Config, tmp_path: Path) -> None:
    result = tune(config, tmp_path / "study", Search(trials=2), device="cpu")
    found = rows(tmp_path / "study")
    assert [row["trial"] for row in found] == ["trial_000", "trial_001"]
    assert [row["state"] for row in found] == ["done", "done"]
    best = max(found, key=lambda row: float(row["dice"]))
    assert result.run == tmp_path / "study" / best["trial"]
    assert (result.run / "model" / "model.yaml").is_file()
    assert float(best["dice"]) == result.best.value
    written = load_config(result.config)
    assert written.train.optimizer.lr == float(best["train.optimizer.lr"])
    assert (written.tune, written.data) == ({}, config.data)
    recorded = load_config(result.run / "config.yaml")
    assert recorded.train == written.train
    caches = {load_config(run / "config.yaml").data.cache for run in (tmp_path / "study").glob("trial_*")}
    assert caches == {str(tmp_path / "study" / "cache")}


def test_the_same_call_goes_on_until_there_are_enough(config: Config, tmp_path: Path, drawn: Any) -> None:
    drawn(by_rate)
    tune(config, tmp_path, Search(trials=2), device="cpu")
    tune(config, tmp_path, Search(trials=5), device="cpu")
    tune(config, tmp_path, Search(trials=5), device="cpu")
    assert len(rows(tmp_path)) == 5


def test_without_a_section_the_usual_is_tuned_around_what_it_is(
    make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path, drawn: Any
) -> None:
    drawn(by_rate)
    config = make_config(tiny_dataset, {**QUICK, "train.optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}})
    for trials in (12, 14):
        tune(config, tmp_path, Search(trials=trials), device="cpu")
    tried = {key: [float(row[key]) for row in rows(tmp_path)] for key in RATES}
    assert all(len(set(values)) == 14 for values in tried.values())
    assert (tried["train.optimizer.lr"][0], tried["train.optimizer.weight_decay"][0]) == (0.01, 0.1)
    for key, usual in (("train.optimizer.lr", 0.01), ("train.optimizer.weight_decay", 0.1)):
        assert min(tried[key]) < usual < max(tried[key])
        assert all(usual / 10 <= value <= usual * 10 for value in tried[key])


def test_what_is_zero_is_not_tuned(
    make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path, drawn: Any
) -> None:
    drawn(by_rate)
    config = make_config(tiny_dataset, {**QUICK, "train.optimizer": {"name": "adam", "lr": 0.01}})
    tune(config, tmp_path, Search(trials=2), device="cpu")
    assert "train.optimizer.lr" in rows(tmp_path)[0]
    assert "train.optimizer.weight_decay" not in rows(tmp_path)[0]


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (OutOfMemoryError("The device is full."), "The device is full."),
        (TrainingError("The loss is not a number."), "The loss is not a number."),
        (MemoryError(), "The computer ran out of memory."),
        (ZeroDivisionError("oh"), "ZeroDivisionError: oh"),
    ],
)
def test_a_trial_that_fails_costs_itself_only(
    config: Config, tmp_path: Path, drawn: Any, error: BaseException, note: str
) -> None:
    def train(config: Config, folder: Path, **options: Any) -> TrainingResult:
        if folder.name == "trial_001":
            raise error
        return by_rate(config, folder)

    drawn(train)
    result = tune(config, tmp_path, Search(trials=3), device="cpu")
    assert [entry.state for entry in result.entries] == ["done", "failed", "done"]
    assert rows(tmp_path)[1]["note"] == note


def test_where_all_fail_the_last_reason_is_told(config: Config, tmp_path: Path, drawn: Any) -> None:
    def train(*_: Any, **__: Any) -> TrainingResult:
        raise TrainingError("The loss is not a number.")

    drawn(train)
    with pytest.raises(TrainingError, match=r"Of 2 trials none came to an end. .*The loss is not a number"):
        tune(config, tmp_path, Search(trials=2), device="cpu")
    assert len(rows(tmp_path)) == 2


@pytest.mark.parametrize(
    "error", [DatasetError("No data."), OutputError("Full."), UsageError("Wrong."), Interrupted("Stopped.")]
)
def test_what_every_trial_would_meet_ends_the_study_and_costs_no_trial(
    config: Config, tmp_path: Path, drawn: Any, error: Exception
) -> None:
    def train(*_: Any, **__: Any) -> TrainingResult:
        raise error

    drawn(train)
    with pytest.raises(type(error), match=str(error)):
        tune(config, tmp_path, Search(trials=2), device="cpu")
    assert [row["state"] for row in rows(tmp_path)] == ["running"]
    drawn(by_rate)
    assert [entry.state for entry in tune(config, tmp_path, Search(trials=2), device="cpu").entries] == ["done"] * 2


def test_values_that_do_not_go_together_fail_their_trial(
    make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path, drawn: Any
) -> None:
    spaces = {
        "train.patch_size": {"choices": [[15, 15, 15]]},
        "network.channels": {"choices": [[4, 8], [4, 8, 16]]},
    }
    drawn(by_rate)
    with pytest.raises(TrainingError, match=r"train\.patch_size"):
        tune(make_config(tiny_dataset, {"tune": spaces}), tmp_path, Search(trials=2), device="cpu")


def test_a_trial_is_pruned_in_the_middle_of_its_training(config: Config, tmp_path: Path, drawn: Any) -> None:
    tune_with = replace(Search(), trials=6)

    def train(config: Config, folder: Path, *, observer: Any, **options: Any) -> TrainingResult:
        if folder.name == "trial_005":
            return real_train(config, folder, observer=observer, **options)
        from medunet.training.observe import EpochSummary, Step

        observer.step(Step(2, 4, 1, 0.5, 0.1, 0.5, 1.0, 0.0, None, {}))
        observer.epoch(EpochSummary(1, 2, 0.5, 0.1, 1.0, 1.0, 1.0, 0.0, None, 0.9999, {"organ": 1.0}))
        return reached(folder, 1.0)

    drawn(train)
    result = tune(config, tmp_path, tune_with, device="cpu")
    assert [entry.state for entry in result.entries] == ["done"] * 5 + ["pruned"]
    assert "at 50% of the training" in result.entries[5].note
    assert "at 50% of the training" in (tmp_path / "trial_005" / "train.log").read_text()
    assert not (tmp_path / "trial_005" / "model").exists()


@pytest.mark.parametrize(("metric", "first"), [("dice/core", 0.2), ("validation_loss", 0.5)])
def test_other_metrics_judge_too(config: Config, tmp_path: Path, drawn: Any, metric: str, first: float) -> None:
    def train(config: Config, folder: Path, *, observer: Any, **options: Any) -> TrainingResult:
        from medunet.training.observe import EpochSummary, Step

        number = int(folder.name[-1])
        observer.step(Step(2, 4, 1, 0.5, 0.1, 0.5, 1.0, 0.0, None, {}))
        observer.epoch(EpochSummary(1, 2, 0.5, 0.1, 1.0, 1.0, 1.0, 0.0, 0.5 + number, 0.5, {"core": 0.5}))
        return TrainingResult(folder, folder, Validation({"organ": 0.9, "core": 0.2 - 0.1 * number}, 0.5), 1)

    drawn(train)
    result = tune(config, tmp_path, Search(trials=2, metric=metric), device="cpu")
    assert (result.best.number, result.best.value) == (0, first)


def test_no_trial_begins_when_the_time_is_up(config: Config, tmp_path: Path, drawn: Any) -> None:
    def train(config: Config, folder: Path, **_: Any) -> TrainingResult:
        time.sleep(0.2)
        return by_rate(config, folder)

    drawn(train)
    assert len(tune(config, tmp_path, Search(trials=9, seconds=0.1), device="cpu").entries) == 1


@pytest.mark.parametrize(
    ("changes", "search", "message"),
    [
        ({}, Search(trials=0), "At least one trial"),
        ({}, Search(metric="dice/liver"), "cannot be judged by dice/liver"),
        ({"validate": {"metric": "loss"}}, Search(), "cannot be judged by loss"),
    ],
)
def test_what_cannot_be_a_study_is_refused_before_anything_is_written(
    make_config: Callable[..., Any],
    tiny_dataset: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    search: Search,
    message: str,
) -> None:
    config = make_config(tiny_dataset, {**QUICK, "tune": LR, **changes})
    with pytest.raises(UsageError, match=message):
        tune(config, tmp_path / "study", search, device="cpu")
    assert not (tmp_path / "study").exists()


def test_a_folder_with_something_else_is_refused(
    config: Config, make_config: Callable[..., Any], tiny_dataset: Path, tiny_run: Path, tmp_path: Path, drawn: Any
) -> None:
    with pytest.raises(UsageError, match="holds a run"):
        tune(config, tiny_run, device="cpu")
    drawn(by_rate)
    tune(config, tmp_path, Search(trials=1), device="cpu")
    other = make_config(tiny_dataset, {**QUICK, "tune": LR, "train.batch_size": 3})
    with pytest.raises(UsageError, match=r"has another train\.batch_size"):
        tune(other, tmp_path, device="cpu")
    with pytest.raises(UsageError, match="has another metric"):
        tune(config, tmp_path, Search(metric="validation_loss"), device="cpu")


def test_a_data_set_with_problems_is_told_before_anything_is_written(
    make_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises((DatasetError, UsageError)):
        tune(make_config(tmp_path / "data", {**QUICK, "tune": LR}), tmp_path / "study", device="cpu")
    assert not (tmp_path / "study").exists()


def test_the_best_so_far_is_there_when_the_study_is_stopped(config: Config, tmp_path: Path, drawn: Any) -> None:
    def train(config: Config, folder: Path, **_: Any) -> TrainingResult:
        if folder.name == "trial_001":
            raise Interrupted("Stopped.")
        return by_rate(config, folder)

    drawn(train)
    with pytest.raises(Interrupted):
        tune(config, tmp_path, Search(trials=3), device="cpu")
    assert load_config(tmp_path / "best.yaml").train.optimizer.lr == 0.02


def test_torchrun_is_refused(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="Start it once per GPU"):
        tune(config, tmp_path, device="cpu")


def test_without_optuna_it_says_how_to_get_it(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"medunet\[tune\]"):
        tune(config, tmp_path, device="cpu")


@pytest.mark.slow
def test_after_a_kill_the_trial_goes_on_where_it_was(config: Config, tmp_path: Path) -> None:
    long = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 15})})
    file, study = tmp_path / "tune.yaml", tmp_path / "study"
    file.write_text(dump_config(long))
    command = [sys.executable, "-m", "medunet", "tune", "--config", file, "--trials", "1", "--out", study, "-d", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        while not (study / "trial_000" / "checkpoints" / "last.pt").is_file() and process.poll() is None:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    result = tune(long, study, Search(trials=1), device="cpu")
    assert [(entry.number, entry.state) for entry in result.entries] == [(0, "done")]
    assert "Going on after step" in (study / "trial_000" / "train.log").read_text()
