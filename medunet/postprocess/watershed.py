"""Objects that touch are told apart where a probability dips between them: the watershed. Knows nothing of labels.

Vincent & Soille 1991, "Watersheds in digital spaces", IEEE PAMI 13:583, as ITK implements it, of the probability turned
upside down, with basins filled up to a least depth first, so that noise makes no objects (the h-minima of Soille,
"Morphological image analysis", 2003, section 6.3.4).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import SimpleITK
from numpy.typing import NDArray
from scipy import ndimage

HIGHEST = 255
"""A probability of 1 as a height."""
WORKING_BYTES = 32
"""Per voxel of the box around the mask: numbers of components and what ITK holds for one of them, at most."""

Box = tuple[slice, ...]


def cuts(mask: NDArray[np.bool_], heights: NDArray[np.uint8], depth: int) -> Iterator[tuple[Box, NDArray[np.bool_]]]:
    """Where the components of a mask are to be cut in two or more.

    Args:
        mask: (*spatial); components are connected through faces, edges and corners.
        heights: (*spatial), 0 to `HIGHEST`.
        depth: from the lower of two peaks to the pass between them, at least, 1 to `HIGHEST`.

    Yields:
        The box around a component, and in it what lies on a line (a surface in 3D) between two of its parts: one voxel
        wide, and such that the parts do not even meet at corners. What hangs on a line alone becomes a part as well.
        Components that stay whole are left out.
    """
    numbers, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        inside, height = numbers[box] == number, heights[box]
        highest, lowest = int(height[inside].max()), int(height[inside].min())
        if highest - lowest < depth:
            continue
        surface = np.where(inside, np.minimum(HIGHEST - height, HIGHEST - 1), HIGHEST)  # no way leads around the mask
        line = (_basins(surface.astype(np.uint8), depth) == 0) & inside
        if line.any():
            yield box, line


def _basins(surface: NDArray[np.uint8], depth: int) -> NDArray[np.generic]:
    """Numbers of basins (*spatial) that are at least so deep, 0 on the lines between them."""
    image = SimpleITK.GetImageFromArray(surface)
    found = SimpleITK.MorphologicalWatershed(image, level=depth - 1, markWatershedLine=True, fullyConnected=True)
    result: NDArray[np.generic] = SimpleITK.GetArrayFromImage(found)
    return result
