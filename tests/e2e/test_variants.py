"""The explanation of the variants: every network for pictures is trained, and segments a picture in its own size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medunet.config.catalogue import networks
from medunet.config.load import load_config
from medunet.inference.predictor import Predictor
from medunet.training.run import train

SMALL = {
    "unet": {"channels": "[4, 8]"},
    "attention_unet": {"channels": "[4, 8]"},
    "residual_unet": {"channels": "[4, 8]", "blocks": "1"},
    "unet2015": {"channels": "[4, 8]"},
    "unetpp": {"channels": "[4, 4, 8, 8, 8]"},
    "efficient_unet": {"backbone": "r18"},
    "segresnet": {"filters": "8", "blocks": "[1, 1]"},
    "dynunet": {"channels": "[4, 8, 8]"},
    "vnet": {},
    "swin_unetr": {"feature_size": "12"},
    "mednext": {"size": "S"},
}


def test_no_network_for_pictures_is_missing() -> None:
    assert set(SMALL) == {choice.name for choice in networks()}


@pytest.mark.parametrize("name", SMALL)
def test_a_variant_learns_and_segments_a_picture(name: str, photographs: Path, tmp_path: Path) -> None:
    settings = [
        *("train.epochs=1", "train.iterations_per_epoch=1", "train.batch_size=2", "train.patch_size=[64, 64]"),
        *("train.budget=null", "train.ema=null", "validate.cases=1", "logging.monitor=null", "inference.tta=false"),
        "preprocess.size=[64, 64]",
        f"network={{name: {name}, dims: 2, {', '.join(f'{key}: {value}' for key, value in SMALL[name].items())}}}",
    ]
    config = load_config("people_2d_best.yaml", data=photographs, overrides=settings)
    result = train(config, tmp_path / "run", device="cpu")
    prediction = Predictor(result.model, device="cpu", engine="torch")(photographs / "images/0.jpg")
    assert prediction.array.shape == (64, 48)
    assert set(np.unique(prediction.array)) <= {0, 1}
