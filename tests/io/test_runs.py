"""Runs and polygons of text: round trips with encoders of the test, and every kind of nonsense."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from medunet.io.runs import Order, boundaries, from_coco, from_runs

MASKS = some.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def runs_of(flat: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start (from 0) and length of every run of True, pixel by pixel."""
    result: list[tuple[int, int]] = []
    for at, inside in enumerate(flat.tolist()):
        if inside and result and sum(result[-1]) == at:
            result[-1] = (result[-1][0], result[-1][1] + 1)
        elif inside:
            result.append((at, 1))
    return result


def counts_of(mask: NDArray[np.bool_]) -> list[int]:
    """Lengths of runs outside and inside in turn of a picture (rows, columns), down the columns."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def packed(counts: list[int]) -> str:
    """As COCO packs them: differences to the last but one, in groups of five bits, low ones first."""
    text = ""
    for index, count in enumerate(counts):
        rest = count - counts[index - 2] if index > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            more = rest not in (0, -1) or (rest == 0) == bool(bits & 16)
            text += chr(48 + bits + 32 * more)
            if not more:
                break
    return text


def words_of(picture: NDArray[np.bool_], order: Order) -> str:
    """Runs of a picture (rows, columns), as in Kaggle's tables."""
    flat = picture.ravel(order="F" if order == "columns" else "C")
    return " ".join(f"{start + 1} {length}" for start, length in runs_of(flat))


@given(MASKS, st.sampled_from(["columns", "rows"]))
def test_runs_in_either_order_come_back(picture: NDArray[np.bool_], order: Order) -> None:
    rows, columns = picture.shape
    np.testing.assert_array_equal(from_runs(words_of(picture, order), (columns, rows), order), picture.T)


@given(MASKS, st.sampled_from(["columns", "rows"]))
def test_boundaries_are_those_of_the_masks_that_are_drawn(picture: NDArray[np.bool_], order: Order) -> None:
    rows, columns = picture.shape
    words = words_of(picture, order)
    pairs = np.asarray(words.split(), int).reshape(-1, 2)
    short = pairs[pairs[:, 1] <= max(rows, columns)]
    expected = []
    for way in ("columns", "rows"):
        mask = from_runs(" ".join(map(str, short.ravel())), (columns, rows), way).astype(int)
        expected.append(sum(np.count_nonzero(np.diff(mask, axis=axis)) for axis in (0, 1)) if len(short) > 1 else 0)
    assert boundaries(words, (columns, rows)) == tuple(expected)


def test_runs_that_touch_have_no_boundary_between_them() -> None:
    assert boundaries("2 2 4 1 8 1", (5, 6)) == boundaries("2 3 8 1", (5, 6))


@pytest.mark.parametrize("text", ["", "3 2", "1 24 30 3", "1 9 20 9"])
def test_runs_without_two_short_ones_speak_for_no_order(text: str) -> None:
    assert boundaries(text, (6, 8)) == (0, 0)


def test_the_head_of_carvana_counts_along_rows() -> None:
    """Of 00087a6bd4dc_01.jpg and _02.jpg in train_masks.csv, whose pictures have 1918 x 1280 pixels."""
    for head in (
        "879386 40 881253 141 883140 205 885009 17 885032 259 886923 308",
        "873779 4 875695 7 877612 9 879528 12",
    ):
        down, along = boundaries(head, (1918, 1280))
        assert along < 0.8 * down


@given(MASKS, st.booleans())
def test_runs_of_coco_come_back(picture: NDArray[np.bool_], pack: bool) -> None:
    counts, (rows, columns) = counts_of(picture), picture.shape
    table = {"counts": packed(counts) if pack else counts, "size": [rows, columns]}
    np.testing.assert_array_equal(from_coco(table, (columns, rows)), picture.T)


@given(st.lists(st.integers(1, 3_000_000), min_size=1, max_size=8))
def test_long_runs_are_packed_and_unpacked(counts: list[int]) -> None:
    from medunet.io.runs import _unpacked

    assert _unpacked(packed(counts)) == counts


def test_an_example_by_hand() -> None:
    mask = from_runs("2 3 7 1", (3, 3))  # columns of three pixels each
    np.testing.assert_array_equal(mask.T, [[0, 1, 1], [1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(from_runs("2 3 7 1", (4, 2), "rows").T, [[0, 1, 1, 1], [0, 0, 1, 0]])


def test_an_empty_text_is_an_empty_mask() -> None:
    assert not from_runs("", (4, 3)).any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 2 3", "there are 3 numbers"),
        ("a b", 'and "a" is none'),
        ("1.5 2", "none"),
        ("-1 2", "none"),
        ("0 2", "starts at pixel 1 or later"),
        ("1 0", "at least one pixel"),
        ("5 2 1 2", "sorted"),
        ("1 4 3 2", "the runs at 1 and 3 overlap"),
        ("11 3", "reaches pixel 13, but the picture has 4 x 3 = 12"),
        ("9" * 30 + " 1", "none"),
    ],
)
def test_runs_that_make_no_sense_are_told(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        from_runs(text, (4, 3))


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 15)), min_size=3, max_size=7, unique=True))
def test_polygons_are_filled_as_another_library_does(corners: list[tuple[int, int]]) -> None:
    points = np.asarray(corners) + np.array([0.0131, 0.00071])  # so that no edge meets the centre of a pixel
    expected = polygon2mask((21, 16), points - 0.5)
    np.testing.assert_array_equal(from_coco([points.ravel().tolist()], (21, 16)), expected)


def test_a_square_covers_the_pixels_within_its_corners_and_several_are_united() -> None:
    mask = from_coco([[1, 1, 4, 1, 4, 3, 1, 3], [3, 2, 6, 2, 6, 5, 3, 5]], (8, 6))
    expected = np.zeros((8, 6), bool)
    expected[1:4, 1:3] = expected[3:6, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_a_polygon_may_touch_the_edge_of_the_picture() -> None:
    assert from_coco([[0, 0, 8, 0, 8, 6, 0, 6]], (8, 6)).all()


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        (None, "a list of polygons or a table"),
        ([], "a list of polygons or a table"),
        ([[1, 2, 3, 4]], "at least three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three corners"),
        ([[1, 2, 3, 4, 5, "a"]], "at least three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least three corners"),
        ([[1, 2, 3, 4, 5, 10**400]], "at least three corners"),
        ([[1, 1, 40, 1, 4, 4]], "the corner (40, 1) lies outside of the picture of 8 x 6"),
        ({"counts": [48], "size": [8, 6]}, "its size is [8, 6] (height, width), and the picture has [6, 8]"),
        ({"counts": [47], "size": [6, 8]}, "its runs hold 47 pixels, and the picture has 48"),
        ({"counts": [-1, 49], "size": [6, 8]}, "no lengths of runs"),
        ({"counts": [1.5], "size": [6, 8]}, "no lengths of runs"),
        ({"counts": "é", "size": [6, 8]}, "not packed"),
        ({"counts": "oo", "size": [6, 8]}, "in the middle of a number"),
        ({"size": [6, 8]}, "no lengths of runs"),
    ],
)
def test_segmentations_that_make_no_sense_are_told(segmentation: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        from_coco(segmentation, (8, 6))
