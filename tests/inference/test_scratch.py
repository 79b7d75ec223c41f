"""Arrays on the disk: zeros, no name, no room is a sentence."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from medunet.errors import OutputError
from medunet.inference.scratch import Scratch
from medunet.io.mapped import is_mapped


@pytest.mark.parametrize("on_disk", [True, False])
def test_an_array_is_zeros_that_can_be_filled(tmp_path: Path, on_disk: bool) -> None:
    scratch = Scratch(tmp_path if on_disk else None)
    array = scratch.zeros((2, 3, 500))
    assert (array.shape, array.dtype) == ((2, 3, 500), np.float32)
    assert not array.any()
    array[1] = 7
    scratch.let_go()
    assert (array[1] == 7).all()
    assert not array[0].any()
    assert list(tmp_path.iterdir()) == []  # it has no name that could be left behind
    assert is_mapped(array) == on_disk


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="room is reserved with posix_fallocate")
def test_a_full_disk_is_told_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"has no room for 4\.0 GB of masks or probabilities: No space left"):
        Scratch(tmp_path).zeros((1000, 1000, 1000))
