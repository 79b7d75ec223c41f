"""The exercise with cars: run-length codes in a CSV, the border weight map, bilinear up-sampling."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image


def runs(mask: NDArray[np.bool_]) -> str:
    """Starts, from 1 along the rows, and lengths."""
    flat = np.concatenate([[0], mask.ravel(), [0]]).astype(int)
    starts, ends = np.flatnonzero(np.diff(flat) == 1), np.flatnonzero(np.diff(flat) == -1)
    return " ".join(f"{start + 1} {end - start}" for start, end in zip(starts, ends, strict=True))


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory, draw: Callable[..., Any], sizes: Sequence[tuple[int, int]]) -> Path:
    root = tmp_path_factory.mktemp("cars")
    (root / "train").mkdir()
    lines = ["img,rle_mask"]
    for number, size in enumerate(sizes):
        picture, parts = draw(number, size)
        Image.fromarray(picture).save(root / f"train/car_{number}.jpg", quality=95)
        lines.append(f"car_{number}.jpg,{runs(parts > 0)}")
    (root / "train_masks.csv").write_text("\n".join(lines) + "\n")
    return root


def test_cars_are_learned_from_runs_with_weights_at_their_borders(
    medunet: Callable[..., Any], cars: Path, draw: Callable[..., Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = {
        "preprocess.size": "[32, 32]",
        "train.patch_size": "[32, 32]",
        "network.channels": "[8, 16]",
        "train.epochs": "3",
        "train.iterations_per_epoch": "15",
        "train.optimizer.lr": "0.01",
        "validate.every": "1",
    }
    medunet("train", "--config", "cars_rle.yaml", "--data", cars, "--out", run, "-d", "cpu", settings=settings)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["network"]["up"] == "bilinear"
    assert config["loss"][0]["name"] == "boundary_weighted_ce"
    assert len(list((run / "cache").glob("*/weight-*.npy"))) == 10
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert max(epoch["dice_mean"] for epoch in epochs) > 0.6
    medunet("predict", "-m", run, "-i", cars / "train/car_0.jpg", "-o", tmp_path / "mask.png", "-d", "cpu")
    with Image.open(tmp_path / "mask.png") as mask:
        found = np.asarray(mask) > 0
    truth = draw(0, (64, 48))[1] > 0
    assert found.shape == truth.shape
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.6  # of what was drawn, not of what was encoded
