"""A whole run with everything switched on; a resumed one; one whose records all fail."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medunet.config.load import load_config
from medunet.engines.probe import SUMMARY_NAMES, Probe
from medunet.errors import Interrupted
from medunet.training.observe import EpochSummary, Observer, Step
from medunet.training.record import curves
from medunet.training.record.passport import read_passports
from medunet.training.run import train

CHANGES = {
    "train.epochs": 3,
    "train.iterations_per_epoch": 3,
    "logging": {"monitor": "0.05s", "images": {"cases": 1, "every": 2}},
}


class Watcher(Observer):
    """Keeps what it is told, and presses Ctrl-C after a step."""

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.steps: list[Step] = []
        self.epochs: list[EpochSummary] = []

    def step(self, step: Step) -> None:
        self.steps.append(step)
        if step.iteration == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, summary: EpochSummary) -> None:
        self.epochs.append(summary)


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_a_run_that_was_stopped_and_resumed_is_recorded_as_one(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    config, run, first, second = make_config(tiny_dataset, CHANGES), tmp_path / "run", Watcher(stop_at=5), Watcher()
    with pytest.raises(Interrupted):
        train(config, run, device="cpu", observer=first)
    assert (run / "curves.png").is_file()
    half = (run / "curves.png").read_bytes()
    train(config, run, device="cpu", resume=True, observer=second)
    assert not [thread for thread in threading.enumerate() if thread.name == "medunet-monitor"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with open(run / "metrics.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [line["epoch"] for line in lines] == [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [line["dice"]["core"] for line in lines] == [float(row["dice/core"]) for row in rows]
    assert all(set(line["resources"]) == set(SUMMARY_NAMES) for line in lines)
    assert (run / "curves.png").read_bytes() != half
    assert [event.step for event in events(run).Scalars("validation/dice")] == [1, 2, 3]
    assert {event.step for event in events(run).Images("slices/case_03")} == {1, 3}
    samples = [json.loads(line) for line in (run / "resources.jsonl").read_text().splitlines()]
    assert [sample["time"] for sample in samples] == sorted(sample["time"] for sample in samples)
    assert len(read_passports(run)) == 2
    assert {len(entry["data"]["sha256"]) for entry in read_passports(run)} == {64}
    hashes = [entry["sha256"] for entry in json.loads((run / "dataset.json").read_bytes())["cases"]]
    assert len(set(hashes)) == 6
    assert second.epochs[-1].resources["memory_GB"] > 0  # type: ignore[operator]
    assert second.steps[-1].resources["memory_GB"] > 0  # type: ignore[operator]
    assert second.steps[-1].patches_per_second == pytest.approx(2 * second.steps[-1].iterations_per_second)


def test_records_that_fail_leave_the_training_alone(
    tiny_dataset: Path,
    make_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise MemoryError("no more")

    for place, name in ((curves, "draw_curves"), (Probe, "look")):
        monkeypatch.setattr(place, name, broken)
    changes = {**CHANGES, "logging": {"monitor": "0.01s"}}
    result = train(make_config(tiny_dataset, changes), tmp_path / "run", device="cpu")
    assert (result.model / "model.yaml").is_file()
    assert caplog.text.count("curves.png cannot go on (MemoryError: no more)") == 1
    assert caplog.text.count("The resource monitor cannot go on (MemoryError: no more)") == 1


def test_without_tensorboard_a_run_says_so_only_where_it_was_asked_for(
    tiny_dataset: Path,
    make_config: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    short = {"train.epochs": 1, "train.iterations_per_epoch": 2}
    for wish, told in (("auto", 0), (True, 1)):
        config = make_config(tiny_dataset, {**short, "logging": {"tensorboard": wish}})
        train(config, tmp_path / str(wish), device="cpu")
        assert caplog.text.count("TensorBoard is not installed") == told


def test_the_records_change_nothing_of_the_weights(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    without = {**CHANGES, "logging": {"monitor": None, "images": None, "tensorboard": False}}
    one = train(make_config(tiny_dataset, CHANGES), tmp_path / "one", device="cpu").model
    other = train(make_config(tiny_dataset, without), tmp_path / "other", device="cpu").model
    assert (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()
    assert not (tmp_path / "other" / "resources.jsonl").exists()
    assert not list((tmp_path / "other").glob("events*"))


def test_the_configuration_in_the_run_folder_repeats_the_run_bit_for_bit(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {**CHANGES, "augment": {"preset": "nnunet"}, "network.dropout": 0.2, "seed": 3, "train.ema": 0.9}
    first = train(make_config(tiny_dataset, changes), tmp_path / "first", device="cpu")
    again = train(load_config(first.run / "config.yaml"), tmp_path / "again", device="cpu")
    for name in ("model/weights.safetensors", "validation/per_case.csv", "config.yaml", "splits.json", "dataset.json"):
        assert (first.run / name).read_bytes() == (again.run / name).read_bytes(), name
    for mask in (first.run / "validation").glob("*.nii.gz"):
        assert mask.read_bytes() == (again.run / "validation" / mask.name).read_bytes()
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (first.run, again.run)
    ]
    kept = ("epoch", "iteration", "loss", "lr", "validation_loss", "dice_mean", "dice", "best")
    assert [{key: row[key] for key in kept} for row in rows[0]] == [{key: row[key] for key in kept} for row in rows[1]]
    other = train(make_config(tiny_dataset, {**changes, "seed": 4}), tmp_path / "other", device="cpu")
    assert (other.model / "weights.safetensors").read_bytes() != (first.model / "weights.safetensors").read_bytes()
