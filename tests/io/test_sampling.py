"""Labels between voxels: what interpolating every label by itself would give, without doing so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from medunet.io.sampling import labels_at


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_the_label_is_the_one_with_the_largest_share(seed: int, labels: int) -> None:
    random = np.random.default_rng(seed)
    array = random.integers(0, labels + 1, random.integers(1, 6, 3)).astype(np.uint8)
    where = random.uniform(-1.5, np.asarray(array.shape)[:, None] + 0.5, (3, 50))
    padded = np.pad(array, 2)
    shares = np.stack(
        [map_coordinates((padded == label).astype(float), where + 2, order=1) for label in range(labels + 1)]
    )
    found = labels_at(array, where)
    chosen = np.take_along_axis(shares, found[None].astype(int), axis=0)[0]
    assert chosen == pytest.approx(shares.max(axis=0), abs=1e-5)
    assert found.dtype == array.dtype


def test_voxel_centres_have_their_own_label_also_after_rounding() -> None:
    array = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    where = np.indices(array.shape).reshape(3, -1).astype(float)
    assert np.array_equal(labels_at(array, where + 9e-4), array.ravel())
    assert not labels_at(array, where + 10).any()
