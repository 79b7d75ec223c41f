"""A box of a blocked array is the box of the array, and touches its blocks only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.training.blocks import DEEP, FLAT, PLANE, BlockedArray, block_limit, to_blocks


@st.composite
def boxed(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], tuple[int, ...], tuple[slice, ...]]:
    """An array (C, *S), the largest block, a box of it."""
    rank = draw(st.integers(2, 3))
    shape = tuple(draw(st.integers(1, 13)) for _ in range(rank))
    limit = tuple(draw(st.integers(1, 7)) for _ in range(rank))
    array = np.arange(2 * np.prod(shape), dtype=np.float32).reshape(2, *shape)
    box = [slice(draw(st.sampled_from([None, 1])), None)]
    for size in shape:
        start = draw(st.integers(0, size))
        box.append(slice(start, draw(st.integers(start, size))))
    return array, limit, tuple(box)


@given(boxed())
def test_a_box_is_that_of_the_array(case: tuple[Any, Any, Any]) -> None:
    array, limit, box = case
    blocked = BlockedArray(to_blocks(array, limit), array.shape[1:])
    assert blocked.shape == array.shape
    assert blocked.dtype == array.dtype
    assert all(size <= most for size, most in zip(blocked.limit, limit, strict=True))
    np.testing.assert_array_equal(blocked[box], array[box])
    np.testing.assert_array_equal(blocked.whole(), array)


def test_blocks_are_equal_and_hardly_filled_up() -> None:
    blocks = to_blocks(np.ones((3, 35, 51, 35), np.float32), DEEP)
    assert blocks.shape == (2, 2, 2, 3, 18, 26, 18)
    assert blocks.flags.c_contiguous
    assert blocks.sum() == 3 * 35 * 51 * 35


class Watched:
    """Blocks that remember which of them were read."""

    def __init__(self, blocks: Any) -> None:
        self.blocks, self.read = blocks, []
        self.shape, self.ndim, self.dtype = blocks.shape, blocks.ndim, blocks.dtype

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return self.blocks[index]


def test_only_the_blocks_that_are_met_are_read() -> None:
    array = np.random.default_rng(0).random((1, 40, 40, 40), np.float32)
    blocks = Watched(to_blocks(array, (10, 10, 10)))
    BlockedArray(blocks, (40, 40, 40))[:, 5:12, 20:30, 39:40]  # type: ignore[arg-type]
    assert blocks.read == [(0, 2, 3), (1, 2, 3)]


def test_the_largest_block_suits_what_is_read() -> None:
    assert block_limit(3, flat=False) == DEEP
    assert block_limit(3, flat=True) == FLAT
    assert block_limit(2, flat=False) == block_limit(2, flat=True) == PLANE


@pytest.mark.parametrize(
    "blocks",
    [np.zeros((2, 2, 2)), np.zeros((2, 2, 1, 3, 3)), np.zeros((1, 2, 1, 3, 0)), np.zeros((3, 2, 1, 4, 4))],
    ids=str,
)
def test_blocks_of_another_image_are_refused(blocks: Any) -> None:
    with pytest.raises(ValueError, match="cannot be an image"):
        BlockedArray(blocks, (8, 9))
