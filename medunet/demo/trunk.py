"""The trunk of a phantom: skin, fat, muscles, bones, lungs, heart and the table.

Everything here is background to a network; it is drawn because real scans have it. Lengths are
millimetres in the patient's frame (x to the Right, y to Anterior, z to Superior, 0 near the first lumbar
vertebra), values are Hounsfield units. Knows nothing of organs with labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from medunet.demo.shapes import Canvas, Field, both, coverage, either, ellipsoid, oval, path_box, tube, waves

MUSCLE = 55.0
FAT = -100.0
VERTEBRA_HEIGHT = 33.0
SPINE_Y = -37.0
HALF_WIDTH, HALF_DEPTH = 128.0, 91.0


@dataclass(frozen=True)
class Build:
    """How one patient is built.

    Attributes:
        scale: size along x, y, z relative to the average.
        fat: thickness under the skin at the flank, mm.
        belly: millimetres that the lower abdomen bulges forward.
        dome_right: height of the right half of the diaphragm, mm of z.
        dome_left: height of the left half.
        blood: contrast in the vessels, HU.
        vertebra_shift: height of the vertebrae, mm.
        rib_shift: height of the ribs, mm.
    """

    scale: tuple[float, float, float]
    fat: float
    belly: float
    dome_right: float
    dome_left: float
    blood: float
    vertebra_shift: float
    rib_shift: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """A random patient."""
        right = rng.uniform(58, 82)
        return cls(
            scale=(rng.uniform(0.93, 1.06), rng.uniform(0.92, 1.08), rng.uniform(0.94, 1.06)),
            fat=rng.uniform(7, 26),
            belly=rng.uniform(-6, 14),
            dome_right=right,
            dome_left=right - rng.uniform(5, 22),
            blood=rng.uniform(145, 195),
            vertebra_shift=rng.uniform(0, VERTEBRA_HEIGHT),
            rib_shift=rng.uniform(0, 30),
        )


def spine_y(z: Field) -> Field:
    """Where the middle of the vertebral bodies runs: the lumbar spine bends forward."""
    return np.asarray(SPINE_Y + 7.0 * np.cos((z + 70.0) / 75.0))


def wall_distance(x: Field, y: Field, z: Field, build: Build) -> Field:
    """Millimetres outside the cavity's boundary, about; negative inside."""
    low = expit(-(z + 20.0) / 25.0)
    front = HALF_DEPTH + build.belly * low
    depth = np.where(y > 0, front, HALF_DEPTH - 2.0)
    width = HALF_WIDTH * (1.0 - 0.10 * expit((z - 95.0) / 20.0))
    power = 2.25 + 0.55 * expit(-y / 15.0)
    radius = ((np.abs(x) / width) ** power + (np.abs(y) / depth) ** power) ** (1.0 / power)
    slope = np.hypot(np.gradient(radius, axis=0) / _steps(x, 0), np.gradient(radius, axis=1) / _steps(y, 1))
    return np.asarray((radius - 1.0) / np.maximum(slope, 0.003))


def _steps(axis: Field, number: int) -> Field:
    return np.maximum(np.gradient(axis, axis=number), 1e-3)


def dome_height(x: Field, y: Field, build: Build) -> Field:
    """Height of the diaphragm over (x, y): two domes and the central tendon between them."""
    halves = (
        (66.0, 10.0, 84.0, 96.0, build.dome_right, 74.0),
        (-68.0, 10.0, 80.0, 92.0, build.dome_left, 70.0),
        (0.0, 42.0, 70.0, 60.0, build.dome_left - 4.0, 50.0),
    )
    heights = [
        top - fall * (((x - centre_x) / width) ** 2 + ((y - centre_y) / depth) ** 2)
        for centre_x, centre_y, width, depth, top, fall in halves
    ]
    return both(both(heights[0], heights[1], 25.0), heights[2], 25.0)


def paint_trunk(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Everything that stands before the organs: skin, fat, wall muscles, cavity, lungs, heart."""
    wall = canvas.wall
    low = expit((40.0 - canvas.z) / 30.0)
    behind = expit(-(canvas.y + 60.0) / 18.0)
    front = expit((canvas.y - 45.0) / 18.0)
    fat = build.fat * (0.45 + 0.55 * low) * (1.0 + 0.35 * behind + 0.35 * front * low)
    muscle = 10.0 + 1.8 * waves((canvas.x, canvas.y, canvas.z), rng, 90.0)
    body = wall - muscle - fat
    canvas.paint(body, 45.0)
    canvas.paint(body + 2.2, FAT - 5.0 + 4.0 * canvas.texture)
    canvas.paint(wall - muscle, MUSCLE)
    for depth in (3.5, 7.5):
        canvas.paint(np.abs(wall - depth) - 0.5, FAT, strength=0.5)
    mottle = 60.0 * np.maximum(canvas.texture - 0.8, 0.0)
    canvas.paint(wall, FAT - 5.0 + mottle)
    _paint_chest(canvas, build, rng)


def _paint_chest(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    under = canvas.z - canvas.dome
    canvas.paint(both(canvas.wall, np.abs(under + 1.5) - 1.8), MUSCLE)
    heart = ellipsoid(canvas, (-24.0, 32.0, build.dome_left + 42.0), (56.0, 45.0, 48.0), turn=-0.5)
    middle = ellipsoid(canvas, (-4.0, -16.0, 80.0), (26.0, 36.0, 400.0))
    back = ellipsoid(canvas, (0.0, SPINE_Y - 38.0, 80.0), (52.0, 24.0, 400.0))
    outside = either(either(heart - 7.0, middle, 15.0), back)
    lung = both(both(canvas.wall + 1.0, -under), -outside, 6.0)
    vessels = np.maximum(canvas.texture - 1.1, 0.0)
    canvas.paint(lung, -860.0 + 25.0 * waves((canvas.x, canvas.y, canvas.z), rng, 130.0) + 260.0 * vessels)
    canvas.paint(both(heart, -under + 3.0), 105.0)
    for centre, radii in (((-48.0, 22.0), (26.0, 32.0, 36.0)), ((2.0, 48.0), (24.0, 26.0, 40.0))):
        chamber = ellipsoid(canvas, (centre[0], centre[1], build.dome_left + 48.0), radii, turn=-0.5)
        canvas.paint(both(chamber, -under + 12.0), build.blood)
    gullet = [(-8, -2, 140, 7.5), (-14, 2, 60, 8), (-26, 4, 40, 8)]
    part = canvas.near(*path_box(gullet))
    part.paint(tube(part, gullet), 50.0)


def paint_muscles(canvas: Canvas) -> None:
    """The muscles along the spine: erector spinae, psoas, quadratus lumborum, crura."""
    y, z = canvas.y - spine_y(canvas.z), canvas.z
    low = np.maximum(-z, 0.0)
    inner = canvas.wall - 9.0
    streaky = MUSCLE - 25.0 * np.maximum(canvas.texture - 0.9, 0.0)
    canvas.paint(both(oval(canvas.x, y + 42.0, 9.0, 22.0), inner), MUSCLE - 20.0)
    for x in (canvas.x, -canvas.x):
        canvas.paint(both(oval(x - 31.0, y + 40.0, 30.0, 20.0), inner), streaky)
        psoas = np.hypot(x - 27.0 - 0.12 * low, 0.85 * (y + 2.0)) - 6.0 - 0.17 * low
        canvas.paint(both(psoas, z - 5.0), MUSCLE + 3.0)
        quadratus = oval(x - 54.0, y + 27.0 - 0.25 * (x - 54.0), 18.0, 7.0)
        canvas.paint(both(quadratus, z + 25.0), MUSCLE)
        crus = oval(x - 19.0 - 0.1 * z, y - 22.0, 4.5, 13.0)
        canvas.paint(both(crus, np.abs(z) - 35.0), MUSCLE + 5.0)


def paint_spine(canvas: Canvas, build: Build) -> None:
    """Vertebrae with discs, canal, processes."""
    part = canvas.near((-50, -150, -400), (50, 0, 400))
    x, y = part.x, part.y - spine_y(part.z)
    level = np.mod(part.z + build.vertebra_shift, VERTEBRA_HEIGHT) - VERTEBRA_HEIGHT / 2
    waist = 1.0 + 0.10 * (level / 13.0) ** 2
    column = oval(x / waist, y / waist, 21.0, 16.0)
    end = np.abs(level) - 13.5
    part.paint(column, 95.0)
    part.paint(both(column, end), 750.0)
    part.paint(both(column + 2.0, end + 1.2), 175.0 + 22.0 * part.texture)
    _paint_arch(part, x, y, level)


def _paint_arch(part: Canvas, x: Field, y: Field, level: Field) -> None:
    canal = oval(x, y + 24.0, 12.0, 9.5)
    arch = both(canal - 5.5, np.abs(level) - 11.0, 3.0)
    lowered = level + 0.35 * (-y - 34.0)
    spinous = both(np.abs(x) - 3.6, both(np.abs(y + 48.0) - 17.0, np.abs(lowered) - 9.0), 4.0)
    transverse = both(np.abs(x) - 37.0, np.hypot(level - 3.0, y + 24.0 + 0.15 * np.abs(x)) - 6.0, 3.0)
    facets = both(oval(np.abs(x) - 17.0, y + 31.0, 6.0, 8.0), np.abs(level) - 12.0, 3.0)
    bone = either(either(arch, spinous), either(transverse, facets), 2.0)
    part.paint(bone, 700.0)
    part.paint(bone + 2.6, 240.0)
    part.paint(canal, 28.0)
    part.paint(oval(x, y + 24.0, 5.5, 4.5), 45.0)


def paint_ribs(canvas: Canvas, build: Build) -> None:
    """Ribs that slope down and forward within the wall, the costal cartilages, the sternum."""
    around = np.arctan2(np.abs(canvas.x), -(canvas.y + 20.0)) / math.pi
    middle = canvas.wall - 4.5
    fall = canvas.z + build.rib_shift + 165.0 * np.minimum(around, 0.75)
    level = np.mod(fall, 30.0) - 15.0
    margin = -62.0 + 150.0 * np.maximum(around - 0.30, 0.0)
    rib = both(both(oval(level, middle, 7.0, 3.6), margin - canvas.z), 12.0 - 200.0 * around)
    bony = both(rib, 200.0 * (around - 0.74))
    canvas.paint(rib, 105.0)
    canvas.paint(bony, 750.0)
    canvas.paint(bony + 1.8, 200.0)
    sternum = both(np.abs(canvas.x) - 15.0, both(np.abs(middle) - 4.5, 92.0 - canvas.z), 3.0)
    canvas.paint(both(sternum, -canvas.y), 330.0)


def paint_table(hu: Field, x: Field, y: Field) -> None:
    """The table: a thin curved shell below the back, foam inside; `x` and `y` are millimetres in the room."""
    flesh = np.flatnonzero((hu > -500).any(axis=(0, 2)))
    if flesh.size == 0:
        return
    back = float(y[flesh[0]])
    arc = y[None, :] - (back - 9.0 + (x[:, None] / 330.0) ** 2 * 70.0)
    outer = np.maximum(np.maximum(arc, -arc - 26.0), np.abs(x[:, None]) - 205.0)
    air = np.clip((-700.0 - hu) / 300.0, 0.0, 1.0)
    for shape, value in ((outer, -20.0), (outer + 8.0, -945.0)):
        hu += coverage(shape)[:, :, None] * air * (value - hu)
