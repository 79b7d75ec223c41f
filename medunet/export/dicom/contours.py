"""The outline of a mask as closed polygons along pixel edges, holes cut in by keyholes.

Along pixel edges, not through pixel centres: whoever fills such a polygon gets exactly the pixels of the mask back,
where contours through centres lose half a pixel all around. A region that holds a hole becomes one polygon that runs
to the hole and back along one line (a keyhole): readers that know nothing of holes fill it right. Regions that touch
at a corner only are two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Directions of travel with the region on the right, rows growing downwards: right, down, left, up.
_STEPS = np.asarray([(0, 1), (1, 0), (0, -1), (-1, 0)])


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Polygons around the regions of a mask.

    Args:
        mask: (rows, columns).

    Returns:
        One (n, 2) array per 4-connected region: row and column of its corners, pixel centres at whole numbers, so all
        corners at halves. Not closed: the last corner is not the first one again.
    """
    starts, directions, pixels = _edges(mask)
    if not len(starts):
        return []
    following = _following(starts, directions, mask.shape)
    regions, _ = ndimage.label(mask)
    outer: dict[int, NDArray[np.int64]] = {}
    holes: dict[int, list[NDArray[np.int64]]] = {}
    for cycle in _cycles(following):
        turns = directions[cycle] != directions[np.roll(cycle, 1)]
        corners = starts[cycle][turns]
        region = int(regions[tuple(pixels[cycle[0]])])
        if _area(corners) > 0:
            outer[region] = corners
        else:
            holes.setdefault(region, []).append(corners)
    return [_keyholed(corners, holes.get(region, [])) - 0.5 for region, corners in outer.items()]


def _edges(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Start corner (n, 2), direction (n,) and pixel inside (n, 2) of every pixel edge between mask and rest.

    Corner (r, c) is the upper left one of pixel (r, c).
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    beside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    offsets = np.asarray([(0, 0), (0, 1), (1, 1), (1, 0)])
    pixels = [np.argwhere(inside & ~other) for other in beside]
    starts = [found + offset for found, offset in zip(pixels, offsets, strict=True)]
    directions = np.repeat(np.arange(4), [len(found) for found in pixels])
    return np.concatenate(starts), directions, np.concatenate(pixels)


def _following(starts: NDArray[np.int64], directions: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The edge after each: where two leave a corner, the right turn, which stays with the same pixel."""
    at = np.full((shape[0] + 1, shape[1] + 1, 4), -1)
    at[starts[:, 0], starts[:, 1], directions] = np.arange(len(starts))
    ends = starts + _STEPS[directions]
    result = np.full(len(starts), -1)
    for turn in (3, 0, 1):  # left, straight on, right: the last that exists counts
        found = at[ends[:, 0], ends[:, 1], (directions + turn) % 4]
        result = np.where(found >= 0, found, result)
    return result


def _cycles(following: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    steps, left, found = following.tolist(), np.ones(len(following), dtype=bool), []
    for first in range(len(steps)):
        if left[first]:
            cycle, edge = [first], steps[first]
            while edge != first:
                cycle.append(edge)
                edge = steps[edge]
            left[cycle] = False
            found.append(np.asarray(cycle))
    return found


def _area(corners: NDArray[np.int64]) -> float:
    """Twice the area, positive for a tour with the inside on the right."""
    rows, columns = corners[:, 0], corners[:, 1]
    return float((columns * np.roll(rows, -1) - rows * np.roll(columns, -1)).sum())


def _keyholed(polygon: NDArray[np.int64], holes: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """One polygon that runs around and, along horizontal lines, into the holes."""
    for hole in sorted(holes, key=lambda corners: int(corners[:, 1].min())):
        first = int(np.lexsort((hole[:, 0], hole[:, 1]))[0])
        row, column = hole[first]
        ends = np.roll(polygon, -1, axis=0)
        low, high = np.minimum(polygon[:, 0], ends[:, 0]), np.maximum(polygon[:, 0], ends[:, 0])
        upright = polygon[:, 1] == ends[:, 1]
        met = np.flatnonzero(upright & (low <= row) & (row <= high) & (polygon[:, 1] <= column))
        number = int(met[polygon[met, 1].argmax()])
        there = np.asarray([[row, polygon[number, 1]]])
        around = np.roll(hole, -first, axis=0)
        polygon = np.concatenate([polygon[: number + 1], there, around, around[:1], there, polygon[number + 1 :]])
        repeated = (polygon == np.roll(polygon, 1, axis=0)).all(axis=1)
        polygon = polygon[~repeated]
    return polygon.astype(np.float64)
