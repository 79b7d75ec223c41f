"""What is counted of a structure in a mask: voxels, pieces, and whether the image cuts it off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medunet.io import structures
from medunet.io.structures import Extent, dimmest, extents


def mask(*boxes: tuple[int, tuple[slice, ...]], shape: tuple[int, ...] = (40, 30, 20)) -> NDArray[Any]:
    array = np.zeros(shape, np.uint8)
    for value, box in boxes:
        array[box] = value
    return array


CUBE = (slice(5, 15), slice(5, 15), slice(5, 15))
FAR = (slice(20, 25), slice(20, 25), slice(5, 15))


def test_pieces_voxels_and_border_are_counted() -> None:
    array = mask((1, CUBE), (1, FAR), (2, (slice(30, 40), slice(2, 4), slice(2, 4))))
    assert extents(array, [[1], [2], [3]]) == [Extent(1250, 2, False), Extent(40, 1, True), None]


def test_an_empty_mask_has_no_structure() -> None:
    assert extents(mask(), [[1], [2]]) == [None, None]


def test_a_structure_of_several_values_is_one() -> None:
    array = mask((3, CUBE), (200, (slice(8, 10), slice(8, 10), slice(8, 10))))
    assert extents(array, [[3, 200], [200], [3]]) == [
        Extent(1000, 1, False),
        Extent(8, 1, False),
        Extent(992, 1, False),
    ]


def test_specks_below_one_percent_are_no_pieces() -> None:
    array = mask((1, CUBE), (1, (slice(30, 31), slice(20, 23), slice(18, 19))))
    assert extents(array, [[1]])[0] == Extent(1003, 1, False)
    array[30:32, 20:23, 17:19] = 1
    assert extents(array, [[1]])[0] == Extent(1012, 2, False)


def test_pieces_are_connected_through_corners() -> None:
    array = mask((1, (slice(5, 8), slice(5, 8), slice(5, 8))), (1, (slice(8, 11), slice(8, 11), slice(8, 11))))
    assert extents(array, [[1]])[0] == Extent(54, 1, False)


@pytest.mark.parametrize("side", [0, -1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_side_of_the_image_is_a_border(axis: int, side: int) -> None:
    array = mask((1, CUBE))
    assert not extents(array, [[1]])[0].at_border
    np.moveaxis(array, axis, 0)[side, 8, 8] = 1
    assert extents(array, [[1]])[0].at_border


def test_an_axis_of_one_voxel_has_no_border() -> None:
    assert extents(mask((1, (slice(5, 9), slice(5, 9), slice(0, 1))), shape=(20, 20, 1)), [[1]]) == [
        Extent(16, 1, False)
    ]


@pytest.mark.parametrize("value", [1, 65_535, 70_000, 2**31 - 1, -3])
def test_any_value_can_mean_a_structure(value: int) -> None:
    array = mask((1, CUBE), (1, FAR)).astype(np.int32) * value
    assert extents(array, [[value]]) == [Extent(1250, 2, False)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_integers_of_any_size_and_order_in_memory_give_the_same(dtype: Any) -> None:
    array = mask((1, CUBE), (2, FAR)).astype(dtype)
    wanted = [Extent(1000, 1, False), Extent(250, 1, False)]
    for stored in (array, np.asfortranarray(array), array[::-1, :, ::-1], array.transpose(1, 2, 0)):
        assert extents(stored, [[1], [2]]) == wanted


def test_pictures_have_two_axes() -> None:
    assert extents(mask((1, CUBE[:2]), shape=(40, 30)), [[1]]) == [Extent(100, 1, False)]


def test_large_structures_are_looked_at_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    array = mask((1, CUBE), (1, FAR), (2, (slice(33, 40), slice(1, 4), slice(1, 4))))
    array[15, 10, 10] = 1
    fine = extents(array, [[1], [2]])
    monkeypatch.setattr(structures, "_MOST_VOXELS", 500)
    assert extents(array, [[1], [2]]) == fine == [Extent(1251, 2, False), Extent(63, 1, True)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_dimmest_structure_is_found(order: Any) -> None:
    array = np.asarray(mask((1, CUBE), (2, FAR), (9, (slice(0, 2),))), order=order)
    image = np.full(array.shape, -1000, np.int16)
    image[array == 1] = 40
    image[array == 2] = np.random.default_rng(0).integers(-200, 0, int((array == 2).sum()))
    low = float(np.percentile(image[array == 2], 5))
    assert dimmest(image, array, [[1], [2]]) == pytest.approx(low, abs=4)
    assert dimmest(image, array, [[1]]) == pytest.approx(40, abs=2)
    assert dimmest(image, array, [[1, 2]]) == pytest.approx(np.percentile(image[np.isin(array, [1, 2])], 5), abs=4)
    assert dimmest(image, array, [[3]]) == float("inf")


def test_a_few_voxels_of_gas_do_not_make_a_structure_dim() -> None:
    array, image = mask((1, CUBE)), np.full((40, 30, 20), 50.0, np.float32)
    image[5, 5, 5:12] = -1000
    assert dimmest(image, array, [[1]]) == pytest.approx(50, abs=2)
    assert dimmest(np.full((40, 30, 20), 7.0), array, [[1]]) == pytest.approx(7)
