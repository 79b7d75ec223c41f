"""Writes a large TIFF tile by tile, segments it with a tiny network, and prints peak memory and seconds as JSON.

A script and not a function of the test, because the peak is that of a process. Arguments: folder, pixels per side, and
optionally the bytes from which on a picture goes to the disk.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray

TILE = 256


def write_picture(path: Path, side: int) -> Path:
    """Discs in noise, RGB, deflated tiles; BigTIFF where the numbers ask for it."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 60, (TILE, TILE, 3), np.uint8)
    down, right = np.indices((TILE, TILE))
    disc = ((down - TILE / 2) ** 2 + (right - TILE / 2) ** 2 < (TILE / 3) ** 2)[..., None]
    plain, spotted = noise, noise + np.uint8(150) * disc

    def tiles() -> Iterator[NDArray[Any]]:
        across = -(-side // TILE)
        for number in range(across * across):
            yield spotted if number % 3 == 0 else plain

    tifffile.imwrite(
        path, tiles(), shape=(side, side, 3), dtype=np.uint8, tile=(TILE, TILE), compression="zlib", photometric="rgb",
        bigtiff=side**2 * 3 > 2**32,
    )  # fmt: skip
    return path


def write_model(folder: Path, patch: int = 256) -> Path:
    """A network with random weights that takes RGB."""
    from medunet.config.schema import Config
    from medunet.model import save_model
    from medunet.networks.registry import build_network

    settings = {
        "name": "large",
        "data": {"root": str(folder), "modality": ["R", "G", "B"]},
        "labels": {"background": 0, "person": 255},
        "preprocess": {"intensity": [{"name": "zscore"}]},
        "network": {"name": "unet", "dims": 2, "channels": [4, 8]},
        "train": {"patch_size": [patch, patch]},
        "inference": {"overlap": 0.25},
    }
    config = Config.model_validate_json(json.dumps(settings))
    torch.manual_seed(0)
    return save_model(folder / "model", config, build_network(config.network, 3, 2).state_dict(), {})


def segment(folder: Path, side: int) -> dict[str, Any]:
    """What it took."""
    from medunet.inference.batch import predict
    from medunet.inference.memory import peak_bytes
    from medunet.inference.predictor import Predictor

    model = write_model(folder, 512 if side > 10_000 else 256)
    picture = write_picture(folder / "picture.tif", side)
    predictor = Predictor(model, device="cpu", engine="torch", precision="fp32")
    start = time.monotonic()
    (report,) = predict(predictor, picture, folder / "out")
    return {
        "peak": peak_bytes(),
        "forecast": report.forecast_memory_bytes,
        "seconds": time.monotonic() - start,
        "error": report.error,
    }


if __name__ == "__main__":
    if len(sys.argv) > 3:
        from medunet.inference import predictor
        from medunet.io import large

        large.LARGE = predictor.LARGE = int(sys.argv[3])
    sys.stdout.write(json.dumps(segment(Path(sys.argv[1]), int(sys.argv[2]))))
