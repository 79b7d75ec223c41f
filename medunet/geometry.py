"""Where voxels lie in the patient: `Geometry`, and the change of axes that leads to a canonical one.

World coordinates are RAS (x to the Right, y to Anterior, z to Superior), in millimetres, as in NIfTI.
DICOM and ITK use LPS; `RAS_FROM_LPS` is the one place where the two meet. Array axes are in the order
of the file (`i, j, k`), never reversed. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medunet.errors import GeometryError

RAS_FROM_LPS: NDArray[np.float64] = np.diag([-1.0, -1.0, 1.0, 1.0])
"""4x4 matrix that takes LPS millimetres (DICOM, ITK) to RAS millimetres (NIfTI), and back."""

_CODES = (("R", "L"), ("A", "P"), ("S", "I"))
_SHEAR_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Reorientation:
    """A permutation and flips of array axes; exact and invertible, no interpolation.

    Attributes:
        axes: source axis of every target axis.
        flips: whether the target axis runs against its source axis.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]

    def view(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The last `len(axes)` axes of `array` reordered, in the same memory."""
        lead = array.ndim - len(self.axes)
        moved = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        index = (slice(None),) * lead + tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        result: NDArray[np.generic] = moved[index]
        return result

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Reorder the last `len(axes)` axes of `array`; the result is C-contiguous."""
        return np.ascontiguousarray(self.view(array))

    def undo(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Inverse of `apply`: `undo(apply(a))` equals `a`."""
        lead = array.ndim - len(self.axes)
        index = (slice(None),) * lead + tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)
        back = np.argsort(self.axes)
        return np.ascontiguousarray(array[index].transpose(*range(lead), *(lead + int(axis) for axis in back)))


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume or picture.

    Attributes:
        shape: voxels per array axis, 2 or 3 of them.
        spacing: millimetres between voxel centres per array axis, positive.
        origin: RAS millimetres of the centre of voxel (0, ..., 0).
        direction: row-major square matrix; column `a` is the unit vector of array axis `a` in RAS.

    Raises:
        GeometryError: zero or non-finite spacing, a direction that is no rotation or reflection
            (singular or sheared), or lengths that disagree.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rank = len(self.shape)
        if rank not in (2, 3) or len(self.spacing) != rank or len(self.origin) != rank:
            raise GeometryError(
                f"A geometry needs 2 or 3 axes with one spacing and origin each, not shape {self.shape}, "
                f"spacing {self.spacing}, origin {self.origin}."
            )
        if min(self.shape) < 1:
            raise GeometryError(f"Every axis needs at least one voxel, but the shape is {self.shape}.")
        if not all(np.isfinite(self.spacing)) or min(self.spacing) <= 0:
            raise GeometryError(
                f"The spacing is {format_mm(self.spacing)}; every axis needs a positive, finite one.",
                "Repair the header (nib-ls shows it).",
            )
        matrix = np.asarray(self.direction)
        if matrix.shape != (rank, rank) or not np.isfinite(matrix).all() or not all(np.isfinite(self.origin)):
            raise GeometryError("The affine holds values that are not finite, or is of another rank than the image.")
        shear = np.abs(matrix.T @ matrix - np.eye(rank)).max()
        if shear > _SHEAR_TOLERANCE:
            raise GeometryError(
                f"The axes of the image are not perpendicular (cosine {shear:.3f}); the affine is sheared or singular.",
                "Resample the image to a rectangular grid first.",
            )

    @classmethod
    def from_affine(cls, affine: NDArray[np.floating], shape: Sequence[int]) -> Geometry:
        """Build from a RAS affine of shape (rank + 1, rank + 1) that maps array indices to millimetres.

        Raises:
            GeometryError: the affine is singular, sheared or not finite.
        """
        matrix = np.asarray(affine, dtype=np.float64)[:-1, :-1]
        spacing = np.sqrt((matrix**2).sum(axis=0))
        if (
            not np.isfinite(np.asarray(affine)).all()
            or (spacing <= 0).any()
            or np.linalg.matrix_rank(matrix) < len(shape)
        ):
            raise GeometryError(
                f"The affine is singular or not finite (spacing {format_mm(spacing.tolist())}); "
                "it must map voxels to distinct points in millimetres.",
                "Repair the sform/qform of the header.",
            )
        direction = matrix / spacing
        return cls(
            shape=tuple(int(n) for n in shape),
            spacing=tuple(float(s) for s in spacing),
            origin=tuple(float(o) for o in np.asarray(affine, dtype=np.float64)[:-1, -1]),
            direction=tuple(tuple(float(v) for v in row) for row in direction),
        )

    @classmethod
    def plain(cls, shape: Sequence[int], spacing: Sequence[float] | None = None) -> Geometry:
        """A grid along the world axes with its origin at zero: pictures, arrays without a header."""
        rank = len(shape)
        return cls(
            shape=tuple(int(n) for n in shape),
            spacing=tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * rank,
            origin=(0.0,) * rank,
            direction=tuple(tuple(float(i == j) for j in range(rank)) for i in range(rank)),
        )

    @property
    def rank(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """(rank + 1, rank + 1) matrix from array indices to RAS millimetres."""
        matrix = np.eye(self.rank + 1)
        matrix[:-1, :-1] = np.asarray(self.direction) * np.asarray(self.spacing)
        matrix[:-1, -1] = self.origin
        matrix.flags.writeable = False  # it is shared by all who ask
        return matrix

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (area in cm^2 / 10 for a picture: spacing product / 1000)."""
        return float(np.prod(self.spacing)) / 1000.0

    def _world_axes(self) -> tuple[int, ...]:
        """World axis (0 = R/L, 1 = A/P, 2 = S/I) nearest to each array axis, each used once."""
        cosines = np.abs(np.asarray(self.direction))
        chosen = [-1] * self.rank
        for flat in np.argsort(-cosines, axis=None, kind="stable"):
            world, axis = divmod(int(flat), self.rank)
            if chosen[axis] < 0 and world not in chosen:
                chosen[axis] = world
        return tuple(chosen)

    @property
    def axcodes(self) -> str:
        """Letters of the direction in which each array axis grows, for example "RAS" or "LPS"."""
        letters = []
        for axis, world in enumerate(self._world_axes()):
            positive = self.direction[world][axis] >= 0
            letters.append(_CODES[world][0 if positive else 1])
        return "".join(letters)

    @property
    def tilt_degrees(self) -> float:
        """Largest angle between an array axis and the axis of the patient nearest to it; no reorientation undoes it."""
        cosines = [abs(self.direction[world][axis]) for axis, world in enumerate(self._world_axes())]
        return float(np.degrees(np.arccos(min(1.0, *cosines))))

    def reorientation(self, axcodes: str) -> Reorientation:
        """The permutation and flips that make `axcodes` of the result equal to `axcodes`.

        Args:
            axcodes: one letter per axis out of R/L, A/P, S/I, for example "RAS".

        Raises:
            GeometryError: the letters do not name every axis once.
        """
        here = self._world_axes()
        targets = [next((w for w, pair in enumerate(_CODES) if letter in pair), -1) for letter in axcodes]
        if sorted(targets) != sorted(here):
            raise GeometryError(
                f'Orientation "{axcodes}" does not name each of the {self.rank} axes once.',
                'Set preprocess.orientation to letters such as "RAS" or "ASR" (pictures take two, such as "RA").',
            )
        axes, flips = [], []
        for letter, world in zip(axcodes, targets, strict=True):
            axis = here.index(world)
            axes.append(axis)
            flips.append(self.axcodes[axis] != letter)
        return Reorientation(tuple(axes), tuple(flips))

    def reoriented(self, change: Reorientation) -> Geometry:
        """The geometry of `change.apply(array)`."""
        affine = self.affine
        rank = self.rank
        result = np.eye(rank + 1)
        result[:-1, -1] = affine[:-1, -1]
        for target, (axis, flip) in enumerate(zip(change.axes, change.flips, strict=True)):
            column = affine[:-1, axis]
            result[:-1, target] = -column if flip else column
            if flip:
                result[:-1, -1] += column * (self.shape[axis] - 1)
        return Geometry.from_affine(result, [self.shape[axis] for axis in change.axes])

    def cropped(self, start: Sequence[int], shape: Sequence[int]) -> Geometry:
        """The grid of a box of `shape` voxels whose first voxel is `start`."""
        origin = self.affine[:-1, :-1] @ np.asarray(start, dtype=np.float64) + np.asarray(self.origin)
        return Geometry(tuple(int(n) for n in shape), self.spacing, tuple(float(o) for o in origin), self.direction)

    def resampled(self, shape: Sequence[int]) -> Geometry:
        """The grid of `shape` voxels over the same field of view (outer voxel faces stay where they are)."""
        spacing = tuple(s * n / m for s, n, m in zip(self.spacing, self.shape, shape, strict=True))
        shift = (np.asarray(spacing) - np.asarray(self.spacing)) / 2.0
        origin = np.asarray(self.origin) + np.asarray(self.direction) @ shift
        return Geometry(tuple(int(n) for n in shape), spacing, tuple(float(o) for o in origin), self.direction)

    def difference(self, other: Geometry, tolerance_mm: float = 1e-2) -> str:
        """Say in words how `other` differs from this grid; empty when they agree.

        Grids agree when the shapes are equal, the spacings are equal to 1 % (this decides for axes of one voxel)
        and no corner lies more than `tolerance_mm` plus 1e-4 of the longest edge away (float32 headers round).
        """
        if self.shape != other.shape:
            return f"shape {format_shape(other.shape)} instead of {format_shape(self.shape)}"
        if not np.allclose(self.spacing, other.spacing, rtol=1e-2, atol=0):
            return f"spacing {format_mm(other.spacing)} instead of {format_mm(self.spacing)}"
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in self.shape), indexing="ij"), -1).reshape(-1, self.rank)
        homogeneous = np.concatenate([corners, np.ones((len(corners), 1))], axis=1)
        distance = float(np.linalg.norm((homogeneous @ (self.affine - other.affine).T)[:, :-1], axis=1).max())
        extent = max(s * n for s, n in zip(self.spacing, self.shape, strict=True))
        if distance <= tolerance_mm + 1e-4 * extent:
            return ""
        if not np.allclose(self.spacing, other.spacing, rtol=1e-3, atol=1e-4):
            return f"spacing {format_mm(other.spacing)} instead of {format_mm(self.spacing)}"
        if self.axcodes != other.axcodes:
            return f"orientation {other.axcodes} instead of {self.axcodes}"
        return f"an affine that puts a corner {distance:.2f} mm away"


def bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds all of `mask` (*spatial), one slice per axis; None if it is empty."""
    box = []
    for axis in range(mask.ndim):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not hits.size:
            return None
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def format_mm(spacing: Sequence[float]) -> str:
    """`0.7 x 0.7 x 5 mm`."""
    return " x ".join(f"{value:.4g}" for value in spacing) + " mm"


def format_shape(shape: Sequence[int]) -> str:
    """`512x512x90`."""
    return "x".join(str(n) for n in shape)
