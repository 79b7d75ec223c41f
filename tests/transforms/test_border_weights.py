"""The weight map is that of a formula computed voxel by voxel and cell by cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.losses import BoundaryWeightedConfig, CrossEntropyConfig
from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.transforms.border_weights import border_weights, weight_term

CELL = LabelMap.from_mapping({"background": 0, "cell": 1})
TWO = LabelMap.from_mapping({"background": 0, "cell": 1, "other": 2, "ignore": 9})
NESTED = LabelMap.from_mapping({"background": 0, "liver": [1, 2], "tumour": 2, "spleen": 3})


def options(**keys: Any) -> BoundaryWeightedConfig:
    return BoundaryWeightedConfig(name="boundary_weighted_ce", **keys)


def flood(mask: NDArray[np.bool_]) -> list[list[tuple[int, ...]]]:
    """Components through faces, by hand."""
    left, found = {tuple(map(int, voxel)) for voxel in np.argwhere(mask)}, []
    while left:
        waiting, component = [left.pop()], []
        while waiting:
            voxel = waiting.pop()
            component.append(voxel)
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    near = tuple(v + step * (a == axis) for a, v in enumerate(voxel))
                    if near in left:
                        left.remove(near)
                        waiting.append(near)
        found.append(component)
    return found


def by_hand(regions: Sequence[NDArray[np.bool_]], known: NDArray[np.bool_], w0: float, sigma: float) -> Any:
    """The second term of equation 2, from all distances between all voxels."""
    cells = [np.array(cell) for region in regions for cell in flood(region)]
    result = np.zeros(known.shape)
    for voxel in np.argwhere(known & ~np.logical_or.reduce(regions)):
        distances = sorted(np.sqrt(((cell - voxel) ** 2).sum(axis=1)).min() for cell in cells)
        if len(distances) > 1:
            result[tuple(voxel)] = w0 * math.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return result


SHAPES = st.one_of(st.tuples(*[st.integers(1, 10)] * 2), st.tuples(*[st.integers(1, 4)] * 3))
PICTURES = SHAPES.flatmap(lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 0, 1, 2, 255])))


@settings(deadline=None, max_examples=60)
@given(
    PICTURES,
    st.sampled_from([0.0, 1e-7, 0.5, 10.0]),
    st.sampled_from([0.3, 1.0, 5.0]),
    st.sampled_from([None, "cell", "background"]),
)
def test_the_second_term_is_that_of_the_formula(
    indices: NDArray[np.uint8], w0: float, sigma: float, cells: str | None
) -> None:
    regions = {None: [indices == 1, indices == 2], "cell": [indices == 1], "background": [indices == 0]}[cells]
    found = border_weights(indices, TWO, options(w0=w0, sigma=sigma, balance=False, cells=cells))
    known = indices != 255
    np.testing.assert_allclose(found, known + by_hand(regions, known, w0, sigma), atol=2e-6, rtol=0)
    assert found.dtype == np.float32


@settings(deadline=None, max_examples=60)
@given(PICTURES)
def test_labels_are_balanced_to_mean_1_over_what_is_known(indices: NDArray[np.uint8]) -> None:
    found = border_weights(indices, TWO, options(w0=0.0))
    known = indices != 255
    assert not found[~known].any()
    if known.any():
        assert found[known].mean() == pytest.approx(1, rel=1e-5)
        sums = [found[indices == index].sum() for index in np.unique(indices[known])]
        assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-4)


def test_no_label_weighs_more_than_a_hundred_times_the_most_frequent() -> None:
    indices = np.zeros((200, 200), np.uint8)
    indices[50, 50] = 1
    found = border_weights(indices, CELL, options())
    assert found[50, 50] == pytest.approx(100 * found[0, 0], rel=1e-5)
    assert found.mean(dtype=float) == pytest.approx(1, rel=1e-5)


def line(*cells: tuple[int, int], length: int = 20) -> NDArray[np.uint8]:
    """One row of voxels; `cells` as first voxel and the one after the last."""
    row = np.zeros((1, length), np.uint8)
    for start, stop in cells:
        row[0, start:stop] = 1
    return row


def test_the_gap_of_one_voxel_between_two_cells_has_the_largest_weight() -> None:
    found = border_weights(line((2, 6), (7, 12)), CELL, options(balance=False))[0]
    assert int(found.argmax()) == 6
    assert found[6] == pytest.approx(1 + 10 * math.exp(-(2**2) / 50))
    assert found[1] == pytest.approx(1 + 10 * math.exp(-((1 + 6) ** 2) / 50))
    assert (found[2:6] == 1).all()  # nothing is added inside
    assert (found[7:12] == 1).all()


@pytest.mark.parametrize("cells", [(), ((3, 9),), ((0, 20),)], ids=["no cell", "one cell", "nothing else"])
def test_fewer_than_two_cells_have_no_gap(cells: tuple[tuple[int, int], ...]) -> None:
    assert (border_weights(line(*cells), CELL, options(balance=False)) == 1).all()


def test_cells_that_touch_at_a_corner_are_two() -> None:
    indices = np.zeros((8, 8), np.uint8)
    indices[:4, :4] = indices[4:, 4:] = 1
    found = border_weights(indices, CELL, options(balance=False))
    assert found[4, 3] == pytest.approx(1 + 10 * math.exp(-(2**2) / 50))
    indices[4, 3] = 1
    assert (border_weights(indices, CELL, options(balance=False)) == 1).all()


def test_the_third_nearest_cell_changes_nothing() -> None:
    two, three = (
        border_weights(line(*cells), CELL, options(balance=False))[0]
        for cells in (((0, 2), (4, 6)), ((0, 2), (4, 6), (9, 12)))
    )
    np.testing.assert_array_equal(two[:6], three[:6])
    assert three[7] > two[7]


def test_structures_side_by_side_are_cells_of_their_own_unless_one_is_named() -> None:
    indices = np.array([[0, 1, 1, 2, 2, 0, 0]], np.uint8)
    both = border_weights(indices, TWO, options(balance=False))[0]
    assert both[5] == pytest.approx(1 + 10 * math.exp(-((1 + 3) ** 2) / 50))
    assert (border_weights(indices, TWO, options(balance=False, cells="cell")) == 1).all()


def test_a_structure_inside_of_another_is_no_cell_beside_it() -> None:
    indices = np.array([[0, 1, 2, 1, 0, 3, 0, 2, 0]], np.uint8)
    nested = NESTED.to_indices(indices)
    found = border_weights(nested, NESTED, options(balance=False))[0]
    assert found[2] == 1
    assert found[0] == pytest.approx(1 + 10 * math.exp(-((1 + 5) ** 2) / 50))  # liver with tumour, spleen
    named = border_weights(nested, NESTED, options(balance=False, cells="tumour"))[0]
    assert named[4] == pytest.approx(1 + 10 * math.exp(-((2 + 3) ** 2) / 50))


def test_where_the_truth_is_unknown_nothing_counts() -> None:
    indices = line((2, 6), (7, 12))
    indices[0, 6] = 9
    found = border_weights(TWO.to_indices(indices), TWO, options())[0]
    assert found[6] == 0
    assert (border_weights(np.full((3, 3), 255, np.uint8), TWO, options()) == 0).all()


def test_many_labels_have_indices_of_two_bytes() -> None:
    labels = LabelMap.from_mapping({"background": 0, **{f"n{n}": n for n in range(1, 300)}, "ignore": 999})
    indices = labels.to_indices(np.array([[0, 299, 0, 1, 999]]))
    found = border_weights(indices, labels, options())[0]
    assert found[4] == 0
    assert found[2] == pytest.approx(4 / 3 / 2 + 10 * math.exp(-(2**2) / 50))


def test_cells_out_of_reach_of_all_others_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.zeros((200, 200), np.uint8)
    indices[20:30, 20:30] = indices[20:30, 90:100] = indices[170:180, 170:180] = 1
    monkeypatch.setattr(ndimage, "distance_transform_edt", lambda *_, **__: pytest.fail("looked at"))
    assert (border_weights(indices, CELL, options(balance=False)) == 1).all()


def test_each_cell_is_looked_at_within_its_surroundings_only(monkeypatch: pytest.MonkeyPatch) -> None:
    indices = np.zeros((300, 300), np.uint8)
    indices[100:110, 100:110] = indices[100:110, 112:120] = 1
    seen, original = [], ndimage.distance_transform_edt

    def watched(mask: Any, **keys: Any) -> Any:
        seen.append(mask.shape)
        return original(mask, **keys)

    monkeypatch.setattr(ndimage, "distance_transform_edt", watched)
    border_weights(indices, CELL, options())
    assert seen == [(10 + 2 * 29, 10 + 2 * 29), (10 + 2 * 29, 8 + 2 * 29)]  # 5 sqrt(2 ln 1e7) is 28.4


@pytest.mark.parametrize("name", ["cells", "ignore"])
def test_cells_that_are_no_label_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f'cells: "{name}", which is no label. The labels are background 0, cell 1'):
        border_weights(line((1, 2)), TWO, options(cells=name))


def test_the_term_is_found_among_the_others() -> None:
    other: Callable[..., Any] = CrossEntropyConfig
    assert weight_term([other(name="cross_entropy"), options(sigma=2.0)]) == options(sigma=2.0)
    assert weight_term([other(name="cross_entropy")]) is None
