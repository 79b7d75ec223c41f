"""Losses made of distances to surfaces: Hausdorff and boundary loss.

Distances are Euclidean, in voxels of the network's grid, between centres of voxels; scipy computes them on the CPU,
one transform per case, structure and side, whatever the device. No gradient goes through them. MONAI's
HausdorffDTLoss gives the same values (tested), but knows neither ignored voxels nor partially labelled cases; its
BoundaryLoss counts half a voxel differently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from medunet.config.losses import HausdorffConfig
from medunet.losses.evidence import Evidence, mean
from medunet.losses.term import Term

_Mask = NDArray[np.bool_]
_Map = NDArray[Any]


def unsigned_distances(inside: _Mask, outside: _Mask) -> _Map:
    """Distance of each voxel to the nearest one of the other side, at least 1; 0 where one side is empty.

    Args:
        inside: (*S), the structure.
        outside: (*S), what is not; voxels in neither are unknown and get any finite number.
    """
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape)
    distances: _Map = np.where(inside, distance_transform_edt(~outside), distance_transform_edt(~inside))
    return distances


def signed_distances(inside: _Mask, outside: _Mask) -> _Map:
    """Distance of each voxel to the surface, which lies half-way between neighbours; negative inside.

    Args:
        inside, outside: as in `unsigned_distances`; 0 everywhere where one of them is empty.
    """
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape)
    distances = unsigned_distances(inside, outside) - 0.5
    return np.where(inside, -distances, distances)


class Hausdorff(Term):
    """(p - t)^2 (dt^alpha + dp^alpha), mean over voxels and structures (Karimi 2019, equation 8); at least 0.

    p is the probability, t the truth (0 or 1), dt the distance to the surface of the truth, dp that to the surface
    of the prediction, which is p > 1/2. Its unit is voxels^alpha.
    """

    config: HausdorffConfig

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        probabilities = evidence.structures(evidence.probabilities)
        weights = _maps(evidence, evidence.targets, self._powers)
        weights += _maps(evidence, probabilities.detach() > 0.5, self._powers)
        errors = (probabilities - evidence.targets.to(probabilities.dtype)).square()
        return mean(errors * weights, evidence.structure_factors())

    def _powers(self, inside: _Mask, outside: _Mask) -> _Map:
        powers: _Map = unsigned_distances(inside, outside) ** self.config.alpha
        return powers


class Surface(Term):
    """p times the signed distance to the true surface, mean over voxels and structures (Kervadec 2019, equation 5).

    A structure that is absent from the patch, or fills it, has no surface and adds 0. The minimum is the sum of the
    distances inside of the truth over the number of values, a negative number, and only the truth reaches it. (Some
    count the distance inside from the outermost voxels, which then cost nothing whether they are found or not.)
    """

    def forward(self, evidence: Evidence) -> Tensor:
        """One number."""
        distances = _maps(evidence, evidence.targets, signed_distances)
        return mean(evidence.structures(evidence.probabilities) * distances, evidence.structure_factors())


def _maps(evidence: Evidence, masks: Tensor, function: Callable[[_Mask, _Mask], _Map]) -> Tensor:
    """`function` of each structure that counts, as (B, structures, *S) of the evidence's type and device.

    Args:
        evidence: says which voxels are known and which structures count.
        masks: (B, structures, *S) bool.
        function: of one structure's inside and outside, (*S) each.
    """
    inside = masks.cpu().numpy()
    known = None if evidence.counted is None else evidence.counted.cpu().numpy()
    counts = np.ones(inside.shape[:2], dtype=bool)
    if evidence.channels is not None:
        counts = evidence.structures(evidence.channels).cpu().numpy()
    result = np.zeros(inside.shape, dtype=np.float64 if evidence.logits.dtype == torch.float64 else np.float32)
    for case, structure in np.argwhere(counts):
        outside = ~inside[case, structure]
        if known is not None:
            outside &= known[case, 0]
        result[case, structure] = function(inside[case, structure], outside)
    return torch.from_numpy(result).to(evidence.logits.device)
