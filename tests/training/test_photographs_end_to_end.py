"""Two steps of training on photographs whose masks are colours, with a region of interest, by patterns of names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.training.run import train


def save(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def street(tmp_path: Path, blob: Callable[..., Any]) -> Path:
    colours = {0: (0, 0, 0), 4: (128, 64, 128), 205: (0, 0, 142)}
    for number in range(4):
        image, mask = blob(number, (32, 24))
        grey = np.clip(image / 2 + 20, 0, 255).astype(np.uint8).T
        save(tmp_path / f"data/photos/{number}_rgb.jpg", np.stack([grey] * 3, axis=-1))
        save(
            tmp_path / f"data/truth/{number}_colours.png",
            np.array([[colours[v] for v in row] for row in mask.T], np.uint8),
        )
        save(
            tmp_path / f"data/fov/{number}.png",
            np.where(np.arange(32) < 28, 255, 0).astype(np.uint8) * np.ones((24, 1), np.uint8),
        )
    return tmp_path / "data"


def test_training_takes_colours_within_a_region(street: Path, tmp_path: Path, make_config: Callable[..., Any]) -> None:
    names = {"images": "photos/{case}_rgb.*", "labels": "truth/{case}_colours.png", "region": "fov/{case}.png"}
    data = {
        "root": str(street), "modality": ["R", "G", "B"], "folds": 2, "pairs": names,
        "colours": {"background": [0, 0, 0], "organ": "#804080", "core": ["#00008E"]},
    }  # fmt: skip
    changes = {
        "data": data, "network.dims": 2, "labels.ignore": 255, "preprocess.intensity": {"name": "zscore"},
        "train.patch_size": [16, 16], "train.epochs": 1, "train.iterations_per_epoch": 2,
    }  # fmt: skip
    done = train(make_config(street, changes), tmp_path / "run", device="cpu")
    reference = next((tmp_path / "run" / "cache").glob("*/reference.npz"))
    indices = np.load(reference)["reference"]
    assert set(np.unique(indices)) == {0, 1, 2, 255}
    assert (indices[28:] == 255).all()
    assert (done.run / "model" / "model.yaml").is_file()
