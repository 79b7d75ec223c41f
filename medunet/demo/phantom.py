"""A synthetic abdominal CT with its mask: `make_patient`.

The patient is painted structure by structure onto the grid (`trunk`, `organs`), bent by a smooth random
deformation, laid on a table and covered with the noise of a reconstruction. The anatomy depends on the
seed; the grid only decides how finely it is sampled. Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.demo import organs, trunk
from medunet.demo.shapes import Canvas, Field, waves
from medunet.errors import UsageError
from medunet.geometry import Geometry, format_shape

LABELS = {
    "background": 0,
    "liver": organs.LIVER,
    "tumour": organs.TUMOUR,
    "spleen": organs.SPLEEN,
    "kidneys": organs.KIDNEYS,
}
"""Names and indices of the labels, as `LabelMap.from_mapping` takes them."""

_MIN_VOXELS = 8


@dataclass(frozen=True)
class Patient:
    """One synthetic study.

    Attributes:
        image: int16 (x, y, z), Hounsfield units.
        labels: uint8 (x, y, z), indices as in `LABELS`.
        geometry: the grid, RAS.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    geometry: Geometry


def make_patient(
    seed: int,
    *,
    shape: tuple[int, int, int] = (96, 96, 48),
    spacing: tuple[float, float, float] = (4.0, 4.0, 5.0),
) -> Patient:
    """Draw a patient from diaphragm to kidneys, lying on the back; the same seed gives the same voxels.

    Args:
        seed: 0 or greater.
        shape: voxels along x (Right), y (Anterior), z (Superior); 8 or more each.
        spacing: millimetres between voxels. Fields of view below 380 x 380 x 240 mm cut anatomy off.

    Raises:
        UsageError: a negative seed or too few voxels.
        GeometryError: a spacing that is not positive and finite.
    """
    if seed < 0:
        raise UsageError(f"A seed is 0 or greater, not {seed}.")
    if len(shape) != 3 or min(shape) < _MIN_VOXELS:
        raise UsageError(f"A phantom needs three axes of {_MIN_VOXELS} voxels or more, not {format_shape(shape)}.")
    rng = np.random.default_rng(seed)
    grain = np.random.default_rng([seed, 1])
    geometry = _grid(shape, spacing, rng)
    room = _room(geometry)
    build = trunk.Build.draw(rng)
    canvas = _blank(room, spacing, build, rng, grain)
    contrast = organs.Contrast.draw(rng, build.blood)
    trunk.paint_trunk(canvas, build, rng)
    organs.paint_bowel(canvas, contrast, rng)
    organs.paint_stomach(canvas, contrast, rng)
    organs.paint_spleen(canvas, contrast, build.dome_left, rng)
    organs.paint_liver(canvas, contrast, rng)
    organs.paint_kidneys(canvas, contrast, rng)
    trunk.paint_muscles(canvas)
    organs.paint_great_vessels(canvas, contrast, rng)
    trunk.paint_spine(canvas, build)
    trunk.paint_ribs(canvas, build)
    trunk.paint_table(canvas.hu, room[0][:, 0, 0], room[1][0, :, 0])
    noisy = canvas.hu + _noise(canvas.hu, room, spacing, rng.uniform(12, 18), grain)
    image = np.clip(np.rint(noisy), -1024, 3071).astype(np.int16)
    return Patient(image, _without_islands(canvas.labels), geometry)


def _without_islands(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Remove the specks that an organ leaves where another one cut it, less than a tenth of its largest piece."""
    for group in ((organs.LIVER, organs.TUMOUR), (organs.SPLEEN,), (organs.KIDNEYS,)):
        pieces, count = ndimage.label(np.isin(labels, group))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
        sizes[0] = 0
        labels[(sizes < 0.1 * sizes.max())[pieces] & (pieces > 0)] = 0
    return labels


def _grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], rng: np.random.Generator) -> Geometry:
    """A centred RAS grid; the origin varies by some millimetres, as tables and fields of view do."""
    shift = np.round(rng.uniform(-12.0, 12.0, 3), 2)
    plain = Geometry.plain(shape, spacing)
    origin = tuple(float(-(n - 1) * s / 2.0 + d) for n, s, d in zip(plain.shape, plain.spacing, shift, strict=True))
    return Geometry(plain.shape, plain.spacing, origin, plain.direction)


def _room(geometry: Geometry) -> tuple[Field, Field, Field]:
    """Millimetres from the centre of the field of view, one open axis each."""
    lines = [
        ((np.arange(n) - (n - 1) / 2.0) * s).astype(np.float32)
        for n, s in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    x, y, z = np.meshgrid(*lines, indexing="ij", sparse=True)
    return x, y, z


def _blank(
    room: tuple[Field, Field, Field],
    spacing: tuple[float, float, float],
    build: trunk.Build,
    rng: np.random.Generator,
    grain: np.random.Generator,
) -> Canvas:
    """Air, in the frame of a patient who is shifted, turned, scaled and bent."""
    shift = rng.uniform((-7.0, 0.0, -10.0), (7.0, 16.0, 10.0))
    turn = np.deg2rad(rng.uniform(-4.0, 4.0))
    x, y, z = (line - np.float32(move) for line, move in zip(room, shift, strict=True))
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    turned = (x * cosine + y * sine, y * cosine - x * sine, z)
    full = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
    frame = [full + axis / np.float32(scale) for axis, scale in zip(turned, build.scale, strict=True)]
    bends = [waves((x, y, z), rng, 170.0) for _ in frame]
    bent = [(axis + np.float32(3.5) * bend).astype(np.float32) for axis, bend in zip(frame, bends, strict=True)]
    size = bent[0].shape
    texture = ndimage.gaussian_filter(grain.standard_normal(size, dtype=np.float32), [3.0 / s for s in spacing])
    return Canvas(
        x=bent[0],
        y=bent[1],
        z=bent[2],
        wall=trunk.wall_distance(bent[0], bent[1], bent[2], build),
        dome=trunk.dome_height(bent[0], bent[1], build),
        texture=texture / texture.std(),
        hu=np.full(size, -1000.0, dtype=np.float32),
        labels=np.zeros(size, dtype=np.uint8),
    )


def _noise(
    hu: Field,
    room: tuple[Field, Field, Field],
    spacing: tuple[float, float, float],
    sigma: float,
    grain: np.random.Generator,
) -> Field:
    """Noise of filtered backprojection: grains of some millimetres, few slow waves, most in the middle of the body.

    Adds the faint cupping that beam hardening leaves, and streaks along x, where the trunk absorbs most.
    """
    white = grain.standard_normal(hu.shape, dtype=np.float32)
    fine = ndimage.gaussian_filter(white, [2.2 / spacing[0], 2.2 / spacing[1], 2.0 / spacing[2]])
    noise = fine - 0.8 * ndimage.gaussian_filter(fine, [6.0 / spacing[0], 6.0 / spacing[1], 0.0])
    streaks = ndimage.gaussian_filter1d(grain.standard_normal(hu.shape, dtype=np.float32), 60.0 / spacing[0], axis=0)
    body = ndimage.gaussian_filter((hu > -500).astype(np.float32), [25.0 / s for s in spacing[:2]] + [0.0])
    middle = np.exp(-(room[0] ** 2 + room[1] ** 2) / np.float32(2 * 90.0**2))
    strength = (0.35 + 0.65 * body) * (0.8 + 0.35 * middle)
    result = (
        sigma * strength * noise / noise.std() + 0.22 * sigma * body * streaks / streaks.std() - 5.0 * body * middle
    )
    return np.asarray(result, dtype=np.float32)
