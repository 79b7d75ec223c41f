"""Prints the forecast and the peak of segmenting a volume, and the limit that was set, in bytes.

A script and not a function of the test, because a heap that was used before hides what is taken from it. The argument
is a list: number of labels, voxels per axis, and null or the share of the plain forecast that is allowed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from medunet.config.schema import Config
from medunet.geometry import Geometry
from medunet.inference.memory import peak_bytes, reset_peak
from medunet.inference.predictor import Predictor
from medunet.io.volume import Volume
from medunet.model import save_model
from medunet.networks.registry import build_network


def model(folder: Path, labels: int) -> Path:
    """A network with random weights."""
    config = Config.model_validate_json(
        json.dumps(
            {
                "name": "memory",
                "data": {"root": str(folder), "modality": ["CT"]},
                "labels": {"background": 0, **{f"organ {index}": index for index in range(1, labels)}},
                "preprocess": {"spacing": [1.5, 1.5, 1.5], "intensity": [{"name": "none"}]},
                "network": {"name": "unet", "dims": 3, "channels": [4, 8]},
                "train": {"patch_size": [32, 32, 32]},
                "inference": {"overlap": 0.25},
            }
        )
    )
    torch.manual_seed(0)
    network = build_network(config.network, 1, labels)
    return save_model(folder / "model", config, network.state_dict(), {})


def measure(labels: int, shape: tuple[int, ...], share: float | None) -> tuple[int, int, int | None]:
    """Forecast, peak and limit."""
    array = np.random.default_rng(0).integers(-100, 100, (1, *shape)).astype(np.int16)
    volume = Volume(array, Geometry.plain(shape, (1.0, 1.0, 1.2)))
    with tempfile.TemporaryDirectory() as folder:
        path = model(Path(folder), labels)
        limit = None
        if share is not None:
            import psutil

            predictor = Predictor(path, device="cpu", engine="torch", precision="fp32")
            held = psutil.Process().memory_info().rss
            limit = held + int(share * (measure_plan(predictor, volume) - held))
        predictor = Predictor(
            path, device="cpu", engine="torch", precision="fp32", memory_limit=None if limit is None else f"{limit}B"
        )
        reset_peak()
        forecast = predictor(volume).forecast_bytes
        return forecast, peak_bytes() or 0, limit


def measure_plan(predictor: Predictor, volume: Volume) -> int:
    """What the volume would take without a limit."""
    return predictor.plan(volume).peak_bytes


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))))
