"""A run over folds: each case scored once by a network that did not see it, one ensemble, resumed wherever it stops."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medunet.errors import DatasetError, UsageError
from medunet.inference.predictor import Predictor
from medunet.io.describe.path import describe
from medunet.model import load_model
from medunet.model.seen import union
from medunet.training.folds import train_folds
from medunet.training.observe import Observer
from medunet.training.run import train

SCRIPT = Path(__file__).with_name("stopped_folds.py")
SMALL = {"train.epochs": 2, "train.iterations_per_epoch": 2, "network.dropout": 0.1}
NETWORKS = [f"fold_{number}.safetensors" for number in range(3)]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks"),
    pytest.mark.xdist_group("folds"),  # the runs are made once, not once per worker
]


@dataclass(frozen=True)
class Stopped:
    """Runs below `folder`, the exit code of each, and what they printed on stderr."""

    folder: Path
    codes: dict[str, int]
    stderr: str
    config: Any


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, make_config: Callable[..., Any]) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    config = make_config(tiny_dataset, SMALL)
    (folder / "config.json").write_text(config.model_dump_json(by_alias=True))
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "config.json", folder / "runs"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    codes = {name: int(code) for name, code in (line.split() for line in done.stdout.splitlines())}
    return Stopped(folder / "runs", codes, done.stderr, config)


@pytest.fixture
def whole(stopped: Stopped) -> Path:
    """The run that was never stopped. Read it only."""
    return stopped.folder / "never"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def summary(run: Path) -> dict[str, Any]:
    """summary.json without the times."""
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    for fold in found["folds"]:
        fold.pop("seconds")
    return found


def table(run: Path) -> list[dict[str, str]]:
    with open(run / "validation" / "per_case.csv", newline="") as handle:
        return list(csv.DictReader(handle))


class Counted(Observer):
    """Counts steps and stages."""

    def __init__(self) -> None:
        self.steps = 0
        self.stages: set[str] = set()

    def step(self, step: Any) -> None:  # noqa: ARG002
        self.steps += 1

    def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
        self.stages.add(name)


# what a finished run holds


def test_every_fold_is_an_ordinary_run_and_the_cache_is_shared(whole: Path) -> None:
    for number in range(3):
        found = describe(whole / f"fold_{number}")
        assert (found.kind, found.healthy, found.facts["fold"]) == ("run", True, f"{number} of 3")
        assert not (whole / f"fold_{number}" / "cache").exists()
    assert len(list((whole / "cache").iterdir())) == 6


def test_the_ensemble_has_the_networks_of_all_folds(whole: Path) -> None:
    model = load_model(whole)
    assert (model.path, model.size, list(model.spec.weights)) == (whole / "model", 3, NETWORKS)
    for number, name in enumerate(NETWORKS):
        weights = whole / f"fold_{number}" / "model" / "weights.safetensors"
        assert (whole / "model" / name).samefile(weights)
    assert model.spec.training["cases"] == 6
    assert model.spec.seen == union(load_model(whole / f"fold_{number}").spec.seen for number in range(3))
    assert model.spec.seen is not None
    assert model.spec.training["validation_dice"] == summary(whole)["dice"]
    assert len({load_model(whole / f"fold_{number}").id for number in range(3)}) == 3


def test_the_run_predicts_what_its_folds_predict_together(whole: Path, tiny_dataset: Path) -> None:
    image = tiny_dataset / "imagesTr" / "case_00.nii.gz"
    ensemble = Predictor(whole, device="cpu", precision="fp32")(image)
    together = Predictor([whole / f"fold_{number}" for number in range(3)], device="cpu", precision="fp32")(image)
    assert np.array_equal(ensemble.array, together.array)


def test_every_case_is_scored_once_by_the_network_that_did_not_see_it(whole: Path, tiny_dataset: Path) -> None:
    rows = table(whole)
    assert len(rows) == 6 * 2
    assert list(rows[0])[:4] == ["case", "fold", "label", "dice"]
    for number, part in enumerate(json.loads((whole / "splits.json").read_text())):
        assert {row["case"] for row in rows if row["fold"] == str(number)} == set(part["val"])
        predictor = Predictor(whole / f"fold_{number}", device="cpu", precision="fp32")
        for case in part["val"]:
            mask = np.asarray(nibabel.load(whole / "validation" / f"{case}_seg.nii.gz").dataobj)
            prediction = predictor(tiny_dataset / "imagesTr" / f"{case}.nii.gz")
            assert np.array_equal(prediction.labels.to_values(prediction.array), mask)


def test_the_masks_take_no_second_place_on_disk(whole: Path) -> None:
    masks = list((whole / "validation").glob("*_seg.nii.gz"))
    assert len(masks) == 6
    assert all(mask.stat().st_nlink == 2 for mask in masks)


def test_the_summary_is_the_mean_over_all_cases(whole: Path) -> None:
    found, rows = summary(whole), table(whole)
    for label in ("organ", "core"):
        values = [float(row["dice"]) for row in rows if row["label"] == label and row["dice"]]
        assert found["dice"][label] == pytest.approx(np.mean(values))
    assert found["dice_mean"] == pytest.approx(np.mean(list(found["dice"].values())))
    assert [(fold["fold"], fold["cases"], fold["epochs"]) for fold in found["folds"]] == [(n, 2, 2) for n in range(3)]
    assert found["cases"] == 6


def test_the_log_tells_each_fold_and_all_together(whole: Path) -> None:
    log = (whole / "train.log").read_text()
    assert all(f"Fold {number}, 2 held-out cases: mean Dice" in log for number in range(3))
    assert "All 6 cases, held out once: mean Dice" in log
    assert log.count("epoch 2: loss") == 3
    assert (whole / "fold_1" / "train.log").read_text().count("epoch 2: loss") == 1


def test_nothing_temporary_is_left(whole: Path) -> None:
    assert not [path for path in whole.rglob("*") if ".part-" in path.name or ".old-" in path.name]


def test_the_run_describes_itself(whole: Path) -> None:
    found = describe(whole)
    assert (found.kind, found.healthy, found.notes) == ("run over folds", True, [])
    assert found.facts["finished"] == "3 of 3 folds"
    assert [(row["state"], row["epoch"]) for row in found.facts["folds"]] == [("finished", "2 of 2")] * 3
    assert (found.facts["cases"], found.facts["model"]) == (6, "model, verified")


def test_a_fold_trains_as_it_does_alone(stopped: Stopped, whole: Path, tmp_path: Path) -> None:
    data = stopped.config.data.model_copy(update={"fold": 1, "cache": str(whole / "cache")})
    alone = train(stopped.config.model_copy(update={"data": data}), tmp_path / "alone", device="cpu")
    assert load_model(alone.model).id == load_model(whole / "fold_1").id


# stopped and resumed

CODES = {
    "killed_before_the_first_fold": -9,
    "killed_in_a_fold": -9,
    "interrupted_in_a_fold": 130,
    "killed_as_a_fold_is_scored": -9,
    "killed_between_folds": -9,
    "killed_after_the_last_fold": -9,
    "killed_before_the_models_are_joined": -9,
}


@pytest.mark.parametrize("name", CODES)
def test_a_resumed_run_ends_as_one_that_was_never_stopped(stopped: Stopped, whole: Path, name: str) -> None:
    run = stopped.folder / name
    assert stopped.codes[name] == CODES[name], stopped.stderr
    assert not (run / "model").exists()
    assert describe(run).healthy
    finished = [number for number in range(3) if (run / f"fold_{number}" / "model").is_dir()]
    written = [(run / f"fold_{number}" / "model" / "model.yaml").stat().st_mtime_ns for number in finished]
    result = train_folds(stopped.config, run, resume=True, device="cpu")
    assert [
        (run / f"fold_{number}" / "model" / "model.yaml").stat().st_mtime_ns for number in finished
    ] == written  # finished folds are left alone
    assert (result.run, result.model) == (run, run / "model")
    for network in NETWORKS:
        assert (run / "model" / network).read_bytes() == (whole / "model" / network).read_bytes()
    assert load_model(run).id == load_model(whole).id
    assert table(run) == table(whole)
    assert summary(run) == summary(whole)
    assert result.validation.dice == summary(whole)["dice"]


def test_a_signal_says_which_fold_it_met_and_how_to_go_on(stopped: Stopped) -> None:
    run = stopped.folder / "interrupted_in_a_fold"
    words = "Fold 1: Stopped after step 3 of 4; everything is saved. Go on with --fold all --resume --out"
    assert f"{words} {run}." in stopped.stderr


def test_a_finished_run_is_not_trained_again(stopped: Stopped, copy: Path) -> None:
    shutil.rmtree(copy / "model")
    seen = Counted()
    result = train_folds(stopped.config, copy, resume=True, device="cpu", observer=seen)
    assert (seen.steps, seen.stages) == (0, set())
    assert load_model(result.model).id == load_model(stopped.folder / "never").id


def test_a_longer_plan_trains_every_fold_on(stopped: Stopped, copy: Path) -> None:
    longer = stopped.config.model_copy(update={"train": stopped.config.train.model_copy(update={"epochs": 3})})
    seen = Counted()
    train_folds(longer, copy, resume=True, device="cpu", observer=seen)
    assert seen.steps == 3 * 2
    assert [fold["epochs"] for fold in summary(copy)["folds"]] == [3, 3, 3]


def test_a_fold_whose_masks_are_gone_is_scored_again(stopped: Stopped, copy: Path) -> None:
    case = json.loads((copy / "splits.json").read_text())[1]["val"][0]
    (copy / "fold_1" / "validation" / f"{case}_seg.nii.gz").unlink()
    (copy / "validation" / f"{case}_seg.nii.gz").unlink()
    assert describe(copy).problems == [f"validation/ lacks the masks of 1 cases, the first is {case}."]
    seen = Counted()
    train_folds(stopped.config, copy, resume=True, device="cpu", observer=seen)
    assert seen.steps == 0
    assert "validate" in seen.stages
    assert describe(copy).healthy


# what does not go together


def test_a_run_over_folds_and_a_run_of_one_fold_are_not_mixed_up(
    stopped: Stopped, whole: Path, tiny_run: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    for resume in (False, True):
        with pytest.raises(UsageError, match="holds a run over folds"):
            train(stopped.config, whole, resume=resume, device="cpu")
        with pytest.raises(UsageError, match="holds a run of one fold"):
            train_folds(make_config(tiny_dataset), tiny_run, resume=resume, device="cpu")


def test_a_run_is_neither_overwritten_nor_resumed_where_there_is_none(
    stopped: Stopped, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="holds a run over folds already"):
        train_folds(stopped.config, whole, device="cpu")
    with pytest.raises(UsageError, match="no run to resume"):
        train_folds(stopped.config, tmp_path / "nothing", resume=True, device="cpu")
    assert not (tmp_path / "nothing").exists()


def test_a_run_is_not_resumed_as_something_else(
    whole: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    other = make_config(tiny_dataset, {**SMALL, "data.folds": 2})
    with pytest.raises(UsageError, match=r"data\.folds was 3, is 2"):
        train_folds(other, whole, resume=True, device="cpu")


def test_the_fold_of_the_configuration_plays_no_part(stopped: Stopped, copy: Path) -> None:
    data = stopped.config.data.model_copy(update={"fold": 2})
    result = train_folds(stopped.config.model_copy(update={"data": data}), copy, resume=True, device="cpu")
    assert load_model(result.model).id == load_model(stopped.folder / "never").id


def test_a_data_set_that_grew_is_refused_before_a_missing_fold_is_trained(
    copy: Path, make_config: Callable[..., Any], write_dataset: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.rmtree(copy / "fold_2")
    larger = make_config(write_dataset(tmp_path / "data", count=7), SMALL)
    before = (copy / "splits.json").read_bytes()
    with pytest.raises(DatasetError, match="folds of the data set differ"):
        train_folds(larger, copy, resume=True, device="cpu")
    assert (copy / "splits.json").read_bytes() == before


def test_folds_that_cannot_be_trained_are_told_before_the_first_one(
    make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="6 cases cannot fill 7 folds"):
        train_folds(make_config(tiny_dataset, {"data.folds": 7}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_damaged_fold_makes_the_run_unhealthy(copy: Path) -> None:
    weights = copy / "fold_1" / "model" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    weights.unlink()  # the ensemble has a link to it
    data[-1] ^= 1
    weights.write_bytes(data)
    found = describe(copy)
    assert [row["state"] for row in found.facts["folds"]] == ["finished", "damaged", "finished"]
    assert any(problem.startswith("fold_1: model: weights.safetensors was changed") for problem in found.problems)
