"""Soft-edged shapes on a voxel grid: what a phantom is painted with.

A shape is an implicit function: millimetres, negative inside, about the distance near its surface. Painting
turns it into the part of each voxel that it covers, so edges show partial volume as in a scan.
Knows no anatomy.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]
"""One number per voxel; float32 throughout, which halves time and memory."""
Point = Sequence[float]
"""x, y, z in millimetres."""
Path = Sequence[Sequence[float]]
"""Corners of a polyline: x, y, z and the radius there, millimetres."""

_FAR = 1e4


@dataclass(frozen=True)
class Canvas:
    """A scan in the making; every array is (x, y, z) of one shape.

    Attributes:
        x: millimetres to the Right of the body's centre, in the patient's own (deformed) frame.
        y: millimetres to Anterior.
        z: millimetres to Superior.
        wall: millimetres outside the inner face of the trunk's wall, negative in the cavity.
        dome: height of the diaphragm above this (x, y), in millimetres of z.
        texture: smooth random numbers of mean 0 and standard deviation 1.
        hu: the image, Hounsfield units.
        labels: the mask, label indices.
    """

    x: Field
    y: Field
    z: Field
    wall: Field
    dome: Field
    texture: Field
    hu: Field
    labels: NDArray[np.uint8]

    def near(self, low: Point, high: Point, margin: float = 22.0) -> Canvas:
        """The part of the canvas around a box of the frame; a view, so painting it paints the whole.

        Args:
            low: smallest x, y, z in millimetres.
            high: largest ones.
            margin: millimetres added on each side, for the bend of the frame.
        """
        if self.hu.size == 0:
            return self
        nx, ny, nz = (n // 2 for n in self.hu.shape)
        lines = (self.x[:, ny, nz], self.y[nx, :, nz], self.z[nx, ny, :])
        index = tuple(_span(*item, margin) for item in zip(lines, low, high, strict=True))
        return Canvas(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def paint(self, shape: Field, value: float | Field, label: int | None = 0, *, strength: float = 1.0) -> None:
        """Lay a shape over what is there.

        Args:
            shape: implicit function on this canvas.
            value: Hounsfield units inside.
            label: index for voxels that are covered by half or more; None keeps the labels.
            strength: 1 hides what was there, less lets it shine through.
        """
        if shape.size == 0:
            return
        part = coverage(shape) * np.float32(strength)
        self.hu[...] += part * (np.asarray(value, dtype=np.float32) - self.hu)
        if label is not None:
            self.labels[part >= 0.5] = label


def _span(line: Field, low: float, high: float, margin: float) -> slice:
    """Indices of a rising line that reach from `low` to `high`: none, or two at least (slopes need two)."""
    start, stop = np.searchsorted(line, [low - margin, high + margin])
    if start == stop:
        return slice(0, 0)
    return slice(min(int(start), len(line) - 2), max(int(stop), int(start) + 2))


def coverage(shape: Field) -> Field:
    """Part of each voxel that lies inside, 0 to 1, taking the surface within a voxel as a plane."""
    change = np.zeros_like(shape)
    for axis in range(shape.ndim):
        change += _change(shape, axis)
    return np.asarray(np.clip(0.5 - shape / np.maximum(change, 0.5), 0.0, 1.0))


def _change(shape: Field, axis: int) -> Field:
    """Steepest change to a neighbour along an axis; central differences would vanish where a shape is thin."""
    steps = np.moveaxis(np.abs(np.diff(shape, axis=axis)), axis, 0)
    change = np.zeros_like(shape)
    lines = np.moveaxis(change, axis, 0)
    lines[1:] = steps
    np.maximum(lines[:-1], steps, out=lines[:-1])
    return change


def both(first: Field, second: Field, rounding: float = 0.0) -> Field:
    """Intersection; edges where the two meet are rounded over `rounding` millimetres."""
    result = np.maximum(first, second)
    if rounding > 0:
        blend = np.maximum(rounding - np.abs(first - second), 0.0)
        result = result + blend * blend / np.float32(4.0 * rounding)
    return result


def either(first: Field, second: Field, rounding: float = 0.0) -> Field:
    """Union; the groove between the two is filled over `rounding` millimetres."""
    return -both(-first, -second, rounding)


def ellipsoid(canvas: Canvas, centre: Point, radii: Point, turn: float = 0.0, tilt: float = 0.0) -> Field:
    """An ellipsoid.

    Args:
        canvas: where to evaluate it.
        centre: millimetres in the frame.
        radii: millimetres along its three axes.
        turn: radians about z, first axis towards anterior.
        tilt: radians about y, third axis towards the right.
    """
    x, y, z = canvas.x - np.float32(centre[0]), canvas.y - np.float32(centre[1]), canvas.z - np.float32(centre[2])
    if tilt:
        x, z = _rotated(x, z, -tilt)
    if turn:
        x, y = _rotated(x, y, turn)
    square = sum((axis / np.float32(radius)) ** 2 for axis, radius in zip((x, y, z), radii, strict=True))
    return np.asarray((np.sqrt(square) - 1.0) * np.float32(min(radii)), dtype=np.float32)


def oval(first: Field, second: Field, first_radius: float, second_radius: float) -> Field:
    """An ellipse in two coordinates (measured from its centre), endless along the third."""
    radius = np.sqrt((first / first_radius) ** 2 + (second / second_radius) ** 2)
    return np.asarray((radius - 1.0) * min(first_radius, second_radius))


def _rotated(first: Field, second: Field, angle: float) -> tuple[Field, Field]:
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return first * cosine + second * sine, second * cosine - first * sine


def tube(canvas: Canvas, path: Path, rounding: float = 0.0) -> Field:
    """A tube along a polyline of (x, y, z, radius), millimetres; the radius changes evenly between corners."""
    result = np.full_like(canvas.hu, _FAR)
    for start, stop in itertools.pairwise(path):
        begin = np.asarray(start, dtype=np.float32)
        along = np.asarray(stop, dtype=np.float32) - begin
        x, y, z = canvas.x - begin[0], canvas.y - begin[1], canvas.z - begin[2]
        length = max(float(along[:3] @ along[:3]), 1e-6)
        t = np.clip((x * along[0] + y * along[1] + z * along[2]) / np.float32(length), 0.0, 1.0)
        distance = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
        piece = distance - (begin[3] + t * along[3])
        result = either(result, piece, rounding)
    return result


def path_box(path: Path, extra: float = 0.0) -> tuple[Point, Point]:
    """Smallest box around a tube, as (low, high), with `extra` millimetres all round."""
    points = np.asarray(path)
    reach = points[:, 3:].max() + extra
    low, high = points[:, :3].min(axis=0) - reach, points[:, :3].max(axis=0) + reach
    return low.tolist(), high.tolist()


def waves(points: Sequence[Field], rng: np.random.Generator, length: float, count: int = 5) -> Field:
    """A smooth random field of standard deviation near 1.

    Args:
        points: x, y, z in millimetres, any shapes that broadcast.
        rng: draws directions and phases; their number does not depend on the grid.
        length: typical wavelength in millimetres.
        count: number of plane waves.
    """
    directions = rng.normal(size=(count, 3))
    directions *= (2 * np.pi / length) * rng.uniform(0.7, 1.3, (count, 1)) / np.linalg.norm(directions, axis=1)[:, None]
    phases = rng.uniform(0, 2 * np.pi, count)
    x, y, z = points
    total = np.float32(0.0)
    for (kx, ky, kz), phase in zip(directions.astype(np.float32), phases.astype(np.float32), strict=True):
        total = total + np.sin(kx * x + ky * y + kz * z + phase)
    return np.asarray(total * np.float32(np.sqrt(2.0 / count)), dtype=np.float32)
