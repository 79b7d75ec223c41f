"""What works but may be meant otherwise."""

from __future__ import annotations

import pytest

from medunet.config.advice import advice
from medunet.config.load import parse_config

BASE = """
name: t
labels: {{background: 0, car: 1}}
data: {{modality: {modality}}}
preprocess: {{orientation: RA, intensity: {intensity}}}
network: {{name: {network}}}
train: {{patch_size: [64, 64]}}
"""
WEIGHTS = "efficient_unet, dims: 2, backbone: r18, encoder_weights: /w/resnet18.pth"


def told(modality: str, intensity: str, network: str = WEIGHTS) -> list[str]:
    return list(advice(parse_config(BASE.format(modality=modality, intensity=intensity, network=network))))


@pytest.mark.parametrize("intensity", ["{name: zscore}", "{name: percentile}", "{name: none}"])
@pytest.mark.parametrize("modality", ["[R, G, B]", "[grey]"])
def test_weights_of_pictures_go_with_fixed_figures(modality: str, intensity: str) -> None:
    (sentence,) = told(modality, intensity)
    assert "intensity: {name: imagenet}" in sentence
    assert intensity.removeprefix("{name: ").rstrip("}") in sentence


@pytest.mark.parametrize(
    ("modality", "intensity", "network"),
    [
        ("[R, G, B]", "{name: imagenet}", WEIGHTS),
        ("[R, G, B]", "{name: fixed, mean: 0.5, std: 0.5}", WEIGHTS),
        ("[CT]", "{name: ct_window}", WEIGHTS),
        ("[T1]", "{name: zscore}", WEIGHTS),
        ("[R, G, B]", "{name: zscore}", "efficient_unet, dims: 2, backbone: r18"),
        ("[R, G, B]", "{name: zscore}", WEIGHTS.replace("resnet18.pth", "run/model")),
        ("[R, G, B]", "{name: zscore}", "unet, dims: 2, channels: [8, 16]"),
    ],
    ids=["imagenet", "fixed", "CT", "MR", "no weights", "an own model", "no encoder"],
)
def test_all_else_needs_no_advice(modality: str, intensity: str, network: str) -> None:
    assert told(modality, intensity, network) == []
