"""Components and holes slab by slab are those of the whole volume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.postprocess import FillHolesConfig, LargestComponentConfig, PostprocessStep, RemoveSmallConfig
from medunet.labels import LabelMap
from medunet.postprocess import components, postprocess
from medunet.postprocess.components import Components, slab_axis, slabs

SHAPES = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)
NESTED = LabelMap.from_mapping({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3, "organ": 4})


@contextmanager
def slabs_of(voxels: int) -> Iterator[None]:
    with patch.object(components, "AT_ONCE", voxels):
        yield


def noise(seed: int, shape: tuple[int, ...], density: float, count: int = 2) -> NDArray[np.uint8]:
    """Labels 1 to `count` - 1 in that share of the voxels, in spots of a voxel and of several."""
    rng = np.random.default_rng(seed)
    array = rng.integers(1, count, shape, np.uint8) * (rng.random(shape) < density)
    if seed % 2:
        array = array[tuple(np.ix_(*[np.arange(size) // 2 for size in shape]))]
    return np.ascontiguousarray(array).astype(np.uint8)


def found(array: NDArray[Any], *, corners: bool) -> Components:
    return Components(array, lambda part: part > 0, corners=corners)


def drawn(components: Components, shape: tuple[int, ...]) -> NDArray[np.intp]:
    result = np.zeros(shape, np.intp)
    for rows, numbers in components.parts(np.ones(len(components), bool)):
        result[rows] = numbers
    return result


@settings(deadline=None)
@given(st.integers(0, 1000), SHAPES, st.floats(0.05, 0.95), st.booleans(), st.integers(1, 40))
def test_components_by_slabs_are_those_of_the_whole(
    seed: int, shape: tuple[int, ...], density: float, corners: bool, voxels: int
) -> None:
    array = noise(seed, shape, density)
    structure = ndimage.generate_binary_structure(array.ndim, array.ndim if corners else 1)
    expected, count = ndimage.label(array, structure)
    inner = np.zeros(shape, bool)
    inner[(slice(1, -1),) * array.ndim] = True
    with slabs_of(voxels):
        parts = found(array, corners=corners)
        assert len(parts) == count
        np.testing.assert_array_equal(drawn(parts, shape), expected)  # the order of the first voxels too
    np.testing.assert_array_equal(parts.sizes, np.bincount(expected.ravel(), minlength=count + 1)[1:])
    np.testing.assert_array_equal(parts.at_edge, np.isin(np.arange(1, count + 1), expected[~inner]))


@settings(deadline=None)
@given(st.integers(0, 1000), SHAPES, st.floats(0.2, 0.95), st.integers(1, 40), st.sampled_from([1, 2, 5]))
def test_every_step_by_slabs_gives_what_it_gives_at_once(
    seed: int, shape: tuple[int, ...], density: float, voxels: int, kinds: int
) -> None:
    array = noise(seed, shape, density, max(kinds, 2))
    group = ("core", "organ")
    steps: list[PostprocessStep] = [
        FillHolesConfig(name="fill_holes", label="whole"),
        FillHolesConfig(name="fill_holes", labels=group),
        RemoveSmallConfig(name="remove_small", label="enhancing", mm3=3.0),
        RemoveSmallConfig(name="remove_small", labels=group, mm3=4.0),
        LargestComponentConfig(name="largest_component", labels=group),
        LargestComponentConfig(name="largest_component", label="whole"),
    ]
    for step in steps:
        whole, parts = array.copy(), array.copy()
        postprocess(whole, [step], NESTED, (1.0,) * array.ndim)
        with slabs_of(voxels):
            postprocess(parts, [step], NESTED, (1.0,) * array.ndim)
        np.testing.assert_array_equal(parts, whole)


@settings(deadline=None)
@given(st.integers(0, 1000), SHAPES, st.floats(0.2, 0.95), st.integers(1, 40))
def test_holes_by_slabs_are_those_that_scipy_fills(
    seed: int, shape: tuple[int, ...], density: float, voxels: int
) -> None:
    array = noise(seed, shape, density)
    expected = ndimage.binary_fill_holes(array)
    with slabs_of(voxels):
        postprocess(array, [FillHolesConfig(name="fill_holes", label="whole")], NESTED, (1.0,) * array.ndim)
    np.testing.assert_array_equal(array, expected)


def test_slabs_without_anything_to_write_are_not_numbered_again() -> None:
    array = np.zeros((40, 5, 5), np.uint8)
    array[2:30, 1:3, 1:3] = 1
    array[35, 4, 4] = 1
    with slabs_of(4 * 25), patch.object(ndimage, "label", wraps=ndimage.label) as label:
        postprocess(array, [LargestComponentConfig(name="largest_component", label="whole")], NESTED, (1, 1, 1))
    assert array[2:30, 1:3, 1:3].all()
    assert array[35, 4, 4] == 0
    passes = (34 - 1) // 6 + 1  # of the bounding box: 34 rows of 16 voxels, six to a slab
    assert label.call_count == passes + 1


def test_a_structure_of_one_slab_is_numbered_once() -> None:
    array = np.zeros((9, 9), np.uint8)
    array[1:5, 1:5], array[7, 7] = 1, 1
    with patch.object(ndimage, "label", wraps=ndimage.label) as label:
        postprocess(array, [LargestComponentConfig(name="largest_component", label="whole")], NESTED, (1, 1))
    assert label.call_count == 1
    assert array.sum() == 16


def test_memory_is_that_of_a_slab() -> None:
    """Beside the array: less than 16 bytes per voxel of a slab times what numpy holds of it at a time."""
    import tracemalloc

    array = np.zeros((400, 100, 100), np.uint8)
    array[5:395, 5:95, 5:95] = 1
    array[50:60, 50:60, 50:60] = 0
    array[0, 0, 0] = 1
    steps: list[PostprocessStep] = [
        LargestComponentConfig(name="largest_component", label="whole"),
        RemoveSmallConfig(name="remove_small", label="whole", mm3=5.0),
        FillHolesConfig(name="fill_holes", label="whole"),
    ]
    with slabs_of(100_000):
        tracemalloc.start()
        postprocess(array, steps, NESTED, (1, 1, 1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert array[0, 0, 0] == 0
    assert array[55, 55, 55] == 1
    assert peak < array.nbytes  # 4 MB; numbers of all voxels alone would take 16


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((1, 4, 5), 1), ((1, 1, 5), 2), ((1, 1, 1), 0)])
def test_slabs_lie_along_the_first_axis_that_has_several_voxels(shape: tuple[int, ...], axis: int) -> None:
    assert slab_axis(shape) == axis


def test_a_plane_that_is_too_large_is_a_slab_of_its_own() -> None:
    with slabs_of(10):
        assert slabs((3, 100)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
        assert slabs((5, 4)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
        assert slabs((5, 4), least=3) == [slice(0, 3), slice(3, 5)]
