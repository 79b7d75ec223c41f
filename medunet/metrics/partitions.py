"""How well the objects of an image are told apart: cells between membranes, nuclei that touch.

Overlap says little there: a gap of one pixel in a membrane costs no Dice and makes one cell of two. The scores are
those of the ISBI 2012 challenge (Arganda-Carreras 2015, "Crowdsourcing the creation of image segmentation algorithms
for connectomics", Front. Neuroanat. 9:142). Arrays are (*spatial), 2D or 3D. Needs numpy and scipy only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.errors import GeometryError
from medunet.geometry import format_shape


@dataclass(frozen=True)
class PartitionScore:
    """Agreement of two partitions of one image into objects.

    Only voxels of true objects count. Pairs are of two different voxels, as in scikit-image; the formulas of the paper
    allow for a voxel paired with itself, which changes nothing in images of usual size.

    Attributes:
        rand_split: of the pairs within one true object, the share that lies within one predicted object; 1: nothing was
            split.
        rand_merge: of the pairs within one predicted object, the share that lies within one true object; 1: nothing was
            merged.
        rand_f: harmonic mean of the two, the foreground-restricted Rand F-score of ISBI 2012; 1 minus it is the
            adapted Rand error. None where the reference holds no object of two voxels.
        pixel_error: share of all voxels that are object in one mask and not in the other.
    """

    rand_split: float | None
    rand_merge: float | None
    rand_f: float | None
    pixel_error: float


def score_partition(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, thin: bool = True
) -> PartitionScore:
    """Score the objects of a mask: its components, connected through faces.

    Args:
        prediction: (*spatial), True inside of objects and False on what separates them.
        reference: (*spatial), likewise.
        thin: let the objects of the prediction grow into what separates them until they meet, as ISBI 2012 thins
            borders, so that the width of a membrane does not count. Each voxel goes to the nearest object.

    Raises:
        GeometryError: shapes differ.
    """
    if prediction.shape != reference.shape:
        raise GeometryError(
            f"A prediction of {format_shape(prediction.shape)} voxels cannot be compared with a reference of "
            f"{format_shape(reference.shape)}."
        )
    wrong = float(np.mean(prediction != reference))
    found, _ = ndimage.label(prediction)
    truth, _ = ndimage.label(reference)
    split, merge, f_score = rand_scores(grown(found) if thin else found, truth)
    return PartitionScore(split, merge, f_score, wrong)


def rand_scores(
    found: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[float | None, float | None, float | None]:
    """Split, merge and F-score of two partitions, see `PartitionScore`.

    Args:
        found: (*spatial) numbers of objects; 0, what belongs to none, counts as one more.
        truth: (*spatial) numbers of objects; where it is 0 nothing counts (foreground-restricted).
    """
    inside, width = truth > 0, int(truth.max(initial=0)) + 1
    both = found[inside].astype(np.int64) * width + truth[inside]
    common, real, predicted = (_pairs(numbers) for numbers in (both, truth[inside], found[inside]))
    split, merge = (common / every if every else None for every in (real, predicted))
    return split, merge, 2 * common / (real + predicted) if real and predicted else None


def _pairs(numbers: NDArray[np.integer]) -> int:
    """How many ordered pairs of different voxels have one number."""
    _, counts = np.unique(numbers, return_counts=True)
    return int((counts.astype(np.int64) * (counts - 1)).sum())


def grown(objects: NDArray[np.integer]) -> NDArray[np.integer]:
    """Numbers of objects (*spatial), each voxel that belongs to none given to the nearest; unchanged without any."""
    if not objects.any():
        return objects
    nearest = ndimage.distance_transform_edt(objects == 0, return_distances=False, return_indices=True)
    result: NDArray[np.integer] = objects[tuple(nearest)]
    return result
