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

from medunet.io.manifest import read_manifest
from medunet.labels import LabelMap
from medunet.model import load_model
from medunet.training.cache import CachedCase, prepare_cases
from medunet.training.parts import Parts, build_parts
from medunet.training.validate import Validator, summarise

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


def test_the_dice_during_training_is_that_of_the_written_masks(
    parts: Parts, config: Any, cases: list[CachedCase], tmp_path: Path, tiny_dataset: Path
) -> None:
    validator = Validator(parts, config, LABELS)
    quick, full = validator.run(cases), validator.report(cases, tmp_path)
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
    Validator(parts, config, LABELS).run(cases)
    assert all(torch.equal(value, before[name]) for name, value in parts.network.state_dict().items())


def test_an_interrupted_validation_stops_between_cases(parts: Parts, config: Any, cases: list[CachedCase]) -> None:
    asked: list[int] = []

    def interrupted() -> bool:
        asked.append(1)
        return len(asked) > 1

    Validator(parts, config, LABELS, interrupted).run(cases)
    assert len(asked) == 2


def test_a_mean_is_over_the_cases_and_labels_that_define_it() -> None:
    result = summarise([[None, 0.5, None], [None, 0.7, None]], LABELS)
    assert result.dice == {"organ": pytest.approx(0.6), "core": None}
    assert result.mean == pytest.approx(0.6)
    nothing = summarise([[None, None, None]], LABELS)
    assert nothing.mean is None
    assert nothing.dice == {"organ": None, "core": None}
    assert summarise([], LABELS).mean is None
