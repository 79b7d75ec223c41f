"""A whole-body CT with 118 labels on a CPU: how much memory `medunet predict` takes, and that its length adds none.

512 x 512 x Z voxels of 0.8 x 0.8 x 1 mm, network spacing 1.5 mm, Z = 400, 800 and 1200 (LENGTHS). The volume is noise,
so that no window is skipped. CHANNELS and PATCH set the network, whose features take memory too; LIMIT is what
`--memory-limit` gets.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from watched_run import run

from medunet.config.schema import Config
from medunet.inference.memory import bytes_of
from medunet.model import save_model
from medunet.networks.registry import build_network

LABELS = 118
LENGTHS = [int(number) for number in os.environ.get("LENGTHS", "400,800,1200").split(",")]
CHANNELS = [int(number) for number in os.environ.get("CHANNELS", "8,16,32,64").split(",")]
LIMIT = os.environ.get("LIMIT", "6GB")
PATCH = [int(number) for number in os.environ.get("PATCH", "96,96,96").split(",")]


def model(folder: Path) -> Path:
    """A network with random weights."""
    settings = {
        "name": "whole body",
        "data": {"root": str(folder), "modality": ["CT"]},
        "labels": {"background": 0, **{f"structure {index}": index for index in range(1, LABELS)}},
        "preprocess": {
            "spacing": [1.5, 1.5, 1.5],
            "intensity": [{"name": "ct_window", "low": -1000, "high": 1000}],
        },
        "network": {"name": "unet", "dims": 3, "channels": CHANNELS},
        "train": {"patch_size": PATCH},
    }
    config = Config.model_validate_json(json.dumps(settings))
    torch.manual_seed(0)
    return save_model(folder / "model", config, build_network(config.network, 1, LABELS).state_dict(), {})


def scan(path: Path, length: int) -> Path:
    """Written slab by slab."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, length))
    header.set_data_dtype(np.int16)
    header.set_sform(np.diag([0.8, 0.8, 1.0, 1.0]), code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(length):
            file.write(random.integers(-200, 300, 512 * 512, dtype=np.int16).tobytes())
    return path


@pytest.mark.benchmark
@pytest.mark.timeout(0)
def test_memory_does_not_grow_with_a_whole_body(tmp_path: Path) -> None:
    path, beside = model(tmp_path), {}
    print(f"\n{LABELS} labels, channels {CHANNELS}, patch {PATCH}")
    for length in LENGTHS:
        image, report = scan(tmp_path / "scan.nii", length), tmp_path / "report.json"
        command = [sys.executable, "-m", "medunet", "predict", "-d", "cpu", "--no-tta", "-m", path, "-i", image]
        command += ["--memory-limit", LIMIT]
        done = run([*command, "-o", tmp_path / "mask.nii.gz", "--report", report])
        (case,) = json.loads(report.read_text())["cases"]
        labels = 512 * 512 * length
        beside[length] = done.largest - labels
        print(
            f"z = {length}: {done.seconds:.0f} s, peak {done.largest / 1e9:.2f} GB with {labels / 1e9:.2f} of labels, "
            f"forecast {case['forecast_memory_bytes'] / 1e9:.2f} GB, engine {case['engine']}"
        )
        assert done.largest < bytes_of(LIMIT)
    assert max(beside.values()) < 1.1 * min(beside.values())
