"""Writes a large TIFF tile by tile, segments it, and prints peak memory and seconds as JSON.

A script and not a function of the test, because the peak is that of a process. Arguments: model, folder, pixels per
side, and optionally the bytes from which on a picture goes to the disk.
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


def segment(model: Path, folder: Path, side: int) -> dict[str, Any]:
    """What it took."""
    from medunet.inference.batch import predict
    from medunet.inference.memory import peak_bytes, resident_bytes
    from medunet.inference.predictor import Predictor

    picture = write_picture(folder / "picture.tif", side)
    predictor = Predictor(model, device="cpu", engine="torch", precision="fp32")
    start, held = time.monotonic(), resident_bytes()
    (report,) = predict(predictor, picture, folder / "out")
    return {
        "held": held,
        "peak": peak_bytes(),
        "forecast": report.forecast_memory_bytes,
        "seconds": time.monotonic() - start,
        "error": report.error,
    }


if __name__ == "__main__":
    if len(sys.argv) > 4:
        from medunet.inference import predictor
        from medunet.io import large

        large.LARGE = predictor.LARGE = int(sys.argv[4])
    sys.stdout.write(json.dumps(segment(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
