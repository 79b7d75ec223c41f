"""Outlines give exactly the mask back to whoever fills them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from medunet.export.dicom.contours import outlines

Winding = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(max_examples=300)
@given(mask=MASKS)
def test_filling_the_outlines_gives_the_mask(winding: Winding, mask: np.ndarray) -> None:
    polygons = outlines(mask)
    filled = sum((winding(polygon, mask.shape) for polygon in polygons), np.zeros(mask.shape, dtype=int))
    assert np.array_equal(filled, mask)  # by the rule of winding numbers as by that of even and odd crossings


@given(mask=MASKS)
def test_there_is_one_polygon_per_region_on_pixel_edges(mask: np.ndarray) -> None:
    polygons = outlines(mask)
    assert len(polygons) == ndimage.label(mask)[1]
    for polygon in polygons:
        assert (np.abs(polygon % 1) == 0.5).all()
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps != 0).sum(axis=1) == 1).all()  # along an axis, and never in place


def test_a_single_pixel_is_a_square_and_a_bar_has_four_corners() -> None:
    mask = np.zeros((4, 9), dtype=bool)
    mask[2, 3] = True
    (square,) = outlines(mask)
    assert sorted(map(tuple, square)) == [(1.5, 2.5), (1.5, 3.5), (2.5, 2.5), (2.5, 3.5)]
    mask[2, 1:8] = True
    (bar,) = outlines(mask)
    assert len(bar) == 4


@pytest.mark.parametrize("holes", [1, 3])
def test_a_plate_with_holes_is_one_polygon(winding: Winding, holes: int) -> None:
    mask = np.ones((9, 4 * holes + 1), dtype=bool)
    mask[3:6, 2::4] = False
    (polygon,) = outlines(mask)
    assert np.array_equal(winding(polygon, mask.shape), mask)
