"""Pictures that are larger than memory: the mask is that of the plain way, the peak is bounded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from medunet.inference.batch import Options, predict
from medunet.inference.predictor import Predictor

SCRIPT = Path(__file__).with_name("large_picture.py")


def measured(model: Path, folder: Path, side: int, *least: int) -> dict[str, Any]:
    """What segmenting a picture takes in a process of its own."""
    command = [sys.executable, str(SCRIPT), str(model), str(folder), str(side), *map(str, least)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["error"] == ""
    return result


@pytest.mark.parametrize("changes", [{}, {"postprocess": [{"name": "remove_small", "label": "person", "mm3": 9}]}])
def test_the_mask_is_that_of_the_plain_way(
    make_picture_model: Callable[..., Path], changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (9, 13, 3)), np.ones((23, 19, 1))) + rng.integers(0, 30, (207, 247, 3))
    tifffile.imwrite(tmp_path / "a.tif", (picture % 256).astype(np.uint8), tile=(64, 64), photometric="rgb")
    predictor = Predictor(make_picture_model(tmp_path, **changes), device="cpu", engine="torch", precision="fp32")
    options = Options(probabilities=True, uncertainty=True, overlay=True)
    (plain,) = predict(predictor, tmp_path / "a.tif", tmp_path / "plain", options)
    monkeypatch.setattr("medunet.io.large.LARGE", 1)
    monkeypatch.setattr("medunet.inference.predictor.LARGE", 1)
    (large,) = predict(predictor, tmp_path / "a.tif", tmp_path / "large", options)
    assert plain.status == large.status == "done"
    assert [Path(each["path"]).name for each in large.outputs] == [
        "a_mask.png", "a_prob.nii.gz", "a_entropy.nii.gz", "a_overlay.png",
    ]  # fmt: skip
    assert large.volumes_ml == plain.volumes_ml
    for one, two in zip(plain.outputs, large.outputs, strict=True):
        name = Path(one["path"]).name
        if name.endswith(".png"):
            assert np.array_equal(Image.open(one["path"]), Image.open(two["path"])), name
    mask = np.asarray(Image.open(tmp_path / "large" / "a_mask.png"))
    assert mask.shape == picture.shape[:2]
    assert set(np.unique(mask)) == {0, 255}


@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
def test_the_peak_is_far_below_the_picture_in_float32(make_picture_model: Callable[..., Path], tmp_path: Path) -> None:
    found = measured(make_picture_model(tmp_path, 256, inference={"overlap": 0}), tmp_path, 4500, 1_000_000)
    # In float32 it has 243 MB. What is imported on the way takes up to 100 MB.
    assert found["peak"] - found["held"] < 150e6
    assert found["peak"] < found["forecast"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(sys.platform != "linux", reason="measures as Linux does")
def test_400_million_pixels_take_less_than_two_gigabytes(
    make_picture_model: Callable[..., Path], tmp_path: Path
) -> None:
    found = measured(make_picture_model(tmp_path, 512), tmp_path, 20_000)
    assert found["peak"] < 2e9
    assert found["peak"] < found["forecast"]
