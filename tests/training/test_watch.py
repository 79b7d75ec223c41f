"""What counts as better, and for how long nothing did."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.training.watch import Watch

NOTHING = [None, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("metric", ["loss", "validation_loss"])
def test_a_loss_shall_fall(metric: str) -> None:
    watch = Watch()
    found = [watch.note(metric, {metric: value}) for value in (1.0, 0.5, 0.5, 0.6, 0.4)]
    assert found == [True, True, False, False, True]
    assert (watch.best, watch.since) == (0.4, 0)


@pytest.mark.parametrize("metric", ["dice", "dice/loss"])
def test_anything_else_shall_rise(metric: str) -> None:
    watch = Watch()
    assert [watch.note(metric, {metric: value}) for value in (0.5, 0.6, 0.6, 0.4)] == [True, True, False, False]
    assert (watch.best, watch.since) == (0.6, 2)


def test_a_small_gain_is_none_and_does_not_raise_the_bar() -> None:
    watch = Watch()
    values = [0.5, 0.55, 0.59, 0.61]
    assert [watch.note("dice", {"dice": value}, 0.1) for value in values] == [True, False, False, True]


@pytest.mark.parametrize("value", NOTHING)
def test_what_was_not_measured_or_is_no_number_changes_nothing(value: float | None) -> None:
    """A first value of NaN would otherwise be the best for ever."""
    watch = Watch()
    assert not watch.note("dice", {"dice": value})
    assert watch == Watch()
    watch.note("dice", {"dice": 0.5})
    watch.note("dice", {"dice": 0.4})
    before = (watch.best, watch.since)
    assert not watch.note("dice", {"dice": value})
    assert not watch.note("dice", {"loss": 0.1})
    assert (watch.best, watch.since) == before


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=30))
def test_the_best_is_the_largest_and_since_counts_what_came_after_it(values: list[float | None]) -> None:
    watch = Watch()
    for value in values:
        watch.note("dice", {"dice": value})
    known = [value for value in values if value is not None and math.isfinite(value)]
    if known:
        assert watch.best == max(known)
        assert watch.since == len(known) - 1 - known.index(max(known))
    else:
        assert watch == Watch()
