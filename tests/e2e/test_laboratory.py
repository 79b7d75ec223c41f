"""The laboratory report: people on photographs listed in a CSV, 256 x 256, BCE, plateau, early stop on Dice, MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")

SMALL = {
    "preprocess.size": "[32, 32]",
    "train.patch_size": "[32, 32]",
    "network.channels": "[8, 16, 16]",
    "train.optimizer.lr": "0.01",
    "train.iterations_per_epoch": "10",
    "train.early_stop.patience": "2",
    "train.early_stop.min_delta": "0.03",
    "train.schedule.patience": "0",
    "train.epochs": "40",
}


def test_the_recipe_learns_stops_early_and_is_in_mlflow(
    medunet: Callable[..., Any], photographs: Path, tmp_path: Path
) -> None:
    run, store = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    settings = {**SMALL, "logging.mlflow": store}
    medunet("train", "--config", "people_2d.yaml", "--data", photographs, "--out", run, "-d", "cpu", settings=settings)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert [term["name"] for term in config["loss"]] == ["bce"]
    assert (config["train"]["batch_size"], config["train"]["clip_norm"]) == (4, 1.0)
    assert config["train"]["optimizer"]["name"] == "adam"
    assert config["train"]["schedule"]["name"] == "plateau"
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert 3 <= len(epochs) < 40  # stopped early, on Dice
    assert max(epoch["dice_mean"] for epoch in epochs) > 0.7
    found = mlflow.MlflowClient(tracking_uri=store)
    (experiment,) = (each for each in found.search_experiments() if each.name == "people_2d")
    (recorded,) = found.search_runs([experiment.experiment_id])
    assert recorded.info.status == "FINISHED"
    assert recorded.data.params["train.optimizer.lr"] == "0.01"
    assert len(found.get_metric_history(recorded.info.run_id, "dice")) == len(epochs)

    medunet("predict", "-m", run, "-i", photographs / "images", "-o", tmp_path / "masks", "-f", "png", "-d", "cpu")
    for picture in (photographs / "images").iterdir():
        with Image.open(picture) as shown, Image.open(tmp_path / "masks" / f"{picture.stem}_mask.png") as mask:
            assert mask.size == shown.size
            assert set(np.unique(np.asarray(mask)).tolist()) <= {0, 255}
