"""Objects that touch: cut where the probability dips far enough, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.postprocess import WatershedConfig
from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.postprocess import WORKING_BYTES, needed_heights, postprocess
from medunet.postprocess.watershed import cuts

LABELS = LabelMap.from_mapping({"background": 0, "cell": 1, "other": 2})
NESTED = LabelMap.from_mapping({"background": 0, "whole": [1, 2], "core": 2})


def step(depth: float, label: str = "cell") -> WatershedConfig:
    return WatershedConfig(name="watershed", label=label, depth=depth)


def run(
    array: NDArray[Any], likely: NDArray[Any], depth: float, labels: LabelMap = LABELS, label: str = "cell"
) -> NDArray[Any]:
    result = array.copy()
    heights = {labels.names.index(label): np.round(likely * 255).astype(np.uint8)}
    postprocess(result, [step(depth, label)], labels, (1.0,) * array.ndim, heights)
    return result


def parts(mask: NDArray[np.bool_]) -> int:
    """How many there are, corners connected."""
    return int(ndimage.label(mask, np.ones((3,) * mask.ndim))[1])


def two_discs(rank: int, middle: float) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Two objects side by side, and a probability that dips to `middle` between them."""
    array = np.zeros((9,) * (rank - 1) + (24,), np.uint8)
    array[(slice(1, 8),) * (rank - 1) + (slice(1, 23),)] = 1
    profile = np.full(24, 0.9)
    profile[11:13] = middle
    return array, np.broadcast_to(profile, array.shape) * (array > 0)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_dip_of_the_depth_cuts_and_a_shallower_one_does_not(rank: int) -> None:
    array, likely = two_discs(rank, 0.6)
    cut = run(array, likely, 0.3)
    assert parts(cut == 1) == 2
    gone = np.argwhere(cut != array)
    assert set(gone[:, -1]) <= {11, 12}
    assert len(gone) == 7 ** (rank - 1)  # one voxel wide
    np.testing.assert_array_equal(run(array, likely, 0.31), array)
    flat, plateau = two_discs(rank, 0.9)
    np.testing.assert_array_equal(run(flat, plateau, 0.001), flat)


def test_other_labels_and_other_components_are_left_alone() -> None:
    array, likely = two_discs(2, 0.5)
    both = np.concatenate([array, 2 * array, array])
    found = run(both, np.concatenate([likely, likely, np.full(array.shape, 0.9)]), 0.3)
    np.testing.assert_array_equal(found[:9], run(array, likely, 0.3))
    np.testing.assert_array_equal(found[9:], both[9:])


def test_a_cut_through_a_structure_goes_through_what_lies_inside_and_falls_back_to_what_lies_around() -> None:
    array, likely = two_discs(2, 0.5)
    array[3:6, 5:20] = 2
    line = run(array, likely, 0.3, NESTED, "whole") != array
    assert set(np.unique(array[line])) == {1, 2}
    assert not run(array, likely, 0.3, NESTED, "whole")[line].any()
    inner = run(array, likely, 0.3, NESTED, "core")
    assert (inner[inner != array] == 1).all()
    assert parts(inner == 2) == 2


def significant(mask: NDArray[np.bool_], heights: NDArray[np.uint8], depth: int) -> int:
    """Peaks that fall by `depth` on every way to a higher one: voxels are added from the highest on."""
    root: dict[tuple[int, ...], tuple[int, ...]] = {}

    def find(voxel: tuple[int, ...]) -> tuple[int, ...]:
        while root[voxel] != voxel:
            voxel = root[voxel]
        return voxel

    kept = 0
    peak = {}
    for voxel in sorted(map(tuple, np.argwhere(mask)), key=lambda each: -int(heights[each])):
        root[voxel], peak[voxel] = voxel, int(heights[voxel])
        for offset in product((-1, 0, 1), repeat=mask.ndim):
            other = tuple(a + b for a, b in zip(voxel, offset, strict=True))
            if other not in root or find(other) == find(voxel):
                continue
            low, high = sorted((find(other), find(voxel)), key=lambda each: peak[each])
            kept += peak[low] - int(heights[voxel]) >= depth
            root[low] = high
    return kept + len({find(voxel) for voxel in root})


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 10_000),
    array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9),
    st.integers(1, 5),
    st.floats(0.2, 1.0),
)
def test_only_what_has_two_peaks_that_are_deep_enough_is_cut_and_each_peak_has_its_part(
    seed: int, shape: tuple[int, ...], depth: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < density
    heights = rng.integers(1, 9, shape, np.uint8)
    cut = mask.copy()
    for box, line in cuts(mask, heights, depth):
        assert line.any()
        assert mask[box][line].all()
        cut[box] &= ~line
    wanted = significant(mask, heights, depth)
    assert parts(cut) >= wanted  # a spur that hangs on the pass alone is cut off from both sides
    assert (cut == mask).all() == (wanted == parts(mask))


@pytest.mark.parametrize("seed", range(10))
def test_smooth_objects_fall_into_as_many_parts_as_they_have_peaks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random((80, 80)), 4)
    heights = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    mask = heights > 90
    cut = mask.copy()
    for box, line in cuts(mask, heights, 25):
        cut[box] &= ~line
    assert parts(cut) == significant(mask, heights, 25) > parts(mask)
    assert (mask & ~cut).sum() < 0.1 * mask.sum()


def test_structures_whose_probability_is_needed_are_named_once() -> None:
    assert needed_heights([], LABELS) == ()
    assert needed_heights([step(0.2, "other"), step(0.1), step(0.3, "other")], LABELS) == (2, 1)
    with pytest.raises(UsageError, match='watershed names "background"'):
        needed_heights([step(0.2, "background")], LABELS)


MEMORY = """
import numpy as np
from scipy import ndimage
from medunet.inference.memory import peak_bytes, reset_peak, resident_bytes
from medunet.postprocess.watershed import cuts
rng = np.random.default_rng(0)
heights = ndimage.gaussian_filter(rng.random((112, 128, 128), np.float32), 3)
heights = ((heights - heights.min()) / np.ptp(heights) * 255).astype(np.uint8)
mask = np.ones(heights.shape, bool)
list(cuts(mask[:40, :40, :40], heights[:40, :40, :40], 40))  # what the libraries take once
reset_peak()
before = resident_bytes()
assert sum(line.sum() for _, line in cuts(mask, heights, 40)) > 10_000
print((peak_bytes() - before) / mask.size)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_the_memory_that_is_planned_for_is_not_exceeded() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert 0.3 * WORKING_BYTES < float(done.stdout) < WORKING_BYTES
