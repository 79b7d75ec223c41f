"""The shipped configurations start on data in the layout they were written for; recipes say what was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from medunet.config.load import load_config, shipped_configs
from medunet.config.networks import ResidualUNetConfig
from medunet.errors import ConfigError
from medunet.labels import LabelMap
from medunet.model import load_model
from medunet.networks.registry import NETWORKS
from medunet.training.observe import Observer, Step
from medunet.training.run import train

DECATHLON = {
    "ct_liver.yaml": ("CT", {"0": "background", "1": "liver", "2": "cancer"}),
    "ct_spleen.yaml": ("CT", {"0": "background", "1": "spleen"}),
    "mr_hippocampus.yaml": ("MRI", {"0": "background", "1": "Anterior", "2": "Posterior"}),
}
FLAT: dict[str, tuple[str, str, list[int]]] = {
    "cardiac_2d.yaml": ("images/{}.png", "labels/{}.png", [0, 1, 2, 3]),
    "cars_rle.yaml": ("images/{}.png", "", [0, 255]),
    "membrane_unet2015.yaml": ("images/{}.png", "labels/{}.png", [0, 255]),
    "people_2d.yaml": ("images/{}.png", "masks/{}.png", [0, 255]),
    "people_2d_best.yaml": ("images/{}.png", "masks/{}.png", [0, 255]),
    "retina_vessels.yaml": ("images/{}_training.png", "1st_manual/{}_manual1.png", [0, 255]),
    "server_heatmap.yaml": ("images/{}.png", "labels/{}.png", [0, 1, 2, 3, 4]),
}
"""Where images and masks of the 2D configurations lie, and the values in the masks."""
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
            mask[14:24, 12 * value - 10 : 12 * value, 10:20] = value
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


def flat(root: Path, name: str) -> Path:
    """Five cases as a 2D configuration expects them."""
    images, labels, values = FLAT[name]
    if name == "cardiac_2d.yaml":
        return decathlon(root, "MRI", {"0": "background", "1": "RV", "2": "Myocardium", "3": "LV"})
    rng = np.random.default_rng(0)
    table = [",images,masks"]
    runs = ["img,rle_mask"]
    for number in range(5):
        mask = np.zeros((80, 100), np.uint8)
        for place, value in enumerate(values[1:]):
            mask[20:50, 10 + 18 * place : 26 + 18 * place] = value
        image = rng.integers(0, 60, (80, 100, 3)).astype(np.uint8) + (mask[..., None] > 0) * np.uint8(90)
        for pattern, array in ((images, image), (labels, mask)):
            if pattern:
                path = root / pattern.format(number)
                path.parent.mkdir(parents=True, exist_ok=True)
                grey = name.startswith("membrane") or array.ndim == 2
                Image.fromarray(array if not grey or array.ndim == 2 else array[..., 0]).save(path)
        table.append(f"{number},{images.format(number)},{labels.format(number)}")
        runs.append(f"{number}.png," + " ".join(f"{100 * row + 11} 16" for row in range(20, 50)))
    if name.startswith(("people", "server")):
        (root / "cases.csv").write_text("\n".join(table) + "\n")
    if name.startswith("cars"):
        (root / "train_masks.csv").write_text("\n".join(runs) + "\n")
    return root


@pytest.mark.parametrize("name", FLAT)
def test_a_shipped_2d_config_with_a_small_network_makes_a_model_that_can_be_read(name: str, tmp_path: Path) -> None:
    levels = 5 if name.startswith("membrane") else 3
    small = [f"network.channels={[4, 8, 8, 8, 8][:levels]}", "logging.mlflow=null", "train.batch_size=2"]
    small += ["train.epochs=1", "train.iterations_per_epoch=1", "train.budget=null"]
    config = load_config(name, data=flat(tmp_path / "data", name))
    if isinstance(config.network, ResidualUNetConfig):
        small.append("network.blocks=1")
    config = load_config(name, data=tmp_path / "data", overrides=small)
    model = load_model(train(config, tmp_path / "run", device="cpu").model)
    assert model.spec.postprocess == config.postprocess
    assert model.labels.to_mapping() == LabelMap.from_mapping(config.labels).to_mapping()


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
    assert set(shipped_configs()) == {*DECATHLON, *NETWORK_CONFIGS, *FLAT, "demo.yaml"}


# Recipes: to be extended, they name no task


RECIPES: dict[str, dict[str, Any]] = {
    "nnunet": {
        "train.optimizer": ("sgd", 0.01, {"momentum": 0.99, "nesterov": True, "weight_decay": 3e-5}),
        "train.schedule": ("poly", {"power": 0.9}),
        "loss": ["dice", "cross_entropy"],
        "plan": {"batch_size": 2, "epochs": 1000, "iterations_per_epoch": 250, "clip_norm": 12.0, "foreground": 0.33},
        "deep_supervision": True,
        "augment": "nnunet",
        "early_stop": None,
    },
    "monai": {
        "train.optimizer": ("adamw", 1e-4, {"weight_decay": 1e-5}),
        "train.schedule": ("cosine", {"warmup": 0.01}),
        "loss": ["dice", "cross_entropy"],
        "plan": {"foreground": 0.5},
        "deep_supervision": True,
        "augment": "nnunet",
        "early_stop": None,
    },
    "classic_2d": {
        "train.optimizer": ("adam", 1e-5, {"weight_decay": 0.0}),
        "train.schedule": ("plateau", {"metric": "validation_loss", "factor": 0.5, "patience": 5}),
        "loss": ["bce"],
        "plan": {"batch_size": 4, "epochs": 100, "clip_norm": 1.0},
        "deep_supervision": False,
        "augment": "nnunet",
        "early_stop": ("validation_loss", 15, 1e-4),
    },
}
TASKS = {3: ("CT", "labels: {background: 0, blob: 1}"), 2: ("R, G, B", "labels: {background: 0, blob: 255}")}


def extended(folder: Path, recipe: str) -> Path:
    """A configuration file as a user would write it."""
    modality, labels = TASKS[2 if recipe.endswith("2d") else 3]
    path = folder / "mine.yaml"
    path.write_text(f"extends: recipes/{recipe}.yaml\nname: mine\n{labels}\ndata: {{modality: [{modality}]}}\n")
    return path


def pictures(root: Path) -> Path:
    """Five photographs with masks of 0 and 255."""
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(5):
        mask = np.zeros((80, 100), np.uint8)
        mask[20:50, 30:70] = 255
        image = rng.integers(0, 60, (80, 100, 3)).astype(np.uint8) + mask[..., None] // 2
        Image.fromarray(image).save(root / "images" / f"car_{number}.png")
        Image.fromarray(mask).save(root / "labels" / f"car_{number}.png")
    return root


def test_every_recipe_is_tried() -> None:
    folder = shipped_configs()["demo.yaml"].parent / "recipes"
    assert {path.stem for path in folder.glob("*.yaml")} == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_numbers_that_were_published(recipe: str, tmp_path: Path) -> None:
    expected, config = RECIPES[recipe], load_config(extended(tmp_path, recipe))
    name, lr, options = expected["train.optimizer"]
    optimizer, schedule, stop = config.train.optimizer, config.train.schedule, config.train.early_stop
    assert (optimizer.name, optimizer.lr) == (name, lr)
    assert {key: getattr(optimizer, key) for key in options} == options
    assert schedule.name == expected["train.schedule"][0]
    options = expected["train.schedule"][1]
    assert {key: getattr(schedule, key) for key in options} == options
    assert [term.name for term in config.loss] == expected["loss"]
    assert {key: getattr(config.train, key) for key in expected["plan"]} == expected["plan"]
    assert config.network.deep_supervision == expected["deep_supervision"]
    assert config.augment.preset == expected["augment"]
    assert (stop and (stop.metric, stop.patience, stop.min_delta)) == expected["early_stop"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_a_small_network_makes_its_first_step(recipe: str, tmp_path: Path) -> None:
    flat = recipe.endswith("2d")
    labels = {"0": "background", "1": "blob"}
    data = pictures(tmp_path / "data") if flat else decathlon(tmp_path / "data", "CT", labels)
    fast = ["network.channels=[4, 8, 8, 8, 8]", f"train.patch_size={[32] * (2 if flat else 3)}"]
    config = load_config(extended(tmp_path, recipe), data=data, overrides=fast)
    with pytest.raises(Enough):
        train(config, tmp_path / "run", device="cpu", observer=FirstStep())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_alone_is_no_task(recipe: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(f"recipes/{recipe}.yaml")
    assert {problem.what for problem in caught.value.problems} == {"name", "labels"}
