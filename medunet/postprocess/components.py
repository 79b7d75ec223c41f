"""Connected components of a structure of any size, slab by slab.

Numbers of components take four times the memory of the labels, so only those of one slab are held. Each slab is
numbered together with the last plane of the one before: what has two numbers in that plane is one component. A first
pass counts and joins, a second numbers those slabs again in which something is to be written. Knows nothing of labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

AT_ONCE = 1 << 22
"""Voxels that are looked at at a time: 16 MB of numbers, about 100 MB with all that is made of them."""

Array = NDArray[np.generic]
Mask = Callable[[Array], NDArray[np.bool_]]
Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]


def slab_axis(shape: Sequence[int]) -> int:
    """The first axis that is longer than one voxel: along it slabs keep the order that voxels have in memory."""
    return next((axis for axis, size in enumerate(shape) if size > 1), 0)


def slabs(shape: Sequence[int], least: int = 1) -> list[slice]:
    """Slabs along the first axis, of `AT_ONCE` voxels, but of `least` planes or more however large these are."""
    step = max(AT_ONCE // math.prod(shape[1:]), least, 1)
    return [slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]


class Components:
    """The components of a mask that is never held as a whole; the order is that of their first voxels.

    Args:
        array: what the mask is made of (*spatial), with the axis of the slabs in front.
        mask: the mask (*spatial) of a part of it.
        corners: whether voxels that share an edge or a corner only are connected, too.

    Attributes:
        sizes: voxels per component, (N,) int64.
        at_edge: whether a component touches the outermost voxels of the array, (N,) bool.
    """

    def __init__(self, array: Array, mask: Mask, *, corners: bool) -> None:
        self._rows, self._mask = array, mask
        self._structure = ndimage.generate_binary_structure(array.ndim, array.ndim if corners else 1)
        self._slabs = slabs(array.shape)
        self._only: tuple[int, NDArray[np.int32], int] | None = None
        sizes, edges, pairs = self._count()
        self._starts = np.cumsum([0, *(len(part) for part in sizes)])
        self._component = _joined(int(self._starts[-1]), pairs)
        count = int(self._component.max(initial=-1)) + 1
        self.sizes: NDArray[np.int64] = np.zeros(count, np.int64)
        self.at_edge: NDArray[np.bool_] = np.zeros(count, bool)
        np.add.at(self.sizes, self._component, np.concatenate(sizes))
        self.at_edge[self._component[np.concatenate(edges)]] = True

    def __len__(self) -> int:
        return len(self.sizes)

    def _count(self) -> tuple[list[NDArray[np.intp]], list[NDArray[np.bool_]], list[Pairs]]:
        """Per slab the voxels of each number and whether it lies at the edge; and numbers that mean one component.

        The latter are counted from 0 and through all slabs.
        """
        sizes, edges, pairs = [], [], []
        start, last = 0, np.zeros(0, np.int32)
        for place, whole, count in self._numbered([True] * len(self._slabs)):
            numbered = whole[1:] if place else whole
            sizes.append(np.bincount(numbered.ravel(), minlength=count + 1)[1:])
            edges.append(self._edge(numbered, place, count))
            if place:
                pairs.append(_meeting(last, start - len(sizes[-2]), whole[0], start))
            start, last = start + count, numbered[-1].copy()
        return sizes, edges, pairs

    def _edge(self, numbered: NDArray[np.int32], place: int, count: int) -> NDArray[np.bool_]:
        """By number in a slab, the first left out: whether it touches the edge of the array."""
        found = np.zeros(count + 1, bool)
        if place == 0:
            found[numbered[0]] = True
        if place == len(self._slabs) - 1:
            found[numbered[-1]] = True
        for axis in range(1, numbered.ndim):
            for side in (0, -1):
                found[numbered.take(side, axis)] = True
        return found[1:]

    def _numbered(self, wanted: Sequence[bool]) -> Iterator[tuple[int, NDArray[np.int32], int]]:
        """Which slab, its numbers from 1 on (0 for none), and how many there are.

        In front is the last plane of the slab before, if there is one. A slab may be changed once it was given.
        """
        if self._only is not None:
            yield self._only
            return
        before: list[NDArray[np.bool_]] = []
        for place, rows in enumerate(self._slabs):
            if not wanted[place]:
                before = [self._mask(self._rows[rows.stop - 1 : rows.stop])]
                continue
            mask = self._mask(self._rows[rows])
            whole = np.concatenate([*before, mask])
            before = [mask[-1:].copy()]
            numbered, count = ndimage.label(whole, self._structure)
            if len(self._slabs) == 1:
                self._only = 0, numbered, count
            yield place, numbered, count

    def parts(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.intp]]]:
        """Where some components are.

        Args:
            wanted: which ones, (N,).

        Yields:
            Rows of a slab, and by voxel of it 1 + the component if that is wanted, else 0. Slabs without any are left
            out. A slab may be changed once it was given.
        """
        tables = []
        for start, stop in pairwise(self._starts):
            mine = self._component[start:stop]
            tables.append(np.concatenate([[0], np.where(wanted[mine], mine + 1, 0)]))
        for place, whole, _ in self._numbered([bool(table.any()) for table in tables]):
            if tables[place].any():
                yield self._slabs[place], tables[place][whole[1:] if place else whole]


def _meeting(last: NDArray[np.int32], last_start: int, shared: NDArray[np.int32], start: int) -> Pairs:
    """Numbers that one plane has as the last of a slab and as the first of the next.

    Args:
        last, shared: the plane in either slab, from 1 on, 0 for none.
        last_start, start: first number of either slab, counted from 0 and through all slabs.
    """
    inside = shared > 0
    old, new = last[inside].astype(np.intp), shared[inside].astype(np.intp)
    width = int(new.max(initial=0)) + 1
    both = np.unique(old * width + new)
    return both // width - 1 + last_start, both % width - 1 + start


def _joined(count: int, pairs: Sequence[Pairs]) -> NDArray[np.intp]:
    """By number, counted from 0, the component that it belongs to; these are in the order of their first numbers."""
    if not pairs or not count:
        return np.arange(count)
    old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(old), bool), (old, new)), shape=(count, count))
    _, found = connected_components(graph, directed=False)
    _, first, component = np.unique(found, return_index=True, return_inverse=True)
    result: NDArray[np.intp] = np.argsort(np.argsort(first))[component]
    return result
