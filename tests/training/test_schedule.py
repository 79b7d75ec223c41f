"""The learning rate is drawn over the whole training, by steps or by time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from medunet.config.schema import ScheduleConfig, TrainConfig
from medunet.training import schedule
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
