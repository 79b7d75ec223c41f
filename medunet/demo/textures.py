"""Two sets of drawn pictures that share their textures: many to learn an encoder from, few to transfer it to.

`write_patchwork`: every picture is a patchwork of textures, and its mask says which one lies where.
`write_islands`: ellipses lie on such a patchwork; the mask shows those with a texture that no patchwork has.

Colour, light, contrast, scale and direction are drawn anew for each picture, so that the texture alone tells what a
place is. Arrays are (height, width). Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.atomic import atomic_file, make_folder

Plane = NDArray[np.floating]
Mask = NDArray[np.uint8]
Grid = tuple[Plane, Plane]
"""Two coordinates of every pixel, in wavelengths of the texture."""


def _stripes(u: Plane, v: Plane) -> Plane:  # noqa: ARG001 - all textures are called alike
    return np.asarray(np.sin(2 * np.pi * u))


def _checks(u: Plane, v: Plane) -> Plane:
    return np.asarray(np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v))


def _dots(u: Plane, v: Plane) -> Plane:
    distance = np.hypot((u + 0.5 * (np.floor(v) % 2)) % 1 - 0.5, v % 1 - 0.5)
    return np.asarray(np.clip((0.3 - distance) / 0.1, -1, 1))


def _zigzag(u: Plane, v: Plane) -> Plane:
    return np.asarray(np.sin(2 * np.pi * (u + np.abs(v % 1 - 0.5) * 1.5)))


def _rings(u: Plane, v: Plane) -> Plane:
    return np.asarray(np.sin(4 * np.pi * np.hypot(u % 2 - 1, v % 2 - 1)))


def _bricks(u: Plane, v: Plane) -> Plane:
    joint = np.minimum(np.abs(v % 1 - 0.5), np.abs((u / 2 + 0.5 * (np.floor(v + 0.5) % 2)) % 1 - 0.5) * 2)
    return np.asarray(np.clip((joint - 0.12) / 0.05, -1, 1))


Texture = Callable[[Plane, Plane], Plane]

TEXTURES: dict[str, Texture] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "zigzag": _zigzag,
    "rings": _rings,
}
"""Those of the patchworks, by name; their values in masks count from 1, and 0 is plain."""

ISLAND: Texture = _bricks
_SIDE = 64
_WAVELENGTHS = (6.0, 11.0)


def patchwork(rng: np.random.Generator, side: int = _SIDE) -> tuple[Mask, Mask]:
    """A square of `side` pixels: its (side, side, 3) colours, and the texture of each pixel, 0 to 5."""
    kinds = _patches(rng, side)
    relief = np.zeros((side, side), np.float32)
    for value, texture in enumerate(TEXTURES.values(), start=1):
        relief = np.where(kinds == value, _drawn(texture, rng, side), relief)
    return _coloured(relief, rng), kinds


def islands(rng: np.random.Generator, side: int = _SIDE) -> tuple[Mask, Mask]:
    """A square of `side` pixels: its (side, side, 3) colours, and 1 where bricks are.

    One or two ellipses are of bricks, as many are plain or of other textures.
    """
    kinds = _patches(rng, side)
    number = int(rng.integers(1, 3))
    for index in rng.permutation(2 * number):
        brick = index < number
        kinds[_ellipse(rng, side)] = len(TEXTURES) + 1 if brick else rng.integers(0, len(TEXTURES) + 1)
    relief = np.zeros((side, side), np.float32)
    for value, texture in enumerate([*TEXTURES.values(), ISLAND], start=1):
        relief = np.where(kinds == value, _drawn(texture, rng, side), relief)
    return _coloured(relief, rng), (kinds == len(TEXTURES) + 1).astype(np.uint8)


def write_patchwork(folder: str | Path, pictures: int, *, seed: int = 0) -> Path:
    """Write pictures and masks as `images/*.png` and `labels/*.png`; gives the folder."""
    return _write(Path(folder), patchwork, pictures, seed)


def write_islands(folder: str | Path, pictures: int, *, seed: int = 0) -> Path:
    """The same of the pictures with islands."""
    return _write(Path(folder), islands, pictures, seed)


def _write(folder: Path, make: Callable[[np.random.Generator], tuple[Mask, Mask]], pictures: int, seed: int) -> Path:
    from PIL import Image

    for number in range(pictures):
        picture, mask = make(np.random.default_rng([seed, number]))
        for name, values in (("images", picture), ("labels", mask)):
            with atomic_file(make_folder(folder / name) / f"p{number:03d}.png") as path:
                Image.fromarray(values).save(path, format="png")
    return folder


def _patches(rng: np.random.Generator, side: int) -> Mask:
    """The cells around five random points, each with a kind from 0 to 5."""
    y, x = np.mgrid[:side, :side]
    points = rng.uniform(0, side, (5, 2))
    nearest = np.hypot(y[..., None] - points[:, 0], x[..., None] - points[:, 1]).argmin(-1)
    return np.asarray(rng.integers(0, len(TEXTURES) + 1, 5).astype(np.uint8)[nearest])


def _ellipse(rng: np.random.Generator, side: int) -> NDArray[np.bool_]:
    u, v = _turned(rng, side, rng.uniform(0.25, 0.75, 2) * side)
    radii = rng.uniform(0.12, 0.25, 2) * side
    return np.asarray(np.hypot(u / radii[0], v / radii[1]) < 1)


def _turned(rng: np.random.Generator, side: int, centre: NDArray[np.float64]) -> Grid:
    """Pixels from `centre` along two axes of a random direction."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    y, x = y - np.float32(centre[0]), x - np.float32(centre[1])
    return x * cosine + y * sine, y * cosine - x * sine


def _drawn(texture: Texture, rng: np.random.Generator, side: int) -> Plane:
    """A texture in a random direction, place and scale, with mean 0 and deviation 1."""
    length = np.float32(rng.uniform(*_WAVELENGTHS))
    u, v = _turned(rng, side, rng.uniform(0, side, 2))
    values = texture(u / length, v / length)
    return np.asarray((values - values.mean()) / values.std(), dtype=np.float32)


def _coloured(relief: Plane, rng: np.random.Generator) -> Mask:
    """Relief of deviation 1 as light and dark of one colour, lit from one side, with grain."""
    side = len(relief)
    light, _ = _turned(rng, side, np.full(2, side / 2))
    ground = rng.uniform(90, 165, 3)
    swing = rng.uniform(16, 30) * rng.uniform(0.7, 1.0, 3) * rng.choice([-1, 1])
    values = ground + relief[..., None] * swing + light[..., None] * rng.uniform(0, 0.6)
    return np.asarray(np.clip(values + rng.normal(0, 10, values.shape), 0, 255).round().astype(np.uint8))
