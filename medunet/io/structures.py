"""What can be told of a structure, whatever it is: its size, its pieces, whether the image cuts it off, how dim it is.

The masks that training saw and those that are predicted are looked at by this one function, so that the numbers can be
compared. Knows nothing of labels or millimetres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.io.mapped import BLOCK, let_go

PIECE = 0.01
"""Share of a structure's voxels that a component needs to count: below are the specks that many masks have."""

_MOST_VOXELS = 1 << 22
"""Components are looked for in no more voxels than these: 4 MB of mask, 16 MB of numbers, 32 MB to count them."""

_MANY_VALUES = 1 << 16

_DIM = 0.05
_BINS = 1024

Box = tuple[slice, ...]


@dataclass(frozen=True)
class Extent:
    """One structure in one mask.

    Attributes:
        voxels: how many.
        components: pieces, connected through faces, edges and corners, of at least `PIECE` of its voxels.
        at_border: whether it touches the border of the image; an axis of one voxel has none.
    """

    voxels: int
    components: int
    at_border: bool


def extents(mask: NDArray[np.generic], structures: Sequence[Sequence[int]]) -> list[Extent | None]:
    """Look at each structure inside of its bounding box; takes no memory that grows with the mask.

    Where the box has more than 4 million voxels, blocks of 2, 3, ... voxels per axis count as one for the components,
    and are part of the structure if one of the voxels is: pieces that are nearer to each other become one.

    Args:
        mask: (*spatial) integers.
        structures: the values that make up each of them; a value may belong to several.

    Returns:
        One per structure; None where the mask has nothing of it.
    """
    if mask.flags.f_contiguous and not mask.flags.c_contiguous:
        mask = mask.T  # nothing here depends on the order of the axes; memory is best read as it lies
    boxes = _boxes(mask, sorted({value for members in structures for value in members}))
    return [_extent(mask, members, [boxes[value] for value in members if value in boxes]) for members in structures]


def _boxes(mask: NDArray[np.generic], values: Sequence[int]) -> dict[int, Box]:
    """The bounding box of each value that occurs."""
    from scipy import ndimage  # `medunet info` looks at images without it

    if min(values) < 1 or max(values) >= _MANY_VALUES:  # rare; the others are found in one pass without a copy
        numbers = np.zeros(mask.shape, np.uint16)
        for number, value in enumerate(values, start=1):
            numbers[mask == value] = number
        found = _boxes(numbers, range(1, len(values) + 1))
        return {values[number - 1]: box for number, box in found.items()}
    result: dict[int, Box] = {}
    step, wanted = max(1, BLOCK // max(1, mask[:1].nbytes)), set(values)
    for first in range(0, len(mask), step):
        part = mask[first : first + step]
        for value, box in enumerate(ndimage.find_objects(part, max(values)) if part.any() else (), start=1):
            if box is not None and value in wanted:
                here = (slice(box[0].start + first, box[0].stop + first), *box[1:])
                result[value] = _around(result[value], here) if value in result else here
        let_go(mask)
    return result


def _around(*boxes: Box) -> Box:
    """The smallest box around others."""
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )


def _extent(mask: NDArray[np.generic], members: Sequence[int], boxes: Sequence[Box]) -> Extent | None:
    if not boxes:
        return None
    box = _around(*boxes)
    at_border = any(n > 1 and (side.start == 0 or side.stop == n) for side, n in zip(box, mask.shape, strict=True))
    voxels, coarse = _coarse(mask[box], members)
    return Extent(voxels, _pieces(coarse), at_border)


def _coarse(array: NDArray[np.generic], members: Sequence[int]) -> tuple[int, NDArray[np.bool_]]:
    """Number of voxels with one of some values, and where they are: in blocks if there are too many."""
    factor = 1
    while math.prod(-(-n // factor) for n in array.shape) > _MOST_VOXELS:
        factor += 1
    voxels, result = 0, np.empty([-(-n // factor) for n in array.shape], np.bool_)
    for row, first in enumerate(range(0, len(array), factor)):
        part = _any_of(array[first : first + factor], members)
        voxels += int(np.count_nonzero(part))
        if factor > 1:
            for axis, n in enumerate(part.shape):
                part = np.logical_or.reduceat(part, np.arange(0, n, factor), axis=axis)
            let_go(array)
        result[row] = part[0]
    return voxels, result


def _any_of(array: NDArray[np.generic], members: Sequence[int]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = array == members[0]
    for value in members[1:]:
        mask |= array == value
    return mask


def _pieces(mask: NDArray[np.bool_]) -> int:
    """Number of components of at least `PIECE` of all voxels."""
    from scipy import ndimage

    numbered, _ = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(numbered.ravel())[1:]
    return int(np.count_nonzero(sizes >= PIECE * sizes.sum()))


def dimmest(image: NDArray[np.generic], mask: NDArray[np.generic], structures: Sequence[Sequence[int]]) -> float:
    """The value that at least 95 % of the voxels of each structure reach, to a thousandth of the image's range.

    Goes plane by plane and takes no memory that grows with the image.

    Args:
        image: (*spatial), finite.
        mask: (*spatial) integers.
        structures: see `extents`.

    Returns:
        That of the dimmest structure; infinity if there is none.
    """
    known = np.array(sorted({value for members in structures for value in members}))
    counts = np.zeros((len(known), _BINS), np.int64)
    low, high = float(image.min()), float(image.max())
    width = max((high - low) / _BINS, np.finfo(np.float32).tiny)
    axis = int(np.argmax(np.abs(mask.strides)))
    for values, plane in zip(np.moveaxis(image, axis, 0), np.moveaxis(mask, axis, 0), strict=True):
        there = np.isin(plane, known)
        rows = np.searchsorted(known, plane[there])
        bins = ((values[there].astype(np.float32) - low) / width).astype(np.int64).clip(0, _BINS - 1)
        counts += np.bincount(rows * _BINS + bins, minlength=counts.size).reshape(counts.shape)
    found = math.inf
    for members in structures:
        reached = np.cumsum(counts[np.isin(known, members)].sum(0))
        if reached[-1]:
            found = min(found, low + width * int(np.searchsorted(reached, _DIM * reached[-1], side="right")))
    return found
