"""Random changes of the shape of training patches: what is drawn apart from how it is applied.

Rotation, zoom, shear, shift, elastic deformation and the cut of the patch are one interpolation, done here with torch,
because MONAI's RandAffine and RandZoom interpolate twice, over a fixed patch, and take labels by nearest neighbour.
Flips are views. Ranges and probabilities are nnU-Net's (v2, `nnUNetTrainer.get_training_transforms`) unless asked
otherwise. Rotation is in millimetres, not voxels, so anatomy is not sheared when spacing is uneven; where a patch or
spacing is more than three times longer on one axis, rotation and zoom stay in the plane (nnU-Net's "dummy 2D"). How
patches look is changed by `appearance`. Knows nothing of files or batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from torch import Tensor

from medunet.config.derived import mirror_axes
from medunet.config.schema import AugmentConfig, ElasticConfig

_UNEVEN = 3.0
_LONG = 1.5


@dataclass(frozen=True)
class _Preset:
    """What a preset means where the config says nothing; `rotation_degrees` None: by the shape of the patch."""

    probability: float = 0.0
    rotation_degrees: float | None = None
    scale: tuple[float, float] = (0.7, 1.4)
    shift: float = 0.0
    shear_degrees: float = 0.0


_PRESETS = {
    "none": _Preset(),
    "mirror": _Preset(),
    "nnunet": _Preset(probability=0.2),
    "photo": _Preset(probability=0.7, rotation_degrees=25.0, scale=(0.6, 1.6), shift=0.15, shear_degrees=8.0),
}


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
        shear: largest shear of the first axis along the second in radians, where patches are rotated or zoomed.
        shift: largest shift per axis in voxels.
        elastic: deformation; None for none.
    """

    rotation: tuple[float, ...]
    rotation_probability: float
    scale: tuple[float, float]
    scale_probability: float
    scale_axes: tuple[int, ...]
    mirror_axes: tuple[int, ...]
    spacing: tuple[float, ...]
    shear: float = 0.0
    shift: tuple[float, ...] = ()
    elastic: ElasticConfig | None = None


@dataclass(frozen=True)
class SpatialDraw:
    """One draw, in voxels.

    Attributes:
        matrix: takes output offsets from the centre to input offsets; None: the identity.
        flips: axes.
        shift: input offset of the centre, per axis; () for none.
        bend: (rank, *points) displacements added to the input offsets, at points spread evenly over the patch, its
            corners among them, splines between them; None for none.
    """

    matrix: NDArray[np.float64] | None
    flips: tuple[int, ...]
    shift: tuple[float, ...] = ()
    bend: NDArray[np.float64] | None = None

    @property
    def moves(self) -> bool:
        """Whether anything but flips was drawn."""
        return self.matrix is not None or self.bend is not None or any(self.shift)


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
    preset = _PRESETS[config.preset]
    thick = thick_axis(patch, spacing)
    flat = rank == 2 or thick is not None
    degrees = preset.rotation_degrees if config.rotation_degrees is None else config.rotation_degrees
    if degrees is not None:
        limit = float(np.deg2rad(degrees))
    elif rank == 2 and max(patch) / min(patch) > _LONG:
        limit = float(np.deg2rad(15.0))
    else:
        limit = float(np.deg2rad(180.0 if flat else 30.0))
    if rank == 2:
        rotation: tuple[float, ...] = (limit,)
    else:
        rotation = tuple(limit if thick in (None, axis) else 0.0 for axis in range(3))
    shift = preset.shift if config.shift is None else config.shift
    shear = preset.shear_degrees if config.shear_degrees is None else config.shear_degrees
    return SpatialSettings(
        rotation=rotation,
        rotation_probability=_or(config.rotation_probability, preset.probability),
        scale=config.scale_range or preset.scale,
        scale_probability=_or(config.scale_probability, preset.probability),
        scale_axes=tuple(axis for axis in range(rank) if axis != thick),
        mirror_axes=mirror_axes(config, rank),
        spacing=tuple(spacing),
        shear=math.radians(shear),
        shift=tuple(shift * size for size in patch) if shift else (),
        elastic=config.elastic,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


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
    shift = tuple(float(rng.uniform(-limit, limit)) for limit in settings.shift)
    bend = _draw_bend(settings.elastic, rank, rng)
    if not rotate and not zoom:
        return SpatialDraw(None, flips, shift, bend)
    matrix = np.eye(rank)
    if settings.shear:
        matrix[0, 1] = np.tan(rng.uniform(-settings.shear, settings.shear))
    if rotate:
        matrix = matrix @ _rotation(angles)
    if zoom:
        scale = np.ones(rank)
        scale[list(settings.scale_axes)] = 1.0 / factor
        matrix = matrix @ np.diag(scale)
    spacing = np.asarray(settings.spacing)
    return SpatialDraw(matrix * spacing[None, :] / spacing[:, None], flips, shift, bend)


def _draw_bend(elastic: ElasticConfig | None, rank: int, rng: np.random.Generator) -> NDArray[np.float64] | None:
    if elastic is None or rng.random() >= elastic.probability:
        return None
    return rng.normal(0.0, elastic.sigma, (rank, *(elastic.points,) * rank))


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
    """Voxels around the centre that the drawn patch needs: its hull after all changes, one voxel to spare."""
    if not draw.moves:
        return tuple(patch)
    half = (np.asarray(patch) - 1) / 2.0
    if draw.matrix is not None:
        half = np.abs(draw.matrix) @ half
    if draw.shift:
        half = half + np.abs(draw.shift)
    if draw.bend is not None:
        half = half + _farthest(draw.bend, patch)
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
    if draw.moves:
        grid = _grid(patch, image.shape[1:], draw)
        image = _sample(image, grid)
        label = _sample_labels(label, grid)
    if draw.flips:
        image = image.flip([axis + 1 for axis in draw.flips])
        label = label.flip(list(draw.flips))
    return image, label


def _grid(patch: Sequence[int], cut: Sequence[int], draw: SpatialDraw) -> Tensor:
    """Sampling grid (*patch, rank) in grid_sample's reversed, -1..1 coordinates (align_corners)."""
    rank = len(patch)
    offsets = [torch.arange(p, dtype=torch.float32) - (p - 1) / 2 for p in patch]
    half = torch.tensor([max((c - 1) / 2, 0.5) for c in cut], dtype=torch.float32)
    matrix = np.eye(rank) if draw.matrix is None else draw.matrix
    scaled = torch.from_numpy(matrix).float() / half[:, None]
    grid = torch.zeros((*patch, rank))
    for axis in range(rank):
        view = [1] * rank
        view[axis] = -1
        grid += offsets[axis].view([*view, 1]) * scaled[:, axis].flip(0)
    if draw.shift:
        grid += (torch.tensor(draw.shift) / half).flip(0)
    if draw.bend is not None:
        grid += (_displacements(draw.bend, patch) / half).flip(-1)
    return grid


@lru_cache(maxsize=64)
def _spline(points: int, size: int) -> Tensor:
    """(size, points): values at `size` evenly spaced places from those at `points`, the ends among both."""
    at = np.linspace(0.0, 1.0, points)
    spline = make_interp_spline(at, np.eye(points), k=min(3, points - 1))
    return torch.from_numpy(np.asarray(spline(np.linspace(0.0, 1.0, size)), dtype=np.float32))


def _displacements(bend: NDArray[np.float64], patch: Sequence[int]) -> Tensor:
    """(*patch, rank) voxels, from those at the points."""
    dense = torch.from_numpy(bend).float()
    for axis, size in enumerate(patch):
        dense = torch.tensordot(dense, _spline(bend.shape[axis + 1], size), dims=([1], [1]))
    return dense.movedim(0, -1)


def _farthest(bend: NDArray[np.float64], patch: Sequence[int]) -> NDArray[np.float64]:
    """No displacement is larger than this, per axis: splines may reach beyond the points."""
    most = math.prod(
        float(_spline(points, size).abs().sum(1).max()) for points, size in zip(bend.shape[1:], patch, strict=True)
    )
    farthest: NDArray[np.float64] = np.abs(bend).reshape(len(bend), -1).max(axis=1) * most
    return farthest


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
