"""The mirror at the border is that of numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.mirror import mirrored


@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 60))
def test_outside_is_what_numpy_reflects_however_far(size: int, before: int, after: int) -> None:
    axis = np.arange(size)
    expected = np.pad(axis, (before, after), mode="reflect")
    np.testing.assert_array_equal(axis[mirrored(-before, size + after, size)], expected)


@pytest.mark.parametrize(
    ("first", "stop", "size", "seen"),
    [
        (0, 4, 4, [0, 1, 2, 3]),
        (-3, 6, 4, [3, 2, 1, 0, 1, 2, 3, 2, 1]),
        (9, 13, 3, [1, 2, 1, 0]),
        (-2, 2, 1, [0, 0, 0, 0]),
        (-3, 3, 2, [1, 0, 1, 0, 1, 0]),
        (2, 2, 5, []),
    ],
)
def test_the_edge_is_not_repeated(first: int, stop: int, size: int, seen: list[int]) -> None:
    assert mirrored(first, stop, size).tolist() == seen
