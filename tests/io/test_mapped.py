"""Arrays on the disk keep what was written when their memory is given back; blocks are all of an array, in order."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medunet.io.mapped import blocks, is_mapped, let_go, mapped_zeros


def test_what_was_let_go_of_is_still_there(tmp_path: Path) -> None:
    array = mapped_zeros(tmp_path, (40, 1 << 20), np.uint8)
    assert not array.any()
    before = psutil.Process().memory_info().rss
    array[...] = np.arange(40, dtype=np.uint8)[:, None]
    let_go(array.T[3:, 2:])  # a view will do
    if sys.platform == "linux":
        assert psutil.Process().memory_info().rss - before < 20e6
    assert (array[:, 7] == np.arange(40)).all()
    assert list(tmp_path.iterdir()) == []


def test_maps_of_others_are_left_alone(tmp_path: Path) -> None:
    """What was changed in a copy-on-write map, as nibabel's are, is nowhere but in memory."""
    (tmp_path / "a").write_bytes(bytes(100))
    array = np.memmap(tmp_path / "a", np.uint8, "c")
    array[3] = 7
    let_go(array)
    assert array[3] == 7
    assert not is_mapped(array)
    assert not is_mapped(np.zeros(3))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 40), st.randoms())
def test_blocks_are_all_of_an_array_once(shape: list[int], most: int, random: Random) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)
    array = np.arange(np.prod(shape)).reshape(shape).transpose(axes)
    parts = list(blocks(array, most))
    assert np.concatenate([part.ravel(order="K") for part in parts]).tolist() == list(range(array.size))


def test_a_disk_without_room_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"[Nn]o space|too large"):
        mapped_zeros(tmp_path, (1 << 60,), np.uint8)
