"""Scores of held-out cases are those of their whole masks on the original grid."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medunet.config.schema import AugmentConfig
from medunet.inference.predictor import Predictor
from medunet.io.manifest import read_manifest
from medunet.labels import LabelMap
from medunet.losses.truth import Truth
from medunet.model import load_model
from medunet.training.cache import CachedCase, prepare_cases
from medunet.training.parts import Parts, build_parts
from medunet.training.patches import PatchDataset
from medunet.training.validate import Validation, Validator, summarise

LABELS = LabelMap.from_mapping({"background": 0, "organ": 4, "core": 205})


@pytest.fixture(scope="module")
def config(tiny_dataset: Path, make_config: Callable[..., Any]) -> Any:
    return make_config(tiny_dataset)


@pytest.fixture
def parts(config: Any, tiny_model: Path) -> Parts:
    result = build_parts(config, torch.device("cpu"), labels=LABELS)
    result.network.load_state_dict(dict(load_model(tiny_model).weights))
    return result


@pytest.fixture(scope="module")
def cases(config: Any, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    manifest = read_manifest(tiny_dataset)
    return prepare_cases(manifest.cases[:3], tmp_path_factory.mktemp("cache"), config.preprocess, LABELS)


def test_steps_and_thresholds_are_those_of_prediction(
    parts: Parts, config: Any, cases: list[CachedCase], tiny_model: Path, tiny_dataset: Path
) -> None:
    steps = (
        "[{name: threshold, label: organ, probability: 0.9}, {name: watershed, label: core, depth: 0.01}, "
        "{name: largest_component, labels: [organ, core]}]"
    )
    model = load_model(tiny_model).changed([f"postprocess={steps}"])
    predictor = Predictor(model, device="cpu", precision="fp32")
    changed = config.model_copy(update={"postprocess": model.spec.postprocess})
    for case in cases:
        found = []
        for each in (config, changed):
            validator = Validator(parts, each, LABELS, cases)
            found.append(validator.segment(case, validator._engine(), tta=False))
        expected = predictor(tiny_dataset / "imagesTr" / f"{case.id}.nii.gz").array
        assert (found[1] == expected).mean() > 0.9999
        assert (found[0] == expected).mean() < 0.9999


def test_the_dice_during_training_is_that_of_the_written_masks(
    parts: Parts, config: Any, cases: list[CachedCase], tmp_path: Path, tiny_dataset: Path
) -> None:
    validator = Validator(parts, config, LABELS, cases)
    quick, full = validator.run(), validator.report(tmp_path)
    assert quick.dice == pytest.approx(full.dice)
    scores = []
    for case in cases:
        mask = np.asarray(nibabel.load(tmp_path / f"{case.id}_seg.nii.gz").dataobj) == 4
        truth = np.asarray(nibabel.load(tiny_dataset / "labelsTr" / f"{case.id}.nii.gz").dataobj) == 4
        scores.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert full.dice["organ"] == pytest.approx(np.mean(scores))
    with open(tmp_path / "per_case.csv", newline="") as handle:
        rows = [row for row in csv.DictReader(handle) if row["label"] == "organ"]
    assert [float(row["dice"]) for row in rows] == pytest.approx(scores)


def test_validation_leaves_the_weights_alone(parts: Parts, config: Any, cases: list[CachedCase]) -> None:
    before = {name: value.clone() for name, value in parts.network.state_dict().items()}
    Validator(parts, config, LABELS, cases).run()
    assert all(torch.equal(value, before[name]) for name, value in parts.network.state_dict().items())


def test_an_interrupted_validation_stops_between_cases(parts: Parts, config: Any, cases: list[CachedCase]) -> None:
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > 1

    result = Validator(parts, config, LABELS, cases, interrupted).run()
    assert len(asked) == 3  # before each of two cases, and before the loss
    assert result.loss is None


def test_the_number_of_cases_may_be_limited_while_training(
    parts: Parts, config: Any, cases: list[CachedCase], tmp_path: Path
) -> None:
    first = config.model_copy(update={"validation": config.validation.model_copy(update={"cases": 1})})
    validator = Validator(parts, first, LABELS, cases)
    seen: list[str] = []
    validator.seen = lambda case, _: seen.append(case.id)
    validator.run()
    assert seen == [cases[0].id]
    validator.report(tmp_path)
    assert seen == [cases[0].id, *(case.id for case in cases)]


def test_the_loss_is_that_of_the_training_over_patches_that_are_always_the_same(
    parts: Parts, config: Any, cases: list[CachedCase]
) -> None:
    """And as they are: a training without augmentation sees the same patches."""
    validator = Validator(parts, config, LABELS, cases)
    found = validator.run().loss
    torch.rand(3)
    assert validator.loss(cases) == found
    plain = config.model_copy(update={"augment": AugmentConfig(preset="none")})
    patches = PatchDataset(cases, plain, cases[0].record.network.spacing)
    network, losses = parts.network.eval(), []
    for index in range(2 * len(cases)):
        item = {name: value[None] for name, value in patches[index].items()}
        with torch.no_grad():
            losses.append(float(parts.loss(network(item["image"]), Truth(item["label"]))))
    assert found == pytest.approx(np.mean(losses), rel=0.1)  # dice is of the batch, not of the patch
    with torch.no_grad():
        for value in parts.network.parameters():
            value.zero_()
    assert validator.loss(cases) > 2 * found


def test_the_loss_of_a_network_with_deep_supervision_is_that_of_its_finest_output(
    config: Any, cases: list[CachedCase], make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    deep = make_config(tiny_dataset, {"network.deep_supervision": True, "network.channels": [4, 8, 8, 8]})
    torch.manual_seed(0)
    parts = build_parts(deep, torch.device("cpu"), labels=LABELS)
    assert parts.network.training_outputs > 1
    assert Validator(parts, deep, LABELS, cases).loss(cases) > 0


def test_what_is_validated_is_the_moving_average_if_there_is_one(
    config: Any, cases: list[CachedCase], tiny_model: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    averaged = make_config(tiny_dataset, {"train.ema": 0.9})
    torch.manual_seed(0)
    parts = build_parts(averaged, torch.device("cpu"), labels=LABELS)
    parts.judged.load_state_dict(dict(load_model(tiny_model).weights))
    result = Validator(parts, averaged, LABELS, cases).run()
    assert result.mean is not None
    assert result.mean > 0.8


def test_metrics_have_the_names_that_a_config_watches() -> None:
    found = Validation({"organ": 0.5, "core": None}, 0.5, 1.25).metrics()
    assert found == {"dice": 0.5, "dice/organ": 0.5, "dice/core": None, "validation_loss": 1.25}


def test_a_mean_is_over_the_cases_and_labels_that_define_it() -> None:
    result = summarise([[None, 0.5, None], [None, 0.7, None]], LABELS)
    assert result.dice == {"organ": pytest.approx(0.6), "core": None}
    assert result.mean == pytest.approx(0.6)
    nothing = summarise([[None, None, None]], LABELS)
    assert nothing.mean is None
    assert nothing.dice == {"organ": None, "core": None}
    assert summarise([], LABELS).mean is None
