"""The organs of a phantom: bowel, stomach, liver with tumours, spleen, kidneys, great vessels.

Positions are those of an average adult lying on the back, in millimetres of the patient's frame, and vary
from patient to patient. Intensities of neighbours overlap, as they do in portal venous CT: a network has to
learn shape and place. Knows nothing of the trunk around it but the cavity's wall and the diaphragm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from medunet.demo.shapes import Canvas, Field, Path, Point, both, either, ellipsoid, path_box, tube, waves
from medunet.demo.trunk import FAT

LIVER, TUMOUR, SPLEEN, KIDNEYS = 1, 2, 3, 4


@dataclass(frozen=True)
class Contrast:
    """Intensities of one patient, Hounsfield units, in the portal venous phase."""

    liver: float
    spleen: float
    cortex: float
    medulla: float
    blood: float
    bowel: float

    @classmethod
    def draw(cls, rng: np.random.Generator, blood: float) -> Contrast:
        """Random enhancement; a fatty liver is darker than the spleen, a healthy one about as bright."""
        return cls(
            liver=rng.uniform(98, 122),
            spleen=rng.uniform(108, 132),
            cortex=rng.uniform(165, 200),
            medulla=rng.uniform(112, 140),
            blood=blood,
            bowel=rng.uniform(65, 95),
        )


def _moved(path: Path, rng: np.random.Generator, jitter: float) -> Path:
    """The path with every corner moved at random by about `jitter` millimetres, and thinner or thicker."""
    points = np.asarray(path, dtype=float)
    points[:, :3] += rng.normal(0.0, jitter, (len(points), 3))
    points[:, 3] *= rng.uniform(0.88, 1.12)
    return points.tolist()  # type: ignore[no-any-return]


def _points(canvas: Canvas) -> tuple[Field, Field, Field]:
    return canvas.x, canvas.y, canvas.z


def paint_bowel(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """Small bowel loops, then the colon with stool and gas around them."""
    for _ in range(24):
        steps = rng.normal(size=(4, 3))
        steps *= 26.0 / np.linalg.norm(steps, axis=1, keepdims=True)
        corners = rng.uniform((-75, 2, -130), (70, 62, -25)) + np.cumsum(steps, axis=0)
        path = np.column_stack([corners, rng.uniform(9.0, 14.0, 4)]).tolist()
        inside, gas = rng.uniform(15, 45), rng.uniform() < 0.2
        part = canvas.near(*path_box(path))
        loop = both(tube(part, path, 6.0), part.wall + 3.0, 4.0)
        part.paint(loop, contrast.bowel)
        part.paint(loop + 2.8, inside)
        if gas:
            part.paint(both(loop + 3.0, path[1][1] + 2.0 - part.y), -850.0)
    colon = [
        (96, -22, -140, 21), (100, -18, -85, 22), (92, 2, -58, 20), (62, 48, -66, 18), (10, 62, -70, 18),
        (-48, 56, -44, 18), (-88, 24, -8, 18), (-104, -4, -8, 16), (-112, -24, -50, 14), (-108, -22, -140, 14),
    ]  # fmt: skip
    _paint_colon(canvas, _moved(colon, rng, 6.0), contrast, rng)


def _paint_colon(canvas: Canvas, path: Path, contrast: Contrast, rng: np.random.Generator) -> None:
    part = canvas.near(*path_box(path))
    folds = 2.6 * waves(_points(part), rng, 34.0)
    colon = both(tube(part, path, 8.0) + folds, part.wall + 2.5, 4.0)
    part.paint(colon, contrast.bowel - 15.0)
    stool = np.clip(10.0 + 70.0 * waves(_points(part), rng, 22.0) + 60.0 * part.texture, -420.0, 90.0)
    part.paint(colon + 2.8, stool)
    pockets = waves(_points(part), rng, 75.0) * 14.0 + 5.0
    part.paint(both(colon + 3.2, pockets - 0.35 * (part.y - 10.0)), -900.0)


def paint_stomach(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """Pancreas, stomach with fluid and an air level, duodenum."""
    pancreas = _moved(
        [(30, 0, -42, 12), (24, 8, -26, 12.5), (2, 21, -14, 9.5), (-30, 12, -4, 10.5), (-68, -14, 8, 9)], rng, 3.0
    )
    part = canvas.near(*path_box(pancreas))
    part.paint(tube(part, pancreas, 8.0) + 1.8 * waves(_points(part), rng, 16.0), contrast.liver - 14.0)
    duodenum = _moved([(34, 26, -20, 12), (46, 10, -30, 12), (44, 0, -62, 11), (10, 4, -72, 10)], rng, 3.0)
    part = canvas.near(*path_box(duodenum))
    part.paint(tube(part, duodenum, 6.0), contrast.bowel)
    part.paint(tube(part, duodenum, 6.0) + 3.0, 25.0)
    size = rng.uniform(0.8, 1.1)
    fundus = [(-56, -14, 46, 36 * size), (-62, 14, 24, 33 * size), (-44, 40, -4, 25 * size)]
    stomach = _moved([*fundus, (-6, 46, -22, 18), (26, 32, -16, 12)], rng, 4.0)
    part = canvas.near(*path_box(stomach))
    bag = both(tube(part, stomach, 18.0), both(part.wall + 5.0, part.z - part.dome + 5.0, 8.0), 8.0)
    bag = bag + 2.0 * waves(_points(part), rng, 45.0)
    part.paint(bag, contrast.bowel)
    part.paint(bag + 4.0, rng.uniform(5, 35) + 6.0 * part.texture)
    level = stomach[1][1] + rng.uniform(8, 26)
    part.paint(both(bag + 4.0, level - part.y), -960.0)


def paint_spleen(canvas: Canvas, contrast: Contrast, roof: float, rng: np.random.Generator) -> None:
    """A crescent between the left posterior wall, the diaphragm, the stomach and the kidney."""
    part = canvas.near((-150, -110, -70), (-30, 50, 110))
    size = rng.uniform(1.0, 1.25)
    centre = (-112.0, -48.0 + rng.normal(0, 4), roof - 42.0 + rng.normal(0, 6))
    body = ellipsoid(part, centre, (58.0 * size, 52.0 * size, 45.0 * size), turn=0.5)
    hollow = ellipsoid(part, (-46.0, -4.0, centre[2]), (40.0, 48.0, 90.0), turn=0.3)
    crescent = both(-(part.wall + rng.uniform(40, 48)), -hollow, 10.0)
    body = both(body, crescent, 10.0) + 2.2 * waves(_points(part), rng, 48.0)
    spleen = both(both(body, part.wall + 2.0, 6.0), part.z - part.dome + 4.0, 6.0)
    part.paint(spleen, contrast.spleen + 2.0 * part.texture, SPLEEN)


def paint_liver(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """The liver below the right diaphragm, its vessels, 0 to 3 tumours, the gallbladder."""
    part = canvas.near((-90, -110, -120), (150, 110, 110))
    tip, slope = rng.uniform(-92, -62), rng.uniform(0.46, 0.60)
    under = (tip + slope * (125.0 - part.x) - 0.10 * part.y - part.z) / math.hypot(1.0, slope)
    liver = _liver_shape(part, under, rng)
    if rng.uniform() < 0.85:
        x = 48.0 + rng.normal(0, 5)
        centre = (x, 42.0 + rng.normal(0, 5), tip + slope * (125.0 - x) - 9.0)
        bladder = ellipsoid(part, centre, (12.0, 27.0 * rng.uniform(0.8, 1.2), 13.0), turn=0.35)
        part.paint(bladder, 60.0)
        part.paint(bladder + 2.0, 8.0)
        liver = both(liver, -bladder)
    part.paint(liver, contrast.liver + 2.5 * part.texture, LIVER)
    bend = part.x + 6.0 - 0.25 * (part.y - 30.0) + 4.0 * waves(_points(part), rng, 40.0)
    fissure = both(np.abs(bend) - 0.8, both(32.0 - part.y, part.z - 8.0), 4.0)
    part.paint(both(fissure, liver), FAT, None, strength=0.5)
    _paint_vessels(part, liver, contrast.blood - 12.0, rng)
    _paint_tumours(part, liver, rng)


def _liver_shape(part: Canvas, under: Field, rng: np.random.Generator) -> Field:
    """What the wall, the diaphragm, the slanting lower face and the face towards the left leave of the right side."""
    angle, offset = rng.normal(0.56, 0.09), rng.normal(0, 6)
    medial = -((part.x - 28.0 - offset) * math.cos(angle) + (part.y + 45.0) * math.sin(angle))
    caudate = ellipsoid(part, (22.0, -6.0, 18.0), (20.0, 14.0, 24.0))
    lobes = either(both(under, medial, 22.0), caudate, 6.0) + 3.0 * waves(_points(part), rng, 60.0)
    liver = both(both(lobes, part.wall + 2.0, 14.0), part.z - part.dome + 4.0, 14.0)
    kidney_bed = ellipsoid(part, (46.0, -66.0, -48.0), (46.0, 34.0, 72.0), turn=-0.3)
    return both(liver, -kidney_bed, 10.0)


def _grow(start: list[float], heading: list[float], radius: float, depth: int, rng: np.random.Generator) -> list[Path]:
    """A tree of vessels: each branch ends in two thinner ones."""
    direction = np.asarray(heading) / np.linalg.norm(heading)
    stop = (np.asarray(start) + direction * rng.uniform(18, 30)).tolist()
    pieces: list[Path] = [[[*start, radius], [*stop, radius * 0.75]]]
    if depth > 0:
        spread = rng.normal(size=3)
        spread = 0.75 * spread / np.linalg.norm(spread)
        for sign in (1.0, -1.0):
            pieces += _grow(stop, (direction + sign * spread).tolist(), radius * 0.75, depth - 1, rng)
    return pieces


def _paint_vessels(part: Canvas, liver: Field, value: float, rng: np.random.Generator) -> None:
    pieces = _grow([38.0, 8.0, 0.0], [1.0, -0.3, 0.25], 6.5, 3, rng)
    pieces += _grow([34.0, 10.0, 2.0], [-0.6, 1.0, 0.4], 5.0, 2, rng)
    for heading in ([1.0, -0.1, -0.45], [0.6, 1.0, -0.5], [-0.5, 1.0, -0.4]):
        pieces += _grow([22.0, -4.0, 40.0], heading, 6.0, 2, rng)
    inside = replace(part, wall=liver)
    for path in pieces:
        box = inside.near(*path_box(path), margin=12.0)
        box.paint(both(tube(box, path), box.wall + 3.0), value, None)


def _paint_tumours(part: Canvas, liver: Field, rng: np.random.Generator) -> None:
    """0 to 3 hypodense lumps of 8 to 35 mm deep in the liver, some with a bright rim."""
    inside = replace(part, wall=liver)
    for _ in range(int(rng.choice(4, p=[0.15, 0.3, 0.3, 0.25]))):
        radius = rng.uniform(4.5, 17.5)
        radii = (radius * rng.uniform(0.85, 1.0), radius * rng.uniform(0.85, 1.0), radius)
        aim = rng.uniform((0.0, -70.0, -60.0), (125.0, 70.0, 60.0)).tolist()
        value, rim, turn = rng.uniform(60, 75), rng.uniform() < 0.4, rng.uniform(0.0, 3.0)
        bumps = np.random.default_rng(rng.integers(2**32))
        centre = _deep_point(part, liver, aim, 0.7 * radius + 2.0)
        if centre is None:
            continue
        box = inside.near([c - radius - 4.0 for c in centre], [c + radius + 4.0 for c in centre])
        lump = ellipsoid(box, centre, radii, turn) + 0.09 * radius * waves(_points(box), bumps, 2.5 * radius)
        lump = both(lump, box.wall)
        if rim:
            box.paint(lump - 1.5, value + 70.0, None, strength=0.5)
        box.paint(lump, value + 3.0 * box.texture, TUMOUR)


def _deep_point(part: Canvas, liver: Field, aim: Point, depth: float) -> list[float] | None:
    """The point nearest to `aim` that lies `depth` millimetres inside the liver; None where no voxel does."""
    if part.hu.size == 0:
        return None
    distance = (part.x - aim[0]) ** 2 + (part.y - aim[1]) ** 2 + (part.z - aim[2]) ** 2
    distance = np.where((liver < -depth) & (part.labels == LIVER), distance, np.inf)
    nearest = np.unravel_index(int(np.argmin(distance)), distance.shape)
    return [float(axis[nearest]) for axis in _points(part)] if np.isfinite(distance[nearest]) else None


def paint_kidneys(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """Both kidneys, the right one lower; their upper poles lean towards the spine."""
    for side, height in ((1.0, -50.0), (-1.0, -38.0)):
        centre = (side * (64 + rng.normal(0, 3)), -42 + rng.normal(0, 4), height + rng.normal(0, 8))
        part = canvas.near([c - 62.0 for c in centre], [c + 62.0 for c in centre], margin=8.0)
        _paint_kidney(part, centre, side, contrast, rng)


def _paint_kidney(part: Canvas, centre: Point, side: float, contrast: Contrast, rng: np.random.Generator) -> None:
    """Fat capsule, cortex, medullary pyramids, sinus fat and pelvis."""
    radii = rng.uniform((24.0, 21.5, 48.5), (29.0, 26.0, 59.0)).tolist()
    turn, tilt = side * rng.uniform(0.35, 0.7), -side * rng.uniform(0.12, 0.28)
    kidney = ellipsoid(part, centre, radii, turn, tilt) + 1.3 * waves(_points(part), rng, 40.0)
    pyramids = 4.0 * waves(_points(part), rng, 26.0)
    hilum = (centre[0] - side * 21.0, centre[1] + 12.0, centre[2])
    sinus = ellipsoid(part, hilum, (21.0, 9.0, 24.0), -side * 0.5, tilt)
    part.paint(both(kidney - 3.5, part.wall + 1.0), FAT)
    part.paint(both(kidney, -sinus, 5.0), contrast.cortex, KIDNEYS)
    part.paint(both(kidney + 7.5, pyramids - 1.0), contrast.medulla, None)
    part.paint(both(sinus + 3.0, kidney + 4.0), FAT + 15.0)
    pelvis = ellipsoid(part, (hilum[0], hilum[1], hilum[2] - 4.0), (12.0, 5.0, 11.0), -side * 0.5)
    part.paint(pelvis, 20.0)


def paint_great_vessels(canvas: Canvas, contrast: Contrast, rng: np.random.Generator) -> None:
    """Aorta, inferior vena cava, and what leaves or joins them."""
    jitter = rng.normal(0, 2.5, 2)
    ax, vx = float(jitter[0]) - 7.0, float(jitter[1]) + 20.0
    blood = contrast.blood
    vessels: list[tuple[Path, float]] = [
        (
            [(vx, -10, -150, 10), (vx, -10, -40, 11), (vx + 1, -8, 20, 12.5), (vx, 0, 62, 12.5), (4, 22, 90, 12)],
            blood - 15,
        ),
        ([(vx, -8, -36, 5), (44, -30, -42, 4.5)], blood - 10),
        ([(vx, -2, -32, 5), (ax, 5, -30, 4), (-44, -26, -34, 4.5)], blood - 10),
        ([(8, 24, -110, 5), (8, 16, -40, 6), (12, 12, -16, 7.5), (38, 9, 0, 7)], blood - 5),
        ([(10, 13, -16, 5.5), (-38, 4, -6, 4.5), (-72, -24, 10, 4.5)], blood - 5),
        ([(ax - 8, -20, 150, 12), (ax - 2, -14, 45, 11.5), (ax, -8, -30, 10), (ax + 3, -9, -150, 9)], blood),
        ([(ax, 0, -10, 4), (ax + 1, 18, -36, 4), (ax + 2, 26, -110, 3.5)], blood),
        ([(ax, 0, 4, 4), (ax + 4, 16, 8, 4), (26, 18, 6, 3)], blood),
    ]
    for path, value in vessels:
        part = canvas.near(*path_box(path))
        part.paint(tube(part, path, 2.0), value)
