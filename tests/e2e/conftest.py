"""Small data sets in the shapes of the five texts, and the command line as a user calls it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from medunet.cli.main import app

Draw = Callable[[int, tuple[int, int]], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@pytest.fixture(scope="session")
def medunet() -> Callable[..., Result]:
    """`medunet("train", "--config", path)`: what the command does; a wrong exit code fails the test.

    `settings` become `--set` options.
    """

    def call(*arguments: Any, code: int = 0, settings: Mapping[str, str] | None = None) -> Result:
        changes = [f"--set={key}={value}" for key, value in (settings or {}).items()]
        result = CliRunner().invoke(app, [*(str(argument) for argument in arguments), *changes])
        assert result.exit_code == code, f"{result.output}\n{result.stderr}\n{result.exception!r}"
        return result

    return call


def figure(seed: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture (rows, columns, 3) of somebody bright on a dark ground, and the number of the part at each pixel.

    1: body, 2: head.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    x, y = rng.uniform(0.35, 0.65) * width, rng.uniform(0.55, 0.7) * height
    body = ((columns - x) / (0.16 * width)) ** 2 + ((rows - y) / (0.25 * height)) ** 2 < 1
    head = ((columns - x) / (0.09 * width)) ** 2 + ((rows - y + 0.33 * height) / (0.11 * height)) ** 2 < 1
    parts = np.where(head, 2, np.where(body, 1, 0)).astype(np.uint8)
    colours = np.asarray([(40, 60, 50), (200, 120, 90), (230, 200, 170)])
    picture = colours[parts] + rng.normal(0, 12, (height, width, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), parts


@pytest.fixture(scope="session")
def draw() -> Draw:
    """`draw(seed, (width, height))`: a picture and its parts, see `figure`."""
    return figure


@pytest.fixture(scope="session")
def sizes() -> Sequence[tuple[int, int]]:
    """Of pictures, no two alike: that is what photographs are."""
    return [(64, 48), (50, 70), (48, 48), (80, 56), (61, 67), (44, 52), (72, 72), (56, 40), (66, 50), (52, 64)]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory, sizes: Sequence[tuple[int, int]]) -> Path:
    """The laboratory's folder: images/, masks/ of 0 and 255, and a CSV that pandas wrote."""
    root = tmp_path_factory.mktemp("photographs")
    lines = [",images,masks,collages"]
    for folder in ("images", "masks", "collages"):
        (root / folder).mkdir()
    for number, size in enumerate(sizes):
        picture, parts = figure(number, size)
        Image.fromarray(picture).save(root / f"images/{number}.jpg", quality=95)
        Image.fromarray(((parts > 0) * 255).astype(np.uint8)).save(root / f"masks/{number}.png")
        lines.append(f"{number},images/{number}.jpg,masks/{number}.png,collages/{number}.jpg")
    (root / "df.csv").write_text("\n".join(lines) + "\n")
    return root
