"""Smooth surfaces: a mask is blurred, slab by slab. Knows nothing of labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.postprocess.components import Array, Mask, slabs

_REACH = 4.0
"""Standard deviations at which the Gaussian is cut."""


def reach(sigma: float) -> int:
    """Voxels that a blur looks at on either side, for a standard deviation in voxels."""
    return int(_REACH * sigma + 0.5)


def blurred(
    array: Array, mask: Mask, sigma: Sequence[float], inner: slice
) -> Iterator[tuple[slice, NDArray[np.bool_], NDArray[np.float32]]]:
    """Blur a mask with a Gaussian; what lies outside of the array is as its outermost voxels are.

    Args:
        array: what the mask is made of (*spatial), with the axis of the slabs in front.
        mask: the mask (*spatial) of a part of it.
        sigma: standard deviation in voxels per axis.
        inner: rows that are wanted.

    Yields:
        Rows of a slab, its mask, and that blurred, 0 to 1. A slab may be changed once it was given.
    """
    margin = reach(sigma[0])
    before = mask(array[max(0, inner.start - margin) : inner.start])
    for part in slabs((inner.stop - inner.start, *array.shape[1:]), least=2 * margin):
        rows = slice(inner.start + part.start, inner.start + part.stop)
        whole = np.concatenate([before, mask(array[rows.start : rows.stop + margin])])
        here = slice(len(before), len(before) + rows.stop - rows.start)
        result = ndimage.gaussian_filter(whole, sigma, output=np.float32, mode="nearest", truncate=_REACH)
        before = whole[max(0, here.stop - margin) : here.stop].copy()
        yield rows, whole[here], result[here]
