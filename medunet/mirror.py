"""What lies outside of an image when its border is a mirror. Knows nothing of arrays beyond their length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mirrored(first: int, stop: int, size: int) -> NDArray[np.int64]:
    """The voxels of an axis of `size` that are seen at the positions `first` to `stop - 1`, (stop - first,).

    Positions outside see the mirrored image, the voxel at the edge itself not repeated, as in numpy's `reflect`;
    the mirror image is mirrored again where the axis is shorter than what is asked for. An axis of one voxel shows it
    everywhere. To be used as an index: `image[..., mirrored(-3, n + 3, n)]`.
    """
    period = max(1, 2 * (size - 1))
    position: NDArray[np.int64] = np.arange(first, stop, dtype=np.int64) % period
    return np.minimum(position, period - position)
