"""What whole runs do between steps: early ends, plateaus, averages, checkpoints by time; also over a resume.

The bits of resumed runs are compared in test_resume.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.errors import Interrupted, UsageError
from medunet.model import load_model
from medunet.training import keeper
from medunet.training.observe import EpochSummary, Observer, Step
from medunet.training.run import TrainingResult, train

NEVER_BETTER = 1000.0
"""As `min_delta`: only the first measurement is better."""

SHORT = {"train.epochs": 8, "train.iterations_per_epoch": 2, "logging": {"monitor": None, "tensorboard": False}}
Run = Callable[..., TrainingResult]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def run(tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, cache: Path) -> Run:
    """`run(changes, name="run", **options)` trains in `tmp_path / name`."""

    def go(changes: dict[str, Any], name: str = "run", **options: Any) -> TrainingResult:
        config = make_config(tiny_dataset, {**SHORT, "data.cache": str(cache), **changes})
        return train(config, tmp_path / name, device="cpu", **options)

    return go


class Signal(Observer):
    """Presses Ctrl-C at a step, or when an epoch was written."""

    def __init__(self, *, step: int = 0, epoch: int = 0) -> None:
        self.at = (step, epoch)
        self.seen: list[Step] = []

    def step(self, step: Step) -> None:
        self.seen.append(step)
        if step.iteration == self.at[0]:
            os.kill(os.getpid(), signal.SIGINT)

    def epoch(self, summary: EpochSummary) -> None:
        if summary.epoch == self.at[1]:
            os.kill(os.getpid(), signal.SIGINT)


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
    return state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# Early stopping

STOP = {"train.early_stop": {"metric": "validation_loss", "patience": 2, "min_delta": NEVER_BETTER}}


def test_a_training_ends_when_nothing_got_better_for_long_enough(run: Run) -> None:
    result = run(STOP)
    assert [line["epoch"] for line in metrics(result.run)] == [1, 2, 3]
    log = (result.run / "train.log").read_text()
    assert "validation_loss has not got better for long enough; the training ends here." in log
    assert checkpoint(result.run)["progress"]["finished"]
    assert load_model(result.model).spec.training["epochs"] == 3


def test_a_training_that_gets_better_goes_on_to_the_end(run: Run) -> None:
    changes = {"train.early_stop": {"metric": "loss", "patience": 8}, "train.epochs": 3}
    result = run(changes)
    assert [line["epoch"] for line in metrics(result.run)] == [1, 2, 3]
    assert "the training ends here" not in (result.run / "train.log").read_text()


def test_only_measurements_count(run: Run) -> None:
    """With a validation every second epoch, those of epochs 2, 4 and 6."""
    result = run({**STOP, "validate.every": 2})
    assert [line["validation_loss"] is not None for line in metrics(result.run)] == [False, True] * 3


@pytest.mark.parametrize("stop", [{"step": 5}, {"step": 4}, {"epoch": 2}], ids=str)
def test_the_counter_of_early_stopping_survives_a_resume(run: Run, stop: dict[str, int]) -> None:
    with pytest.raises(Interrupted):
        run(STOP, observer=Signal(**stop))
    result = run(STOP, resume=True)
    assert [line["epoch"] for line in metrics(result.run)] == [1, 2, 3]


def test_a_training_that_stopped_early_stays_ended_unless_it_is_given_more_patience(run: Run) -> None:
    run(STOP)
    observer = Signal()
    run(STOP, resume=True, observer=observer)
    assert observer.seen == []
    patient = {"train.early_stop": {**STOP["train.early_stop"], "patience": 4}}
    result = run(patient, resume=True)
    assert [line["epoch"] for line in metrics(result.run)] == [1, 2, 3, 4, 5]


# A rate that falls

PLATEAU = {
    "train.schedule": {"name": "plateau", "metric": "loss", "factor": 0.5, "patience": 1, "min_delta": NEVER_BETTER},
    "train.epochs": 6,
}
RATES = [0.02, 0.02, 0.02, 0.01, 0.01, 0.005]
"""Epoch 1 is the best; after 3 and 5 nothing was better twice in a row."""


def test_the_rate_falls_when_nothing_gets_better(run: Run) -> None:
    result = run(PLATEAU)
    assert [line["lr"] for line in metrics(result.run)] == pytest.approx(RATES)
    assert (result.run / "train.log").read_text().count("the learning rate falls") == 2


@pytest.mark.parametrize("stop", [{"step": 5}, {"step": 6}, {"step": 7}, {"epoch": 3}], ids=str)
def test_a_rate_falls_in_a_resumed_run_as_in_one_that_was_never_stopped(run: Run, stop: dict[str, int]) -> None:
    with pytest.raises(Interrupted):
        run(PLATEAU, observer=Signal(**stop))
    result = run(PLATEAU, resume=True)
    assert [line["lr"] for line in metrics(result.run)] == pytest.approx(RATES)


# The moving average


def test_the_moving_average_is_validated_saved_and_exported(run: Run) -> None:
    result = run({"train.ema": 0.9, "train.epochs": 2, "train.iterations_per_epoch": 4})
    last, best = checkpoint(result.run), checkpoint(result.run, "best")
    average = {name.removeprefix("module."): v for name, v in last["average"].items() if name != "n_averaged"}
    assert int(last["average"]["n_averaged"]) == 8
    assert not same(average, last["network"])
    if result.best_epoch == 2:
        assert same(best["network"], average)
    assert not same(best["network"], last["network"])
    model = load_model(result.model)
    assert same({name: model.weights[name] for name in best["network"]}, best["network"])


def test_what_is_validated_in_a_training_with_a_moving_average_is_the_average(run: Run) -> None:
    """An average that hardly moves stays as bad as the first weights, however well the network itself learns."""
    plan = {"train.epochs": 1, "train.iterations_per_epoch": 80}
    slow, plain = (metrics(run({**plan, "train.ema": ema}, str(ema)).run)[-1] for ema in (0.999999, None))
    assert slow["loss"] == plain["loss"]  # the network itself is the same
    assert slow["validation_loss"] > plain["validation_loss"] + 0.3


# Other optimizers


@pytest.mark.parametrize("name", ["sgd", "adam", "novograd"])
def test_every_optimizer_trains_and_resumes_to_the_same_bits(run: Run, name: str) -> None:
    changes = {"train.optimizer": {"name": name, "lr": 0.01}, "train.epochs": 2, "validate.every": 2}
    whole = run(changes, "whole")
    with pytest.raises(Interrupted):
        run(changes, "stopped", observer=Signal(step=3))
    stopped = run(changes, "stopped", resume=True)
    assert same(checkpoint(whole.run)["network"], checkpoint(stopped.run)["network"])
    assert (whole.model / "weights.safetensors").read_bytes() == (stopped.model / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_run_with_several_rates_resumes_to_the_same_bits_and_records_them(run: Run, name: str) -> None:
    changes = {
        "train.optimizer": {"name": name, "lr": 0.01},
        "train.rates": [{"layers": "encoder*", "factor": 0.1}],
        "train.freeze": [{"layers": "encoder*", "epochs": 1}],
        "train.epochs": 2,
        "validate.every": 2,
    }
    whole = run(changes, "whole")
    with pytest.raises(Interrupted):
        run(changes, "stopped", observer=Signal(step=3))
    stopped = run(changes, "stopped", resume=True)
    first, again = checkpoint(whole.run), checkpoint(stopped.run)
    assert same(first["network"], again["network"])
    assert len(first["optimizer"]["param_groups"]) == 1
    log = (stopped.run / "train.log").read_text()
    assert "Layers that learn at another rate: encoder* at 0.1 times the rate (" in log
    for line in metrics(stopped.run):
        assert line["rates"] == {"encoder*": pytest.approx(0.1 * line["lr"])}
        assert f"lr {line['lr']:.2e}, encoder* {line['rates']['encoder*']:.2e}" in log
    assert "rates" not in (stopped.run / "metrics.csv").read_text()


def test_a_run_goes_on_with_other_rates_where_that_is_forced(run: Run) -> None:
    changes = {"train.optimizer": {"name": "adamw", "lr": 0.01}, "train.epochs": 2, "validate.every": 2}
    with pytest.raises(Interrupted):
        run(changes, observer=Signal(step=3))
    slower = {**changes, "train.rates": {"layers": "encoder*", "factor": 0.1}}
    with pytest.raises(UsageError, match=r"train\.rates"):
        run(slower, resume=True)
    result = run(slower, resume=True, force=True)
    assert metrics(result.run)[-1]["rates"]
    assert "without momentum" not in (result.run / "train.log").read_text()


# Checkpoints by time


def test_there_is_a_checkpoint_every_so_often_inside_of_an_epoch(run: Run, tmp_path: Path) -> None:
    seen: list[int] = []

    class Look(Observer):
        def step(self, step: Step) -> None:  # noqa: ARG002
            there = (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
            seen.append(checkpoint(tmp_path / "run")["progress"]["iteration"] if there else 0)

    run({"train.save_every": "0.001s", "train.epochs": 1, "train.iterations_per_epoch": 5}, observer=Look())
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("every", ["1h", None])
def test_else_there_is_one_after_every_epoch(run: Run, monkeypatch: pytest.MonkeyPatch, every: str | None) -> None:
    written: list[tuple[str, int]] = []
    original = keeper.save_checkpoint

    def save(path: Path, state: dict[str, Any], **more: Any) -> None:
        written.append((path.name, state["progress"]["iteration"]))
        original(path, state, **more)

    monkeypatch.setattr(keeper, "save_checkpoint", save)
    result = run({"train.save_every": every, "train.epochs": 3})
    last = [iteration for name, iteration in written if name == "last.pt"]
    assert last == [2, 4, 6]
    best = [line["iteration"] for line in metrics(result.run) if line["best"]]
    assert [iteration for name, iteration in written if name == "best.pt"] == best
    assert checkpoint(result.run, "previous")["progress"]["iteration"] == 4


# What a validation tells


def test_a_validation_gives_the_loss_and_the_best_may_be_decided_by_it(run: Run) -> None:
    result = run({"validate": {"every": 1, "metric": "validation_loss"}, "train.epochs": 3})
    lines = metrics(result.run)
    assert all(line["validation_loss"] > 0 for line in lines)
    least = min(lines, key=lambda line: line["validation_loss"])
    assert result.best_epoch == least["epoch"]
    assert checkpoint(result.run, "best")["progress"]["best"]["best"] == least["validation_loss"]


def test_an_observer_hears_the_speed_the_waiting_and_the_dice_of_the_last_validation(run: Run) -> None:
    observer = Signal()
    run({"train.epochs": 2, "train.iterations_per_epoch": 3}, observer=observer)
    assert [step.dice == {} for step in observer.seen] == [True] * 3 + [False] * 3
    assert all(0 <= step.wait_share <= 1 and step.iterations_per_second > 0 for step in observer.seen)
    assert all(step.patches_per_second == pytest.approx(2 * step.iterations_per_second) for step in observer.seen)
    assert [step.progress for step in observer.seen] == pytest.approx([n / 6 for n in range(1, 7)])
