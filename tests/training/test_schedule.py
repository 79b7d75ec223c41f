"""The learning rate is drawn over the whole training, by steps or by time; a plateau lowers it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from medunet.config.schema import Config
from medunet.config.training import ScheduleConfig, TrainConfig
from medunet.training import schedule
from medunet.training.progress import Progress
from medunet.training.schedule import Clock, learning_rate

SCHEDULES = ({"name": "poly"}, {"name": "poly", "power": 2.0}, {"name": "cosine"}, {"name": "constant"})


def made(data: dict[str, Any]) -> Any:
    return TypeAdapter(ScheduleConfig).validate_json(json.dumps(data))


def plan(**keys: Any) -> TrainConfig:
    return TrainConfig.model_validate_json(json.dumps({"epochs": 10, "iterations_per_epoch": 10, **keys}))


@pytest.mark.parametrize("data", SCHEDULES, ids=str)
@given(st.data())
def test_rates_fall_from_the_base_to_zero_and_never_leave_that_range(data: dict[str, Any], draw: st.DataObject) -> None:
    warmup = draw.draw(st.sampled_from([0.0, 0.1, 0.5]))
    config = made({**data, "warmup": warmup})
    early, late = sorted(draw.draw(st.tuples(*[st.floats(0, 1.2)] * 2)))
    one, two = learning_rate(config, 0.1, early), learning_rate(config, 0.1, late)
    assert 0 <= one <= 0.1
    assert 0 <= two <= 0.1
    if early >= warmup:
        assert two <= one + 1e-12
    if late < warmup:
        assert two >= one
    assert learning_rate(config, 0.1, warmup) == pytest.approx(0.1)
    assert learning_rate(config, 0.1, 1.0) == pytest.approx(0.1 if data["name"] == "constant" else 0, abs=1e-12)


@given(
    st.floats(0.05, 0.95), st.floats(0.01, 1), st.floats(0, 0.5), st.lists(st.floats(0, 1.2), min_size=2, max_size=5)
)
def test_one_cycle_rises_to_the_base_and_falls_again(
    rise: float, start: float, end: float, moments: list[float]
) -> None:
    config = made({"name": "one_cycle", "rise": rise, "start_factor": start, "end_factor": end})
    assert learning_rate(config, 0.1, 0.0) == pytest.approx(0.1 * start)
    assert learning_rate(config, 0.1, rise) == pytest.approx(0.1)
    assert learning_rate(config, 0.1, 1.0) == pytest.approx(0.1 * end)
    assert learning_rate(config, 0.1, 1.5) == pytest.approx(0.1 * end)  # a budget that was passed
    rates = [(moment, learning_rate(config, 0.1, moment)) for moment in sorted(moments)]
    for (early, one), (late, two) in itertools.pairwise(rates):
        assert one <= two + 1e-12 if late < rise else (early < rise or two <= one + 1e-12)


def test_one_cycle_is_that_of_torch() -> None:
    """But for the last step of its rise, which torch counts otherwise."""
    total = 2000
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=total, cycle_momentum=False)
    ours = made({"name": "one_cycle"})
    for step in range(total):
        assert learning_rate(ours, 0.1, step / total) == pytest.approx(theirs.get_last_lr()[0], abs=3e-4)
        optimizer.step()
        if step + 1 < total:
            theirs.step()


SIXTEENTHS = st.integers(-40, 40).map(lambda number: number / 16)  # exact in floating point, whatever is subtracted


@given(
    st.sampled_from(["validation_loss", "dice"]),
    st.lists(SIXTEENTHS, max_size=40),
    st.integers(0, 4),
    st.integers(0, 8).map(lambda number: number / 16),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from([0.0, 0.01, 0.5]),
)
def test_a_plateau_is_that_of_torch(
    metric: str, values: list[float], patience: int, min_delta: float, factor: float, min_lr: float
) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode="min" if metric == "validation_loss" else "max",
        factor=factor,
        patience=patience,
        threshold=min_delta,
        threshold_mode="abs",
        min_lr=min_lr,
        eps=0.0,
    )
    schedule = {"name": "plateau", "metric": metric, "factor": factor, "patience": patience, "min_delta": min_delta}
    train = {"schedule": {**schedule, "min_lr": min_lr}, "optimizer": {"name": "sgd", "lr": 0.1}}
    config = Config.model_validate_json(json.dumps({"name": "t", "labels": {"background": 0, "a": 1}, "train": train}))
    progress = Progress()
    for epoch, value in enumerate(values, start=1):
        theirs.step(value)
        progress.judge({metric: value}, epoch, config)
        found = learning_rate(config.train.schedule, 0.1, epoch / 50, progress.lowered)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        progress = Progress.from_state(asdict(progress))  # what a resumed run starts with


def test_a_plateau_may_have_a_warm_up() -> None:
    config = made({"name": "plateau", "warmup": 0.2, "factor": 0.5})
    rates = [learning_rate(config, 0.1, moment, lowered) for moment, lowered in ((0.1, 0), (0.5, 0), (0.9, 3))]
    assert rates == pytest.approx([0.05, 0.1, 0.0125])


def test_only_a_plateau_lowers_the_rate() -> None:
    for data in (*SCHEDULES, {"name": "one_cycle"}):
        assert learning_rate(made(data), 0.1, 0.4, 3) == learning_rate(made(data), 0.1, 0.4)
    assert math.isclose(learning_rate(made({"name": "plateau", "factor": 0.5}), 0.1, 0.4, 3), 0.0125)


def test_poly_is_that_of_nnunet() -> None:
    assert learning_rate(made({"name": "poly"}), 0.01, 0.25) == pytest.approx(0.01 * 0.75**0.9)


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    now = Time()
    monkeypatch.setattr(schedule.time, "monotonic", now)
    return now


def test_without_a_budget_steps_decide(clock_time: Time) -> None:
    clock = Clock(plan())
    assert clock.remaining(0) is None
    clock_time.now += 20
    assert clock.progress(50) == 0.5
    assert clock.remaining(50) == pytest.approx(20)
    assert clock.progress(100) == 1.0


def test_with_a_budget_the_sooner_end_decides(clock_time: Time) -> None:
    clock = Clock(plan(budget="100s"))
    clock_time.now += 60
    assert clock.progress(10) == pytest.approx(0.6)
    assert clock.progress(90) == pytest.approx(0.9)
    assert clock.remaining(10) == pytest.approx(40)
    clock_time.now += 60
    assert clock.progress(10) > 1
    assert clock.remaining(10) == 0


def test_a_resumed_clock_goes_on(clock_time: Time) -> None:
    clock = Clock(plan(budget="1min"), elapsed=30)
    clock_time.now += 15
    assert clock.elapsed == pytest.approx(45)
    assert clock.progress(0) == pytest.approx(0.75)
