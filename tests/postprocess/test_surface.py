"""Smooth surfaces, in millimetres."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.postprocess import SmoothConfig
from medunet.labels import LabelMap
from medunet.postprocess import components, postprocess

LABELS = LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": 2, "organ": 3})
WHOLE, CORE, ORGAN = 1, 2, 3


def smooth(array: NDArray[Any], mm: float, spacing: tuple[float, ...], label: str = "whole") -> NDArray[Any]:
    result = array.copy()
    postprocess(result, [SmoothConfig(name="smooth", label=label, mm=mm)], LABELS, spacing)
    return result


def ball(shape: tuple[int, ...], spacing: tuple[float, ...], radius_mm: float) -> NDArray[np.bool_]:
    axes = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij"
    )
    return sum(axis**2 for axis in axes) < radius_mm**2  # type: ignore[no-any-return]


@settings(deadline=None)
@given(
    st.integers(0, 1000),
    array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=12),
    st.lists(st.sampled_from([0.5, 1.0, 2.7]), min_size=3, max_size=3),
    st.floats(0.3, 2.5),
    st.integers(1, 60),
)
def test_a_surface_by_slabs_is_that_of_the_whole(
    seed: int, shape: tuple[int, ...], mm: list[float], sigma: float, voxels: int
) -> None:
    rng = np.random.default_rng(seed)
    array = ndimage.zoom(rng.integers(0, 4, [-(-n // 3) for n in shape], np.uint8), 3, order=0)[
        tuple(slice(n) for n in shape)
    ]
    spacing = tuple(mm[: array.ndim])
    at_once = smooth(array, sigma, spacing)
    with patch.object(components, "AT_ONCE", voxels):
        np.testing.assert_array_equal(smooth(array, sigma, spacing), at_once)
    mask = np.isin(array, (WHOLE, CORE))
    share = ndimage.gaussian_filter(mask.astype(float), [sigma / s for s in spacing], mode="nearest", truncate=4)
    sure = abs(share - 0.5) > 1e-5
    expected = np.where(mask & (share < 0.5), 0, np.where(~mask & (share > 0.5) & (array == 0), WHOLE, array))
    np.testing.assert_array_equal(at_once[sure], expected[sure])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 3.0), (2.0, 0.7, 1.1)])
def test_steps_and_spurs_go_and_the_ball_stays(spacing: tuple[float, ...]) -> None:
    shape = tuple(round(60 / mm) for mm in spacing)
    smooth_ball = ball(shape, spacing, 20)
    rough = (smooth_ball ^ (np.random.default_rng(0).random(shape) < 0.05)).astype(np.uint8)
    result = smooth(rough, 1.5, spacing)
    assert (result != smooth_ball).sum() < 0.25 * (rough != smooth_ball).sum()
    assert abs(int(result.sum()) - int(smooth_ball.sum())) < 0.03 * smooth_ball.sum()


def test_the_width_is_in_millimetres_along_every_axis() -> None:
    """A spur of 4 mm goes with a sigma of 4 mm, whichever axis has the thick slices; one of 12 mm stays."""
    for axis, mm in ((0, 1.0), (1, 1.0), (0, 4.0), (1, 4.0)):
        spacing = tuple(mm if other == axis else 1.0 for other in range(2))
        for width, stays in ((4, False), (12, True)):
            array = np.zeros([round(64 / s) for s in spacing], np.uint8)
            across = np.moveaxis(array, axis, 0)  # a plate across that axis
            across[round(24 / mm) : round((24 + width) / mm)] = 1
            assert smooth(array, 4.0, spacing).any() == stays


@pytest.mark.parametrize("rank", [2, 3])
def test_the_edge_of_the_image_rounds_nothing_off(rank: int) -> None:
    array = np.zeros((16,) * rank, np.uint8)
    array[:8] = 1
    np.testing.assert_array_equal(smooth(array, 3.0, (1.0,) * rank), array)
    np.testing.assert_array_equal(smooth(np.ones_like(array), 3.0, (1.0,) * rank), np.ones_like(array))


def test_what_is_gained_replaces_no_other_structure_and_what_is_lost_falls_back() -> None:
    array = np.zeros((24, 24), np.uint8)
    array[4:20, 4:20] = WHOLE
    array[11:13, 4:6] = 0  # a notch that is closed
    array[11:13, 18:20] = ORGAN  # one that somebody else is in
    array[15, 20:23] = WHOLE  # a spur
    array[15, 21] = CORE
    result = smooth(array, 2.0, (1.0, 1.0))
    assert (result[11:13, 5] == WHOLE).all()
    assert (result[11:13, 18:20] == ORGAN).all()
    assert not result[15, 21:23].any()


def test_an_inner_structure_takes_from_what_is_around_it_and_gives_back_to_it() -> None:
    array = np.zeros((30, 30), np.uint8)
    array[2:28, 2:28] = WHOLE
    array[8:20, 8:20] = CORE
    array[13:15, 8:10] = WHOLE
    array[12, 20:24] = CORE
    result = smooth(array, 1.5, (1.0, 1.0), "core")
    assert (result[13:15, 9] == CORE).all()
    assert (result[12, 21:24] == WHOLE).all()
    np.testing.assert_array_equal(result > 0, array > 0)


def test_a_spot_below_one_and_a_half_sigma_vanishes_as_the_reference_says() -> None:
    spacing = (0.5, 0.5, 0.5)
    for radius, stays in ((5.5, False), (6.8, True)):  # 1.54 sigma is 6.2
        array = ball((48, 48, 48), spacing, radius).astype(np.uint8)
        assert smooth(array, 4.0, spacing).any() == stays


@pytest.mark.parametrize("rank", [2, 3])
def test_a_structure_that_is_absent_stays_absent(rank: int) -> None:
    array = np.full((6,) * rank, ORGAN, np.uint8)
    np.testing.assert_array_equal(smooth(array, 2.0, (1.0,) * rank), array)
