"""Steps of a 2D training on a CPU with pictures prepared in a thread of its process, and in a process of their own.

On drawn pictures, with the network and the augmentation of `people_2d_best.yaml`; the two take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STEPS = int(os.environ.get("STEPS", "30"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
COUNT, SIDE = 20, 400


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A data set as the configuration expects it: a CSV of pictures and masks."""
    rng = np.random.default_rng(0)
    rows = [",images,masks"]
    for number in range(COUNT):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        top, left = rng.integers(20, 200, 2)
        mask[top : top + 150, left : left + 100] = 255
        picture = rng.integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8) + mask[..., None] // 2
        Image.fromarray(picture).save(tmp_path / f"picture_{number}.png")
        Image.fromarray(mask).save(tmp_path / f"mask_{number}.png")
        rows.append(f"{number},picture_{number}.png,mask_{number}.png")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    return tmp_path


def seconds_per_step(data: Path, run: Path, workers: int) -> float:
    settings = (
        f"train.workers={workers}",
        f"train.iterations_per_epoch={STEPS}",
        "train.epochs=2",
        "train.budget=null",
        "validate.every=1000",
        "validate.cases=1",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    command = ["-m", "medunet", "train", "--config", "people_2d_best.yaml", "--data", str(data), "--out", str(run)]
    done = subprocess.run([sys.executable, *command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])  # the second ends with a validation
    return float(first["seconds"]) / STEPS


@pytest.mark.benchmark
@pytest.mark.timeout(0)
def test_a_process_of_their_own_does_not_hold_the_network_up(pictures: Path, tmp_path: Path) -> None:
    times: dict[int, list[float]] = {0: [], 1: []}
    for number in range(ROUNDS):
        for workers, found in times.items():
            found.append(seconds_per_step(pictures, tmp_path / f"run_{workers}_{number}", workers))
    thread, process = (statistics.median(times[workers]) for workers in (0, 1))
    print(f"\npictures from a thread {thread:.3f} s per step, from a process {process:.3f} s: {thread / process:.2f}")
    assert thread > process
