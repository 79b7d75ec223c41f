"""The weight map of the 2015 U-Net: rare labels and the narrow gaps between cells count more.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))        (Ronneberger 2015, equation 2)

d1 and d2 are the distances of a voxel to the nearest and the second nearest cell, in voxels of the network's grid
from centre to centre, so that 1 is the distance of a neighbour. What the paper leaves open is decided here:

- The second term is added outside of cells only, as in the authors' own Fiji plugin (Falk 2019). Taken literally, d1
  would be 0 everywhere inside, and the rims of cells would weigh more than the gap between them.
- Cells are components connected through faces. `medunet.postprocess` counts edges and corners too; here two cells
  behind a line of one voxel, or touching at a corner, are to be kept apart, which is what the term is for.
- w_c is the inverse frequency of the label in the case, scaled to mean 1 over the case. No label weighs more than
  100 times the most frequent one: a lesion of ten voxels shall not decide a whole step.
- Volumes have distances in three dimensions, also where a 2D network sees their slices.

Knows nothing of files, patches or losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.config.losses import BoundaryWeightedConfig, LossTerm
from medunet.errors import UsageError
from medunet.labels import LabelMap

BORDER_VERSION = 1
"""Goes into the name of the cached file; raise it when the map gets other numbers."""

_NEGLIGIBLE = 1e-6
_LARGEST_RATIO = 100.0
_FAR = int(np.iinfo(np.int32).max)

Squared = NDArray[np.int32]


def weight_term(terms: Sequence[LossTerm]) -> BoundaryWeightedConfig | None:
    """The term of the `loss:` section that needs the map; None if none does."""
    return next((term for term in terms if isinstance(term, BoundaryWeightedConfig)), None)


def border_weights(
    indices: NDArray[np.generic], labels: LabelMap, options: BoundaryWeightedConfig
) -> NDArray[np.float32]:
    """Weights (*S) float32 of a whole case, 0 where the truth is unknown; with fewer than two cells w_c alone.

    Gaps whose second term is below 1e-6 are left out, so that only the surroundings of each cell are looked at: one
    distance transform per cell, over its box and about 5 sigma around. Time and memory grow with these boxes, not
    with the number of cells times the size of the image.

    Args:
        indices: (*S) label indices, `labels.ignore_index` where the truth is unknown.
        labels: names and indices.
        options: w0, sigma, balance and cells.

    Raises:
        UsageError: `options.cells` is no label.
    """
    known = np.ones(indices.shape, bool) if labels.ignore_index is None else indices != labels.ignore_index
    weight = _balanced(indices, known) if options.balance else known.astype(np.float32)
    cells, count = _cells(indices, labels, options.cells)
    reach = _reach(options.w0, options.sigma)
    if count > 1 and reach > 0:
        first, second = _nearest_two(cells, count, reach)
        between = (cells == 0) & known & (second < _FAR)
        distance = np.sqrt(first[between], dtype=np.float64) + np.sqrt(second[between], dtype=np.float64)
        weight[between] += options.w0 * np.exp(-(distance**2) / (2 * options.sigma**2))
    return weight


def _balanced(indices: NDArray[np.generic], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """w_c (*S): every label that is present has the same share of the sum, as far as the largest ratio allows."""
    counts = np.bincount(indices[known].astype(np.int64), minlength=int(indices.max()) + 1)
    present = counts > 0
    table = np.zeros(len(counts))
    if present.any():
        share = counts[present] / counts.sum()
        factors = np.minimum(1 / share, _LARGEST_RATIO / share.max())
        table[present] = factors / (share * factors).sum()
    result: NDArray[np.float32] = table.astype(np.float32)[indices]
    return result


def _cells(indices: NDArray[np.generic], labels: LabelMap, name: str | None) -> tuple[NDArray[np.int32], int]:
    """Numbers of the cells (*S), 0 outside of them, and how many there are.

    Without a name these are the components of each outermost structure, whatever lies inside of it.
    """
    if name is not None and name not in labels.names:
        raise UsageError(
            f'boundary_weighted_ce has cells: "{name}", which is no label.', f"The labels are {labels.describe()}."
        )
    chosen = labels.levels[0] if name is None else (labels.names.index(name),)
    cells, count = np.zeros(indices.shape, np.int32), 0
    for index in chosen:
        members = np.flatnonzero(labels.membership[index])
        numbered, found = ndimage.label(np.logical_or.reduce([indices == member for member in members]))
        inside = numbered > 0
        cells[inside] = numbered[inside] + count
        count += int(found)
    return cells, count


def _reach(w0: float, sigma: float) -> float:
    """d1 + d2 from which on the second term is negligible; 0 if it always is."""
    return sigma * math.sqrt(2 * math.log(w0 / _NEGLIGIBLE)) if w0 > _NEGLIGIBLE else 0.0


def _nearest_two(cells: NDArray[np.int32], count: int, reach: float) -> tuple[Squared, Squared]:
    """Squared distances (*S) to the nearest and second nearest of the cells 1 to `count`.

    Exact wherever the two distances add up to at most `reach`; elsewhere they may be larger than they are, up to
    `_FAR`. MONAI has distance transforms to one set of voxels, not to the second nearest of many.
    """
    first = np.full(cells.shape, _FAR, np.int32)
    second = first.copy()
    boxes = ndimage.find_objects(cells, count)
    low = np.array([[side.start for side in box] for box in boxes])
    high = np.array([[side.stop for side in box] for box in boxes])
    around = math.ceil(reach)
    for number in range(1, count + 1):
        begin, end = low[number - 1] - around, high[number - 1] + around
        if np.count_nonzero(((low < end) & (high > begin)).all(axis=1)) == 1:
            continue  # no other cell within reach
        window = tuple(slice(max(0, a), b) for a, b in zip(begin.tolist(), end.tolist(), strict=True))
        squared = _squared_distance(cells[window] != number)
        nearest, following = first[window], second[window]
        np.minimum(following, np.maximum(nearest, squared), out=following)
        np.minimum(nearest, squared, out=nearest)
    return first, second


def _squared_distance(outside: NDArray[np.bool_]) -> Squared:
    """Squared distance (*S) of each voxel to the nearest one that is not `outside`.

    In whole numbers from the nearest voxels, which takes two thirds of the time that SciPy's own distances take.
    """
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    result = np.zeros(outside.shape, np.int32)
    for axis, size in enumerate(outside.shape):
        view = [1] * outside.ndim
        view[axis] = size
        offset = nearest[axis] - np.arange(size, dtype=np.int32).reshape(view)
        result += offset * offset
    return result
