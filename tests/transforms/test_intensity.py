"""Rules of intensity, fitted to an image that is seen part by part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from medunet.config.schema import IntensityCtWindow, IntensityNone, IntensityPercentile, IntensityZScore
from medunet.transforms.intensity import fitted

Parts = Callable[[], Iterator[NDArray[np.float32]]]


def parts_of(array: NDArray[Any]) -> Parts:
    """One part per row, each in memory of its own."""
    return lambda: (row.astype(np.float32) for row in array)


def standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return (values - values.mean()) / max(values.std(), 1e-8)


WHOLE = arrays.arrays(np.int32, (5, 7), elements=st.integers(-1024, 3000))
REAL = arrays.arrays(np.float32, (5, 7), elements=st.floats(-1000, 1000, width=32))


@given(WHOLE | REAL, st.floats(0, 40), st.floats(60, 100))
def test_percentiles_are_those_of_all_values_whether_counted_or_sorted(
    array: NDArray[Any], low: float, high: float
) -> None:
    values = array.astype(np.float64)
    expected = standardised(np.clip(values, *np.percentile(values, [low, high])))
    rule = IntensityPercentile(name="percentile", low=low, high=high)
    found = fitted(rule, parts_of(array))(array.astype(np.float32))
    if np.ptp(np.clip(values, *np.percentile(values, [low, high]))) > 1e-3 * max(1, np.abs(values).max()):
        np.testing.assert_allclose(found, expected, atol=2e-3)
    assert found.dtype == np.float32


@given(WHOLE | REAL)
def test_a_z_score_has_mean_0_and_deviation_1(array: NDArray[Any]) -> None:
    if np.ptp(array) > 1:
        found = fitted(IntensityZScore(name="zscore"), parts_of(array))(array.astype(np.float32))
        np.testing.assert_allclose(found, standardised(array.astype(np.float64)), atol=2e-3)


def test_what_is_0_stays_0_and_counts_for_nothing() -> None:
    array = np.array([[0, 0, 4, 6], [0, 8, 2, 0]])
    found = fitted(IntensityZScore(name="zscore", nonzero=True), parts_of(array))(array.astype(np.float32))
    assert (found[array == 0] == 0).all()
    np.testing.assert_allclose(found[array != 0], standardised(np.array([4.0, 6, 8, 2])), rtol=1e-6)
    empty = fitted(IntensityZScore(name="zscore", nonzero=True), parts_of(0 * array))
    assert not empty(np.zeros((2, 3), np.float32)).any()


def test_windows_and_raw_values_ask_for_no_part() -> None:
    def never() -> Iterator[NDArray[np.float32]]:
        pytest.fail("read")

    values = np.array([-500, 40, 900], np.float32)
    window = fitted(IntensityCtWindow(name="ct_window", low=-160, high=240), never)
    np.testing.assert_allclose(window(values.copy()), [0, 0.5, 1])
    np.testing.assert_array_equal(fitted(IntensityNone(name="none"), never)(values), values)
