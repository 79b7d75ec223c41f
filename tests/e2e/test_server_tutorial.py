"""The server tutorial: training, the best checkpoint, a folder to masks in original size, monitor, a watched folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.demo.pictures import write_telemetry


@pytest.fixture(scope="module")
def trained(medunet: Callable[..., Any], photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("tutorial") / "run"
    settings = {
        "preprocess.size": "[32, 32]",
        "train.patch_size": "[32, 32]",
        "network.channels": "[8, 16]",
        "network.blocks": "1",
        "augment.preset": "mirror",
        "augment.mirror_axes": "[0]",
        "augment.collage_probability": "0",
        "train.budget": "null",
        "train.epochs": "3",
        "train.iterations_per_epoch": "15",
        "train.optimizer.lr": "0.01",
        "train.ema": "null",
        "validate.every": "1",
        "logging.monitor": "0.2s",
    }
    medunet(
        "train", "--config", "people_2d_best.yaml", "--data", photographs, "--out", run, "-d", "cpu", settings=settings
    )
    return run


def test_the_best_epoch_becomes_the_model(trained: Path) -> None:
    epochs = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = max(epochs, key=lambda epoch: epoch["dice_mean"])
    assert best["dice_mean"] > 0.6
    assert (trained / "checkpoints" / "best.pt").is_file()
    described = (trained / "model" / "model.yaml").read_text()
    assert f"best_epoch: {best['epoch']}" in described


def test_the_machine_is_watched_while_it_trains(trained: Path) -> None:
    samples = [json.loads(line) for line in (trained / "resources.jsonl").read_text().splitlines()]
    assert samples
    assert all(sample["cpu_percent"] >= 0 for sample in samples)


def test_a_folder_becomes_masks_of_the_same_names_and_sizes(
    medunet: Callable[..., Any], trained: Path, photographs: Path, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "monday").mkdir(parents=True)
    shutil.copy(photographs / "images/0.jpg", inbox / "a.jpg")
    shutil.copy(photographs / "images/1.jpg", inbox / "monday/b.jpg")
    (inbox / "broken.png").write_bytes(b"no picture")
    medunet("predict", "-m", trained, "-i", inbox, "-o", tmp_path / "out", "-d", "cpu", "--overlay", code=3)
    for name in ("a", "monday/b"):
        with Image.open(inbox / f"{name}.jpg") as picture, Image.open(tmp_path / "out" / f"{name}_mask.png") as mask:
            assert mask.size == picture.size
            assert np.asarray(mask).any()
        assert (tmp_path / "out" / f"{name}_overlay.png").is_file()
    cases = {case["case"]: case["status"] for case in json.loads((tmp_path / "out/predict.json").read_text())["cases"]}
    assert sorted(cases.values()) == ["done", "done", "failed"]


def test_a_watched_folder_is_segmented_until_it_is_stopped(trained: Path, photographs: Path, tmp_path: Path) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    shutil.copy(photographs / "images/0.jpg", inbox / "first.jpg")
    command = [sys.executable, "-m", "medunet", "predict", "--watch", "--settle", "0.3", "-m", trained, "-i", inbox]
    with subprocess.Popen(
        [*map(str, command), "-o", str(out), "-d", "cpu", "--engine", "torch"], stderr=subprocess.PIPE, env=os.environ
    ) as process:
        try:
            wait_for(out / "first_mask.png")
            shutil.copy(photographs / "images/1.jpg", inbox / "second.jpg.part")
            (inbox / "second.jpg.part").rename(inbox / "second.jpg")
            wait_for(out / "second_mask.png")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


def wait_for(path: Path, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def test_telemetry_of_servers_is_a_data_set_of_the_heat_map_configuration(
    medunet: Callable[..., Any], tmp_path: Path
) -> None:
    write_telemetry(tmp_path / "data", pictures=6, servers=16, samples=64)
    shown = json.loads(medunet("info", tmp_path / "data", "--json").stdout)
    assert shown["kind"] == "dataset"
