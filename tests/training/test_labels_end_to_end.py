"""From a data set to scores: labels inside of each other, voxels to ignore, and cases that lack a label."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medunet.errors import DatasetError
from medunet.evaluation.folders import evaluate
from medunet.inference.predictor import Predictor
from medunet.training.run import train

ORGAN, CORE, UNKNOWN = 4, 205, 255
SHORT = {"train.epochs": 1, "train.iterations_per_epoch": 2}

Change = Callable[[NDArray[np.uint8], str], NDArray[np.uint8]]


@pytest.fixture
def data_set(write_dataset: Callable[..., Path], tmp_path: Path) -> Callable[[Change | None], Path]:
    """`data_set(change)` writes six cases whose masks were changed by `change(mask, id)`."""

    def build(change: Change | None = None) -> Path:
        root = write_dataset(tmp_path / "data")
        for path in sorted((root / "labelsTr").glob("*.nii.gz")) if change else ():
            image = nibabel.load(path)
            mask = change(np.asarray(image.dataobj).copy(), path.name.removesuffix(".nii.gz"))
            nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
        return root

    return build


def values_of(path: Path) -> NDArray[np.generic]:
    return np.asarray(nibabel.load(path).dataobj)


def per_case(run: Path) -> dict[tuple[str, str], float | None]:
    """Dice by case and label, as the training wrote it."""
    with open(run / "validation" / "per_case.csv", newline="") as handle:
        return {
            (row["case"], row["label"]): float(row["dice"]) if row["dice"] else None for row in csv.DictReader(handle)
        }


def assert_evaluate_agrees(run: Path, references: Path) -> None:
    """The scores of the held-out fold are those that `medunet evaluate` finds for the masks."""
    result = evaluate(run / "validation", references, labels=run)
    held_out = {case for case, _ in per_case(run)}
    found = {(row.case, row.label): row.score.dice for row in result.rows if row.score and row.case in held_out}
    assert found == pytest.approx(per_case(run))


def test_labels_inside_of_each_other_are_learned_and_predicted(
    data_set: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    root = data_set()
    labels = {"background": 0, "core": CORE, "whole": [ORGAN, CORE]}
    config = make_config(root, {"labels": labels, "train.epochs": 1, "train.iterations_per_epoch": 60})
    result = train(config, tmp_path / "run", device="cpu")
    assert result.validation is not None
    assert all(value is not None and value > 0.6 for value in result.validation.dice.values()), result.validation
    assert_evaluate_agrees(result.run, root / "labelsTr")

    predictor = Predictor(result.model, device="cpu", precision="fp32")
    prediction = predictor(root / "imagesTr" / "case_00.nii.gz", probabilities=True)
    assert prediction.probabilities is not None
    core, whole = prediction.probabilities
    np.testing.assert_array_equal(prediction.array == 1, core > 0.5)
    np.testing.assert_array_equal(prediction.array > 0, (core > 0.5) | (whole > 0.5))
    assert set(np.unique(values_of(prediction.save(tmp_path / "mask.nii.gz")))) == {0, ORGAN, CORE}
    volumes = prediction.volumes_ml()
    assert volumes["whole"] == pytest.approx(np.count_nonzero(prediction.array) * 1.5 * 1.5 * 2 / 1000)
    assert volumes["core"] < volumes["whole"]


def test_ignored_voxels_are_neither_learned_nor_predicted_nor_scored(
    data_set: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    def half_unknown(mask: NDArray[np.uint8], case: str) -> NDArray[np.uint8]:
        mask[12:] = UNKNOWN
        return mask

    root = data_set(half_unknown)
    labels = {"background": 0, "organ": ORGAN, "core": CORE, "ignore": UNKNOWN}
    result = train(make_config(root, {**SHORT, "labels": labels}), tmp_path / "run", device="cpu")
    masks = sorted((result.run / "validation").glob("*_seg.nii.gz"))
    assert len(masks) == 2
    for path in masks:
        found, truth = values_of(path), values_of(root / "labelsTr" / path.name.replace("_seg", ""))
        assert UNKNOWN not in found
        known = truth != UNKNOWN
        p, r = (found == ORGAN) & known, (truth == ORGAN) & known
        dice = per_case(result.run)[path.name.removesuffix("_seg.nii.gz"), "organ"]
        assert dice == pytest.approx(2 * np.count_nonzero(p & r) / (np.count_nonzero(p) + np.count_nonzero(r)))
    assert_evaluate_agrees(result.run, root / "labelsTr")


def test_what_is_ignored_is_not_taken_for_background(
    data_set: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    def half(value: int) -> Change:
        def change(mask: NDArray[np.uint8], case: str) -> NDArray[np.uint8]:
            return np.where(np.arange(len(mask))[:, None, None] >= 12, value, mask).astype(np.uint8)

        return change

    labels = {"background": 0, "organ": ORGAN, "core": CORE, "ignore": [UNKNOWN, 254]}
    weights = []
    for value in (UNKNOWN, 254, 0):
        config = make_config(data_set(half(value)), {**SHORT, "labels": labels})
        model = train(config, tmp_path / str(value), device="cpu").model
        weights.append((model / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def without_core(mask: NDArray[np.uint8], case: str) -> NDArray[np.uint8]:
    """Cases 0 to 3 were annotated for the organ alone; their cores are background."""
    return np.where(mask == CORE, 0, mask).astype(np.uint8) if case < "case_04" else mask


def test_cases_that_lack_a_label_are_trained_on_and_scored_without_it(
    data_set: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    root = data_set(without_core)
    partly = {**SHORT, "data.annotated": {"case_0[0-3]": ["organ"]}}
    result = train(make_config(root, partly), tmp_path / "run", device="cpu")
    scored = per_case(result.run)
    assert {label for case, label in scored if case < "case_04"} <= {"organ"}
    assert {label for case, label in scored if case >= "case_04"} <= {"organ", "core"}
    assert {label for _, label in scored} == {"organ", "core"}
    assert_evaluate_agrees(result.run, root / "labelsTr")
    rows = [line for line in (result.run / "metrics.jsonl").read_text().splitlines() if line]
    assert rows
    assert not any("NaN" in row for row in rows)
    assert result.validation is not None
    assert all(value is None or math.isfinite(value) for value in result.validation.dice.values())

    silent = train(make_config(root, SHORT), tmp_path / "silent", device="cpu")
    weights = [(model / "weights.safetensors").read_bytes() for model in (result.model, silent.model)]
    assert weights[0] != weights[1]  # there the background of these cases teaches that they have no core


def test_a_slip_in_the_patterns_stops_before_training(
    data_set: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_config(data_set(), {"data.annotated": {"case_00": ["organ"], "Case_*": ["core"]}})
    with pytest.raises(DatasetError) as caught:
        train(config, tmp_path / "run", device="cpu")
    told = "\n".join(str(problem) for problem in caught.value.problems)
    assert "case_00: label: it holds core" in told
    assert "data.annotated.Case_*: it matches no case" in told
    assert not (tmp_path / "run").exists()
