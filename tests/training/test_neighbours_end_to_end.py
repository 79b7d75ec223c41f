"""Networks that see slices with their neighbours: from training to a mask on the volume's grid, by every engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medunet.errors import DataError
from medunet.geometry import Geometry
from medunet.inference.predictor import Predictor
from medunet.io.volume import Volume
from medunet.training.run import train

FLAT = {
    "network": {"name": "unet", "dims": 2, "channels": [4, 8], "deep_supervision": False},
    "train.patch_size": [16, 16],
    "train.iterations_per_epoch": 20,
    "train.epochs": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, make_config: Callable[..., Any]) -> Path:
    config = make_config(tiny_dataset, {**FLAT, "preprocess.neighbours": 1, "preprocess.orientation": "SRA"})
    return train(config, tmp_path_factory.mktemp("neighbours") / "run", device="cpu").run


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_prediction_gives_the_masks_of_validation(run: Path, tiny_dataset: Path, engine: str) -> None:
    predictor = Predictor(run / "model", device="cpu", engine=engine, precision="fp32")
    for mask in sorted((run / "validation").glob("*_seg.nii.gz")):
        case = mask.name.removesuffix("_seg.nii.gz")
        found = predictor(tiny_dataset / "imagesTr" / f"{case}.nii.gz")
        written = np.asarray(nibabel.load(mask).dataobj)
        assert found.array.shape == written.shape == (24, 24, 16)
        assert np.mean(found.labels.to_values(found.array) == written) > 0.999


def test_a_picture_is_refused(run: Path) -> None:
    picture = Volume(np.zeros((1, 20, 20), np.uint8), Geometry.plain((20, 20)))
    with pytest.raises(DataError, match="is a picture, which has none"):
        Predictor(run / "model", device="cpu")(picture)
