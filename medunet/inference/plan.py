"""How an image goes through the networks in the memory that there is: along which axis, in how many tiles.

Beside what the process holds already (libraries, weights, the volume as it was read) memory goes to

    labels      one index per voxel of the original grid
    rows        what windows read: a window's depth of the network's plane, twice, and a block that is being prepared
    slab        logits: outputs x window's depth x plane (of the tile), per network
    block       logits and labels that are being interpolated
    network     what computing a batch of windows takes

and afterwards, where objects that touch are told apart, to what the watershed takes of the whole image at once.

Nothing of it grows with the length of the image, but the labels. Tiles of the plane make the slab smaller; windows that
reach over the edge of a tile are computed for both sides, so no more tiles are made than are needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from medunet.errors import OutOfMemoryError
from medunet.inference.memory import as_size
from medunet.io.mapped import BLOCK
from medunet.labels import LabelMap
from medunet.postprocess import WORKING_BYTES
from medunet.sliding_window.blank import KEPT
from medunet.sliding_window.network import Way, best_axis
from medunet.transforms.choose import boxes_bytes
from medunet.transforms.preprocess import READ, PreparedImage
from medunet.transforms.restore import AT_ONCE, Tile

_FLOAT = 4


@dataclass(frozen=True)
class Budget:
    """Memory that may be taken, in bytes.

    Attributes:
        held: by the process now.
        limit: that it may hold at most.
        network: that computing a batch of windows takes, of the largest network.
        device: free on the device that holds the logits, if that is not the computer's own memory.
        maps: float32 arrays on the original grid that come with the labels; on a disk only a row of them is held.
        maps_held: whether they stay in memory.
        labels_held: whether the labels do.
        heights: structures whose probability the clean-up looks at, a byte per voxel of the original grid.
    """

    held: int
    limit: int
    network: int
    device: int | None = None
    maps: int = 0
    maps_held: bool = True
    labels_held: bool = True
    heights: int = 0


@dataclass(frozen=True)
class Plan:
    """How an image is done.

    Attributes:
        axis: of the network's grid, to go along.
        tiles: of the plane across it, one after the other.
        windows: of all networks and tiles, mirrored views counted.
        peak_bytes: main memory that the process will hold at most.
        device_bytes: memory of the device; 0 on a CPU.
    """

    axis: int
    tiles: tuple[Tile, ...]
    windows: int
    peak_bytes: int
    device_bytes: int = 0

    def describe(self) -> str:
        """The forecast as a sentence."""
        tiles = f" in {len(self.tiles)} tiles" if len(self.tiles) > 1 else ""
        device = f" and {as_size(self.device_bytes)} on the device" if self.device_bytes else ""
        return f"{self.windows} windows{tiles}; about {as_size(self.peak_bytes)} of memory{device}"


def plan(image: PreparedImage, ways: Sequence[Way], labels: LabelMap, budget: Budget) -> Plan:
    """The way through an image that computes the fewest windows within the memory.

    Args:
        image: what to segment.
        ways: of the networks.
        labels: of the model.
        budget: memory that may be taken.

    Raises:
        OutOfMemoryError: there is none.
    """
    axis = best_axis(ways, image.shape)
    fixed, afterwards = _fixed(image, labels, budget), _afterwards(image, labels, budget)
    least: int | None = None
    for pieces in _tilings(image, ways, axis):
        tiles = _tiles(image, axis, pieces)
        found = _costs(image, ways, labels, axis, tiles, budget)
        total = budget.held + max(fixed + found.host, afterwards)
        if total <= budget.limit and found.device <= (budget.device or 0):
            return Plan(
                axis,
                tiles,
                sum(way.count(image.shape, tile.network) for way in ways for tile in tiles),
                total,
                found.device,
            )
        missing = found.device - (budget.device or 0)
        least = total if least is None else min(least, total + max(0, missing))
    raise OutOfMemoryError(
        f"This image takes {as_size(least or 0, up=True)} of memory at least; {as_size(budget.limit)} may be taken.",
        "Allow more with --memory-limit, close other programs, or use a model with smaller windows or fewer labels.",
    )


def _tilings(image: PreparedImage, ways: Sequence[Way], axis: int) -> list[tuple[int, ...]]:
    """Numbers of pieces per axis, fewest tiles first, and of as many those that are nearest to squares."""
    most = [
        1 if number == axis else max(len(way.windows(image.shape)[number]) for way in ways)
        for number in range(len(image.shape))
    ]
    every = itertools.product(*(range(1, count + 1) for count in most))
    return sorted(every, key=lambda pieces: (math.prod(pieces), max(pieces)))


def _tiles(image: PreparedImage, axis: int, pieces: Sequence[int]) -> tuple[Tile, ...]:
    """The box of the original grid in so many pieces per axis."""
    sides = []
    for size, wanted in zip(image.record.crop_shape, pieces, strict=True):
        count = min(wanted, size)
        edges = [round(size * number / count) for number in range(count + 1)]
        sides.append(list(itertools.pairwise(edges)))
    return tuple(Tile.of(image.record, native, axis) for native in itertools.product(*sides))


def _fixed(image: PreparedImage, labels: LabelMap, budget: Budget) -> int:
    """Bytes that do not depend on tiles."""
    voxels = math.prod(image.record.original.shape)
    growth = math.prod(image.shape) / math.prod(image.record.crop_shape)
    preparing = min(READ, math.prod(image.record.crop_shape)) * _FLOAT * (1 + 2 * max(1.0, growth))
    return voxels * _kept(labels, budget) + int(preparing) + BLOCK


def _kept(labels: LabelMap, budget: Budget) -> int:
    """Bytes per voxel of the original grid that are held to the end."""
    maps = budget.maps * _FLOAT if budget.maps_held else 0
    indices = labels.index_dtype.itemsize if budget.labels_held else 0
    return indices + maps + budget.heights


def _afterwards(image: PreparedImage, labels: LabelMap, budget: Budget) -> int:
    """Bytes while objects are told apart, when the networks are done."""
    working = WORKING_BYTES if budget.heights else 0
    return math.prod(image.record.original.shape) * (_kept(labels, budget) + working)


@dataclass(frozen=True)
class _Costs:
    host: int
    device: int


def _costs(
    image: PreparedImage,
    ways: Sequence[Way],
    labels: LabelMap,
    axis: int,
    tiles: Sequence[Tile],
    budget: Budget,
) -> _Costs:
    """Bytes of the tile that takes the most."""
    worst = max(tiles, key=lambda tile: math.prod(high - low for low, high in tile.network))
    depth = max(span.high - span.low for way in ways for span in way.windows(image.shape)[axis])
    seen = looked_at(image, ways, worst)
    rows = 2 * image.channels * _FLOAT * depth * _across(seen, axis)
    slab = sum(way.held(image.shape, axis, worst.network) for way in ways) * labels.outputs * _FLOAT
    row, native = labels.outputs * _across(worst.network, axis), _across(worst.native, axis)
    mapped = budget.maps + (labels.outputs if budget.heights else 0)
    block = 3 * _FLOAT * row + max(native, min(AT_ONCE, depth * native)) + 3 * _FLOAT * mapped * native
    block += boxes_bytes(labels.outputs)
    blank = KEPT * labels.outputs * _FLOAT * sum(math.prod(way.patch) for way in ways)
    logits = slab + 2 * _FLOAT * row + block + blank + budget.network
    return _Costs(rows + logits, 0) if budget.device is None else _Costs(rows, logits)


def looked_at(image: PreparedImage, ways: Sequence[Way], tile: Tile) -> tuple[tuple[int, int], ...]:
    """The box of the network's grid that the windows of a tile read."""
    grids = [way.windows(image.shape, tile.network) for way in ways]
    return tuple(
        (
            min(span.low for grid in grids for span in grid[axis]),
            max(span.high for grid in grids for span in grid[axis]),
        )
        for axis in range(len(image.shape))
    )


def _across(box: Sequence[tuple[int, int]], axis: int) -> int:
    """Voxels of a row of a box."""
    return math.prod(high - low for number, (low, high) in enumerate(box) if number != axis)
