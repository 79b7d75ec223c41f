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

from medunet.io.runs import from_coco, from_runs

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


@given(MASKS)
def test_runs_down_the_columns_come_back(picture: NDArray[np.bool_]) -> None:
    words = [f"{start + 1} {length}" for start, length in runs_of(picture.ravel(order="F"))]
    rows, columns = picture.shape
    np.testing.assert_array_equal(from_runs(" ".join(words), (columns, rows)), picture.T)


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
