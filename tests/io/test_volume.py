"""Images and masks in memory."""

from __future__ import annotations

import numpy as np
import pytest

from medunet.errors import DataError
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation, Volume
from medunet.labels import LabelMap

GRID = Geometry.plain((4, 5, 10), (10.0, 10.0, 10.0))  # a voxel is a millilitre


def test_a_volume_is_that_of_the_label_and_what_lies_inside() -> None:
    labels = LabelMap.from_mapping({"background": 0, "core": [2, 3], "whole": [1, 2, 3], "enhancing": 3, "ignore": 9})
    array = np.zeros(GRID.shape, np.uint8)
    array[0], array[1], array[2, :2], array[3] = 2, 1, 3, 255
    found = Segmentation(array, GRID, labels).volumes_ml()
    assert found == {"core": 50 + 20, "whole": 50 + 50 + 20, "enhancing": 20}


@pytest.mark.parametrize("count", [3, 300])
def test_ignored_voxels_have_no_volume(count: int) -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"l{n}": n for n in range(1, count)}, "ignore": -1})
    array = np.full(GRID.shape, labels.ignore_index, labels.index_dtype)
    array[0] = count - 1
    found = Segmentation(array, GRID, labels).volumes_ml()
    assert found.pop(f"l{count - 1}") == 50
    assert set(found.values()) == {0}


def test_an_array_that_does_not_fit_its_grid_is_refused() -> None:
    labels = LabelMap.from_mapping({"background": 0, "liver": 1})
    with pytest.raises(DataError, match="does not fit a grid of 4x5x10"):
        Segmentation(np.zeros((4, 5, 9), np.uint8), GRID, labels)
    with pytest.raises(DataError, match="does not fit a grid of 4x5x10"):
        Volume(np.zeros((4, 5, 10)), GRID)
