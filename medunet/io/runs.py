"""Pixels of a structure out of text: runs as in Kaggle's tables, polygons and runs as in COCO's JSON.

COCO counts pixels down the columns, the first column first: the order in memory of arrays (width, height). Kaggle's
tables count so, too, or along the rows, the first row first. Every function raises `ValueError` with a sentence that
says what is wrong; who calls knows the file and the line.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int]
"""Width and height."""

Order = Literal["columns", "rows"]
"""How pixels are counted: top to bottom, then left to right; or left to right, then top to bottom."""

_Ends = NDArray[np.int64]


def from_runs(text: str, shape: Shape, order: Order = "columns") -> NDArray[np.bool_]:
    """The pixels (width, height) of "start length start length ...", counted from 1 in this order.

    An empty text is an empty mask. Runs must rise and not overlap.

    Raises:
        ValueError: other text, an odd number of numbers, runs that fall, overlap or leave the picture.
    """
    starts, ends = _read(text, shape)
    return _filled(starts, ends, shape) if order == "columns" else _filled(starts, ends, shape[::-1]).T


def boundaries(text: str, shape: Shape) -> tuple[int, int]:
    """Pairs of neighbours inside and outside if runs are counted down the columns, and along the rows.

    Nothing is drawn, so that this takes time and memory of the runs alone. Runs longer than the longer side are left
    out, as they fill whole lines in either order; fewer than two others tell nothing: 0 and 0.

    Raises:
        ValueError: as `from_runs`.
    """
    starts, ends = _read(text, shape)
    short = ends - starts <= max(shape)
    if np.count_nonzero(short) < 2:
        return 0, 0
    starts, ends = _joined(starts[short], ends[short])
    pixels = shape[0] * shape[1]
    return _boundary(starts, ends, pixels, shape[1]), _boundary(starts, ends, pixels, shape[0])


def _joined(starts: _Ends, ends: _Ends) -> tuple[_Ends, _Ends]:
    """Runs that touch become one."""
    apart = starts[1:] > ends[:-1]
    return starts[np.append(True, apart)], ends[np.append(apart, True)]


def _boundary(starts: _Ends, ends: _Ends, pixels: int, line: int) -> int:
    """Pairs of neighbours inside and outside in lines of this many pixels, and from one line to the next."""
    edges = np.stack([starts, ends], axis=1).ravel()
    before = np.repeat(np.cumsum(ends - starts), 2)
    before[::2] -= ends - starts

    def inside(places: _Ends | int) -> int:
        """Pixels of runs before each place, summed."""
        return round(float(np.interp(places, edges, before).sum()))

    within = np.count_nonzero(starts % line) + np.count_nonzero(ends % line)
    both = inside(ends - line) - inside(starts - line)  # pixels that are inside like the one a line before them
    return int(within + inside(pixels - line) + before[-1] - inside(line) - 2 * both)


def _read(text: str, shape: Shape) -> tuple[_Ends, _Ends]:
    """Where runs start and end, from 0."""
    words = text.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 19 for word in words):
        wrong = next(word for word in words if not (word.isascii() and word.isdigit() and len(word) < 19))
        raise ValueError(f'runs are pairs of whole numbers, and "{wrong[:20]}" is none')
    if len(words) % 2:
        raise ValueError(f"runs are pairs of start and length, and there are {len(words)} numbers")
    starts, lengths = np.asarray(words, dtype=np.int64).reshape(-1, 2).T
    if (starts < 1).any() or (lengths < 1).any():
        raise ValueError("a run starts at pixel 1 or later and has at least one pixel")
    ends = starts - 1 + lengths
    if (starts[1:] <= starts[:-1]).any():
        raise ValueError("runs must be sorted by their starts")
    if (starts[1:] <= ends[:-1]).any():
        at = int(np.flatnonzero(starts[1:] <= ends[:-1])[0])
        raise ValueError(f"the runs at {starts[at]} and {starts[at + 1]} overlap")
    pixels = shape[0] * shape[1]
    if len(ends) and ends[-1] > pixels:
        rule = f"it reaches pixel {ends[-1]}, but the picture has {shape[0]} x {shape[1]} = {pixels}"
        raise ValueError(f"{rule}; runs belong to one size of the picture")
    return starts - 1, ends


def _filled(starts: _Ends, ends: _Ends, shape: Shape) -> NDArray[np.bool_]:
    steps = np.zeros(shape[0] * shape[1] + 1, dtype=np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    result: NDArray[np.bool_] = np.cumsum(steps[:-1], dtype=np.int8).astype(bool).reshape(shape)
    return result


def from_coco(segmentation: Any, shape: Shape) -> NDArray[np.bool_]:
    """The pixels (width, height) of a COCO segmentation: a list of polygons, or runs.

    A pixel belongs to a polygon if its centre lies inside; several polygons are united.

    Raises:
        ValueError: it is none of these, or leaves the picture.
    """
    if isinstance(segmentation, dict):
        return _coco_runs(segmentation, shape)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("a segmentation is a list of polygons or a table with counts and size")
    result = np.zeros(shape, dtype=bool)
    for polygon in segmentation:
        _add_polygon(result, polygon)
    return result


def _add_polygon(result: NDArray[np.bool_], polygon: Any) -> None:
    from medunet.io.dicom.contoured import fill

    numbers = polygon if isinstance(polygon, list) else []
    if len(numbers) < 6 or len(numbers) % 2 or not all(_is_number(number) for number in numbers):
        raise ValueError("a polygon is a list of x and y of at least three corners")
    corners = np.asarray(numbers, dtype=np.float64).reshape(-1, 2)
    if (corners < -1).any() or (corners > np.asarray(result.shape) + 1).any():
        x, y = corners[((corners < -1) | (corners > np.asarray(result.shape) + 1)).any(axis=1)][0]
        size = " x ".join(map(str, result.shape))
        raise ValueError(f"the corner ({x:g}, {y:g}) lies outside of the picture of {size} pixels")
    first = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, None)
    stop = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, result.shape)
    if (stop > first).all():  # only where it lies: pictures have many small objects
        box = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
        result[box] |= fill(corners - first - 0.5, tuple(int(n) for n in stop - first))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9


def _coco_runs(table: dict[str, Any], shape: Shape) -> NDArray[np.bool_]:
    """Lengths of runs that are outside and inside in turn, as a list or packed into text."""
    counts, size = table.get("counts"), table.get("size")
    if size != [shape[1], shape[0]]:
        raise ValueError(f"its size is {size} (height, width), and the picture has {[shape[1], shape[0]]}")
    lengths = _unpacked(counts) if isinstance(counts, str) else counts
    pixels = shape[0] * shape[1]
    if not isinstance(lengths, list) or not all(type(length) is int and 0 <= length <= pixels for length in lengths):
        raise ValueError("its counts are no lengths of runs within the picture")
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64))
    if (ends[-1] if len(ends) else 0) != pixels:
        raise ValueError(f"its runs hold {ends[-1] if len(ends) else 0} pixels, and the picture has {pixels}")
    return _filled(ends[:-1:2], ends[1::2], shape)


def _unpacked(text: str) -> list[int]:
    """Numbers of five bits per character, low ones first; from the fourth on as differences to the last but one."""
    numbers: list[int] = []
    value = place = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or place > 60:
            raise ValueError("its counts are not packed as COCO packs them")
        value |= (bits & 31) << place
        place += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << place
        numbers.append(value + numbers[-2] if len(numbers) > 2 else value)
        value = place = 0
    if place:
        raise ValueError("its counts end in the middle of a number")
    return numbers
