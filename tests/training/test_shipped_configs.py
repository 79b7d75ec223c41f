"""The shipped configurations start on data in the layout they were written for."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medunet.config.load import load_config, shipped_configs
from medunet.networks.registry import NETWORKS
from medunet.training.observe import Observer, Step
from medunet.training.run import train

DECATHLON = {
    "ct_liver.yaml": ("CT", {"0": "background", "1": "liver", "2": "cancer"}),
    "ct_spleen.yaml": ("CT", {"0": "background", "1": "spleen"}),
    "mr_hippocampus.yaml": ("MRI", {"0": "background", "1": "Anterior", "2": "Posterior"}),
}
NETWORK_CONFIGS = [f"hippocampus/{name}.yaml" for name in NETWORKS]
"""One variant of each network, on the data of `mr_hippocampus.yaml`."""

FAST = [
    "network.channels=[4, 8, 8, 8, 8]",
    "network.blocks=1",
    "train.patch_size=[32, 32, 32]",
    "network.strides=null",
    "network.kernel_size=3",
]


class Enough(Exception):
    """The first step was made; that is all this test wants."""


class FirstStep(Observer):
    def step(self, step: Step) -> None:
        assert np.isfinite(step.loss)
        raise Enough


def decathlon(root: Path, modality: str, labels: dict[str, str]) -> Path:
    """Five cases as the Decathlon ships them: gzipped NIfTI, float32, `./imagesTr/...`, macOS leavings beside."""
    rng = np.random.default_rng(0)
    affine = np.diag([0.9, 0.9, 2.5, 1.0])
    entries = []
    for number in range(5):
        name = f"case_{number}"
        mask = np.zeros((72, 64, 40), np.uint8)
        mask[10:40, 10:40, 8:30] = 1
        for value in range(2, len(labels)):
            mask[14:24, 14:24, 10:20] = value
        image = rng.normal(-50, 30, mask.shape) + 100.0 * mask
        for folder, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")
            (root / folder / f"._{name}.nii.gz").write_bytes(b"\0\5\26\7")
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    content = {"name": "x", "tensorImageSize": "3D", "modality": {"0": modality}, "labels": labels, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("name", DECATHLON)
def test_a_shipped_config_with_a_small_network_makes_its_first_step(name: str, tmp_path: Path) -> None:
    data = decathlon(tmp_path / "data", *DECATHLON[name])
    config = load_config(name, data=data, overrides=FAST)
    with pytest.raises(Enough):
        train(config, tmp_path / "run", device="cpu", observer=FirstStep())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", DECATHLON)
def test_a_shipped_config_as_it_is_makes_its_first_step(name: str, tmp_path: Path) -> None:
    data = decathlon(tmp_path / "data", *DECATHLON[name])
    with pytest.raises(Enough):
        train(load_config(name, data=data), tmp_path / "run", device="cpu", observer=FirstStep())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NETWORK_CONFIGS)
def test_the_config_of_each_network_makes_its_first_step(name: str, tmp_path: Path) -> None:
    data = decathlon(tmp_path / "data", *DECATHLON["mr_hippocampus.yaml"])
    config = load_config(name, data=data, overrides=["data.folds=5"])
    with pytest.raises(Enough):
        train(config, tmp_path / "run", device="cpu", observer=FirstStep())


def test_every_shipped_data_config_is_tried() -> None:
    assert set(shipped_configs()) == {*DECATHLON, *NETWORK_CONFIGS, "demo.yaml"}
