"""The trunk of a phantom: skin, fat, muscles, bones, lungs, heart and the table.

Everything here is background to a network; it is drawn because real scans have it. Lengths are
millimetres in the patient's frame (x to the Right, y to Anterior, z to Superior, 0 near the first lumbar
vertebra), values are Hounsfield units. Knows nothing of organs with labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunet.demo.shapes import Canvas, Field, both, coverage, either, ellipsoid, path_box, tube, waves

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
    return (SPINE_Y + 7.0 * np.cos((z + 70.0) / 75.0)).astype(np.float32)


def wall_distance(x: Field, y: Field, z: Field, build: Build) -> Field:
    """Millimetres outside the cavity's boundary, about; negative inside."""
    low = 1.0 / (1.0 + np.exp((z + 20.0) / 25.0))
    front = HALF_DEPTH + build.belly * low
    depth = np.where(y > 0, front, HALF_DEPTH - 2.0)
    width = HALF_WIDTH * (1.0 - 0.10 / (1.0 + np.exp((95.0 - z) / 20.0)))
    power = 2.25 + 0.55 / (1.0 + np.exp(y / 15.0))
    radius = ((np.abs(x) / width) ** power + (np.abs(y) / depth) ** power) ** (1.0 / power)
    slope = np.hypot(np.gradient(radius, axis=0) / _steps(x, 0), np.gradient(radius, axis=1) / _steps(y, 1))
    return ((radius - 1.0) / np.maximum(slope, 0.003)).astype(np.float32)


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
    return either(either(-heights[0], -heights[1], 25.0), -heights[2], 25.0).astype(np.float32) * np.float32(-1.0)


def paint_trunk(canvas: Canvas, build: Build, rng: np.random.Generator) -> None:
    """Everything that stands before the organs: skin, fat, wall muscles, cavity, lungs, heart."""
    wall = canvas.wall
    height = 1.0 / (1.0 + np.exp((canvas.z - 40.0) / 30.0))
    behind = 1.0 / (1.0 + np.exp((canvas.y + 60.0) / 18.0))
    front = 1.0 / (1.0 + np.exp((45.0 - canvas.y) / 18.0))
    fat = build.fat * (0.45 + 0.55 * height) * (1.0 + 0.35 * behind + 0.35 * front * height)
    muscle = 10.0 + 1.8 * waves((canvas.x, canvas.y, canvas.z), rng, 90.0)
    body = (wall - muscle - fat).astype(np.float32)
    canvas.paint(body, 45.0)
    canvas.paint(body + np.float32(2.2), FAT - 5.0 + 4.0 * canvas.texture)
    canvas.paint((wall - muscle).astype(np.float32), MUSCLE)
    for depth in (3.5, 7.5):
        sheet = np.abs(wall - np.float32(depth)) - np.float32(0.5)
        canvas.paint(sheet.astype(np.float32), FAT, strength=0.5)
    mottle = 60.0 * np.maximum(canvas.texture - 0.8, 0.0)
    canvas.paint(wall, FAT - 5.0 + mottle.astype(np.float32))
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
    y = canvas.y - spine_y(canvas.z)
    low = np.maximum(-canvas.z, 0.0)
    inner = (canvas.wall - np.float32(9.0)).astype(np.float32)
    between = (np.sqrt((canvas.x / 9.0) ** 2 + ((y + 42.0) / 22.0) ** 2) - 1.0) * 9.0
    canvas.paint(both(between.astype(np.float32), inner), MUSCLE - 20.0)
    for side in (-1.0, 1.0):
        x = canvas.x * np.float32(side)
        erector = (np.sqrt(((x - 31.0) / 30.0) ** 2 + ((y + 40.0) / 20.0) ** 2) - 1.0) * 20.0
        canvas.paint(both(erector.astype(np.float32), inner), MUSCLE - 25.0 * np.maximum(canvas.texture - 0.9, 0.0))
        width = 6.0 + 0.17 * low
        psoas = both((np.hypot(x - 27.0 - 0.12 * low, (y + 2.0) * 0.85) - width).astype(np.float32), canvas.z - 5.0)
        canvas.paint(psoas, MUSCLE + 3.0)
        square = np.sqrt(((x - 54.0) / 18.0) ** 2 + ((y + 27.0 - 0.25 * (x - 54.0)) / 7.0) ** 2) - 1.0
        canvas.paint(both((square * 7.0).astype(np.float32), canvas.z + 25.0), MUSCLE)
        crus = np.sqrt(((x - 19.0 - 0.1 * canvas.z) / 4.5) ** 2 + ((y - 22.0) / 13.0) ** 2) - 1.0
        canvas.paint(both((crus * 4.5).astype(np.float32), np.abs(canvas.z) - 35.0), MUSCLE + 5.0)


def paint_spine(canvas: Canvas, build: Build) -> None:
    """Vertebrae with discs, canal, processes."""
    part = canvas.near((-50, -150, -400), (50, 0, 400))
    x, y = part.x, part.y - spine_y(part.z)
    level = np.mod(part.z + np.float32(build.vertebra_shift), VERTEBRA_HEIGHT) - VERTEBRA_HEIGHT / 2
    waist = 1.0 + 0.10 * np.abs(level / 13.0) ** 2
    radius = np.sqrt((x / (21.0 * waist)) ** 2 + (y / (16.0 * waist)) ** 2)
    column = ((radius - 1.0) * 16.0).astype(np.float32)
    end = (np.abs(level) - 13.5).astype(np.float32)
    part.paint(column, 95.0)
    part.paint(both(column, end), 520.0)
    part.paint(both(column + 2.0, end + 1.2), 175.0 + 22.0 * part.texture)
    _paint_arch(part, x, y, level.astype(np.float32))


def _paint_arch(part: Canvas, x: Field, y: Field, level: Field) -> None:
    canal = ((np.sqrt((x / 12.0) ** 2 + ((y + 24.0) / 9.5) ** 2) - 1.0) * 9.5).astype(np.float32)
    arch = both(canal - 5.5, np.abs(level) - 11.0, 3.0)
    lowered = level + 0.35 * (-y - 34.0)
    spinous = both(np.abs(x) - 3.6, both(np.abs(y + 48.0) - 17.0, np.abs(lowered) - 9.0), 4.0)
    transverse = both(np.abs(x) - 37.0, np.hypot(level - 3.0, y + 24.0 + 0.15 * np.abs(x)) - 6.0, 3.0)
    facets = np.sqrt(((np.abs(x) - 17.0) / 6.0) ** 2 + ((y + 31.0) / 8.0) ** 2 + (level / 14.0) ** 2) * 6.0 - 6.0
    bone = either(either(arch, spinous), either(transverse, facets), 2.0).astype(np.float32)
    part.paint(bone, 480.0)
    part.paint(bone + 2.6, 240.0)
    part.paint(canal, 28.0)
    cord = (np.sqrt((x / 5.5) ** 2 + ((y + 24.0) / 4.5) ** 2) * 4.5 - 4.5).astype(np.float32)
    part.paint(cord, 45.0)


def paint_ribs(canvas: Canvas, build: Build) -> None:
    """Ribs that slope down and forward within the wall, the costal cartilages, the sternum."""
    around = np.arctan2(np.abs(canvas.x), -(canvas.y + 20.0)) / np.float32(np.pi)
    middle = canvas.wall - np.float32(4.5)
    fall = canvas.z + np.float32(build.rib_shift) + 165.0 * np.minimum(around, 0.75)
    level = np.mod(fall, 30.0) - 15.0
    margin = -62.0 + 150.0 * np.maximum(around - 0.30, 0.0)
    rib = (np.sqrt((level / 7.0) ** 2 + (middle / 3.6) ** 2) - 1.0) * 3.6
    rib = both(both(rib.astype(np.float32), (margin - canvas.z).astype(np.float32)), 12.0 - 200.0 * around)
    bony = both(rib, (around - 0.74) * 200.0).astype(np.float32)
    canvas.paint(rib, 105.0)
    canvas.paint(bony, 560.0)
    canvas.paint(bony + 1.8, 200.0)
    sternum = both(np.abs(canvas.x) - 15.0, both(np.abs(middle) - 4.5, 92.0 - canvas.z), 3.0)
    sternum = both(sternum, -canvas.y)
    canvas.paint(sternum.astype(np.float32), 330.0)


def paint_table(hu: Field, x: Field, y: Field) -> None:
    """The table: a thin curved shell below the back, foam inside; `x` and `y` are millimetres in the room."""
    flesh = np.flatnonzero((hu > -500).any(axis=(0, 2)))
    if flesh.size == 0:
        return
    back = float(y[flesh[0]])
    arc = y[None, :] - (back - 9.0 + (x[:, None] / 330.0) ** 2 * 70.0)
    outer = np.maximum(np.maximum(arc, -arc - 26.0), np.abs(x[:, None]) - 205.0)
    air = np.clip((-700.0 - hu) / 300.0, 0.0, 1.0)
    for shape, value in ((outer, 250.0), (outer + 3.0, -945.0)):
        cover = coverage(np.repeat(shape[:, :, None], 2, axis=2).astype(np.float32))[:, :, :1]
        hu += cover * air * (np.float32(value) - hu)
