"""Random changes of training patches: what is drawn apart from how it is applied.

Rotation, zoom and the cut of the patch are one interpolation, done here with torch, because MONAI's
RandAffine and RandZoom interpolate twice, over a fixed patch, and take labels by nearest neighbour. Flips are
views. Intensity changes are MONAI's transforms. The list and the probabilities are nnU-Net's (v2,
`nnUNetTrainer.get_training_transforms`); its second coin per channel for blur and low resolution is folded into
the probability. Rotation is in millimetres, not voxels, so anatomy is not sheared when spacing is uneven; where a
patch or spacing is more than three times longer on one axis, rotation and zoom stay in the plane (nnU-Net's
"dummy 2D"). Knows nothing of files or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandSimulateLowResolution,
)
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.derived import mirror_axes
from medunet.config.schema import AugmentConfig

_UNEVEN = 3.0
_LONG = 1.5


@dataclass(frozen=True)
class SpatialSettings:
    """What may happen to the shape of a patch.

    Attributes:
        rotation: largest angle about each axis in radians (one entry for 2D).
        rotation_probability, scale_probability: shares of patches.
        scale: smallest and largest zoom.
        scale_axes: axes that are zoomed.
        mirror_axes: axes that are flipped with probability 1/2 each.
        spacing: millimetres per axis.
    """

    rotation: tuple[float, ...]
    rotation_probability: float
    scale: tuple[float, float]
    scale_probability: float
    scale_axes: tuple[int, ...]
    mirror_axes: tuple[int, ...]
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class SpatialDraw:
    """One draw: `matrix` takes output offsets to input offsets in voxels (None: identity); `flips` are axes."""

    matrix: NDArray[np.float64] | None
    flips: tuple[int, ...]


def thick_axis(patch: Sequence[int], spacing: Sequence[float]) -> int | None:
    """The axis along which a 3D patch is more than three times thinner or its voxels thicker; None if there is none."""
    if len(patch) != 3:
        return None
    if max(spacing) / min(spacing) > _UNEVEN:
        return int(np.argmax(spacing))
    if max(patch) / min(patch) > _UNEVEN:
        return int(np.argmin(patch))
    return None


def spatial_settings(config: AugmentConfig, patch: Sequence[int], spacing: Sequence[float]) -> SpatialSettings:
    """Resolve preset and overrides for a patch (one size and spacing in mm per axis)."""
    rank = len(patch)
    active = config.preset == "nnunet"
    thick = thick_axis(patch, spacing)
    flat = rank == 2 or thick is not None
    if config.rotation_degrees is not None:
        limit = float(np.deg2rad(config.rotation_degrees))
    elif rank == 2 and max(patch) / min(patch) > _LONG:
        limit = float(np.deg2rad(15.0))
    else:
        limit = float(np.deg2rad(180.0 if flat else 30.0))
    if rank == 2:
        rotation: tuple[float, ...] = (limit,)
    else:
        rotation = tuple(limit if thick in (None, axis) else 0.0 for axis in range(3))
    default = 0.2 if active else 0.0
    return SpatialSettings(
        rotation=rotation,
        rotation_probability=default if config.rotation_probability is None else config.rotation_probability,
        scale=config.scale_range or (0.7, 1.4),
        scale_probability=default if config.scale_probability is None else config.scale_probability,
        scale_axes=tuple(axis for axis in range(rank) if axis != thick),
        mirror_axes=mirror_axes(config, rank),
        spacing=tuple(spacing),
    )


def draw_spatial(settings: SpatialSettings, rng: np.random.Generator) -> SpatialDraw:
    """Draw rotation, zoom and flips for one patch."""
    rank = len(settings.spacing)
    rotate = rng.random() < settings.rotation_probability
    zoom = rng.random() < settings.scale_probability
    angles = [rng.uniform(-limit, limit) for limit in settings.rotation]
    low, high = settings.scale
    # Shrinking and growing are equally likely, as in nnU-Net ("BGContrast").
    shrink = rng.random() < 0.5
    if low < 1 < high:
        low, high = (low, 1.0) if shrink else (1.0, high)
    factor = rng.uniform(low, high)
    flips = tuple(axis for axis in settings.mirror_axes if rng.random() < 0.5)
    if not rotate and not zoom:
        return SpatialDraw(None, flips)
    matrix = np.eye(rank)
    if rotate:
        matrix = matrix @ _rotation(angles)
    if zoom:
        scale = np.ones(rank)
        scale[list(settings.scale_axes)] = 1.0 / factor
        matrix = matrix @ np.diag(scale)
    spacing = np.asarray(settings.spacing)
    return SpatialDraw(matrix * spacing[None, :] / spacing[:, None], flips)


def _rotation(angles: Sequence[float]) -> NDArray[np.float64]:
    if len(angles) == 1:
        c, s = np.cos(angles[0]), np.sin(angles[0])
        return np.array([[c, -s], [s, c]])
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (i for i in range(3) if i != axis)
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        result = result @ turn
    return result


def cut_size(patch: Sequence[int], draw: SpatialDraw) -> tuple[int, ...]:
    """Voxels around the centre that the drawn patch needs: its hull after the matrix, one voxel to spare."""
    if draw.matrix is None:
        return tuple(patch)
    half = np.abs(draw.matrix) @ ((np.asarray(patch) - 1) / 2.0)
    # Same parity as the patch, so that both have the same centre.
    return tuple(int(2 * np.ceil((h + 1 - (p - 1) / 2) - 1e-9) + p) for h, p in zip(half, patch, strict=True))


def apply_spatial(image: Tensor, label: Tensor, patch: Sequence[int], draw: SpatialDraw) -> tuple[Tensor, Tensor]:
    """Cut a patch out of a cut of `cut_size` and flip it.

    Args:
        image: (C, *cut) float32; a weight map may be one of its channels.
        label: (*cut) integer indices.
        patch: size of the result.
        draw: from `draw_spatial`.

    Returns:
        Image (C, *patch) and label (*patch). Image values are interpolated linearly, labels by the largest
        linearly interpolated share.
    """
    if draw.matrix is not None:
        grid = _grid(patch, image.shape[1:], draw.matrix)
        image = _sample(image, grid)
        label = _sample_labels(label, grid)
    if draw.flips:
        image = image.flip([axis + 1 for axis in draw.flips])
        label = label.flip(list(draw.flips))
    return image, label


def _grid(patch: Sequence[int], cut: Sequence[int], matrix: NDArray[np.float64]) -> Tensor:
    """Sampling grid (*patch, rank) in grid_sample's reversed, -1..1 coordinates (align_corners)."""
    rank = len(patch)
    offsets = [torch.arange(p, dtype=torch.float32) - (p - 1) / 2 for p in patch]
    half = torch.tensor([max((c - 1) / 2, 0.5) for c in cut], dtype=torch.float32)
    scaled = torch.from_numpy(matrix).float() / half[:, None]
    grid = torch.zeros((*patch, rank))
    for axis in range(rank):
        view = [1] * rank
        view[axis] = -1
        grid += offsets[axis].view([*view, 1]) * scaled[:, axis].flip(0)
    return grid


def _sample(array: Tensor, grid: Tensor) -> Tensor:
    return torch.nn.functional.grid_sample(
        array[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def _sample_labels(label: Tensor, grid: Tensor) -> Tensor:
    """The label with the largest share at each point; one label at a time, so memory is that of two volumes."""
    present = torch.unique(label).tolist()
    result = torch.full(tuple(grid.shape[:-1]), present[0], dtype=label.dtype)
    if len(present) == 1:
        return result
    best = _sample((label == present[0])[None].float(), grid)[0]
    for index in present[1:]:
        share = _sample((label == index)[None].float(), grid)[0]
        result.masked_fill_(share > best, index)
        torch.maximum(best, share, out=best)
    return result


class IntensityAugment:
    """Noise, blur, brightness, contrast, low resolution and gamma, in nnU-Net's order, on (C, *patch) float32.

    Args:
        strength: multiplies every probability; 0 switches all off.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self.transforms = {rank: _intensity_chain(strength, rank) for rank in (2, 3)} if strength > 0 else {}

    def __call__(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """Apply with randomness from `rng` alone, whatever was drawn before, from several threads at once."""
        for shared in self.transforms.get(image.ndim - 1, ()):
            transform = copy(shared)
            transform.set_random_state(seed=int(rng.integers(2**32)))
            image = transform(image)
        return image.as_tensor() if isinstance(image, MetaTensor) else image


def _intensity_chain(strength: float, rank: int) -> list[RandomizableTransform]:
    def share(probability: float) -> float:
        return min(1.0, probability * strength)

    blur, linear = (0.5, 1.0), "trilinear" if rank == 3 else "bilinear"
    return [
        RandGaussianNoise(prob=share(0.1), mean=0.0, std=0.1),
        RandGaussianSmooth(sigma_x=blur, sigma_y=blur, sigma_z=blur, prob=share(0.1)),
        RandScaleIntensity(factors=0.25, prob=share(0.15)),
        RandScaleIntensityFixedMean(factors=0.25, prob=share(0.15), fixed_mean=True, preserve_range=True),
        RandSimulateLowResolution(prob=share(0.125), zoom_range=(0.5, 1.0), upsample_mode=linear),
        RandAdjustContrast(prob=share(0.1), gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrast(prob=share(0.3), gamma=(0.7, 1.5), invert_image=False, retain_stats=True),
    ]


def intensity_augment(config: AugmentConfig) -> IntensityAugment:
    """The intensity changes of a preset."""
    default = 1.0 if config.preset == "nnunet" else 0.0
    return IntensityAugment(default if config.intensity_strength is None else config.intensity_strength)
