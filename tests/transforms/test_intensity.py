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

from medunet.config.schema import (
    IntensityCtWindow,
    IntensityFixed,
    IntensityImageNet,
    IntensityNone,
    IntensityPercentile,
    IntensityZScore,
)
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


# the same figures for every image


@pytest.mark.parametrize(("scale", "white"), [(255.0, 255), (65535.0, 65535), (1.0, 1)])
def test_fixed_figures_are_those_of_values_from_0_to_1(scale: float, white: int) -> None:
    rule = IntensityFixed(name="fixed", scale=scale, mean=0.25, std=0.5)
    found = fitted(rule, parts_of(np.zeros((1, 1))))(np.asarray([0, white], np.float32))
    np.testing.assert_allclose(found, [-0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        (3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (1, [0.449], [0.226]),
        (4, [0.485, 0.456, 0.406, 0.485], [0.229, 0.224, 0.225, 0.229]),
    ],
)
def test_imagenet_has_the_figures_of_torchvision_for_each_channel(
    channels: int, mean: list[float], std: list[float]
) -> None:
    """`Normalize(mean, std)` after `ToTensor`, which divides by 255."""
    values = np.arange(0, 256, 15, dtype=np.float32)
    for channel in range(channels):
        found = fitted(IntensityImageNet(name="imagenet"), parts_of(values), channel, channels)(values)
        np.testing.assert_allclose(found, (values / 255 - mean[channel]) / std[channel], atol=2e-6)


def test_a_picture_of_16_bits_is_normalised_as_one_of_8_with_its_own_white() -> None:
    values = np.arange(0, 256, 15, dtype=np.float32)
    eight = fitted(IntensityImageNet(name="imagenet"), parts_of(values))(values)
    sixteen = fitted(IntensityImageNet(name="imagenet", scale=65535), parts_of(values))(values * np.float32(257))
    np.testing.assert_allclose(sixteen, eight, atol=1e-5)


def test_fixed_figures_look_at_no_image() -> None:
    def never() -> Iterator[NDArray[np.float32]]:
        raise AssertionError

    for rule in (IntensityFixed(name="fixed"), IntensityImageNet(name="imagenet")):
        assert fitted(rule, never)(np.zeros(3, np.float32)).shape == (3,)
