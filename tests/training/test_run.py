"""From a config and a data set to a run folder."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from medunet.config.load import load_config
from medunet.errors import DatasetError, DeviceError, OutputError, TrainingError, UsageError
from medunet.inference.predictor import Predictor
from medunet.io.folds import split
from medunet.io.manifest import read_manifest
from medunet.model import load_model
from medunet.training import parts
from medunet.training.observe import EpochSummary, Observer, Step
from medunet.training.run import train

SHORT = {"train.epochs": 1, "train.iterations_per_epoch": 2}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_folder_holds_everything(tiny_run: Path) -> None:
    for name in (
        "config.yaml",
        "splits.json",
        "dataset.json",
        "metrics.jsonl",
        "train.log",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "model/model.yaml",
        "model/weights.safetensors",
        "validation/per_case.csv",
        "validation/case_03_seg.nii.gz",
    ):
        assert (tiny_run / name).stat().st_size > 0, name
    assert not [path for path in tiny_run.rglob("*") if ".part-" in path.name or ".old-" in path.name]


def test_the_log_tells_what_a_step_will_cost_before_the_first(tiny_run: Path) -> None:
    log = (tiny_run / "train.log").read_text()
    told = re.search(r"[\d,]+ parameters; a step will take about \d+ MiB of memory\.", log)
    assert told is not None
    assert told.end() < log.index("Training unet on cpu in float32.")


def test_the_config_of_a_run_is_the_one_it_was_trained_with(
    tiny_run: Path, tiny_dataset: Path, make_config: Callable[..., Any]
) -> None:
    assert load_config(tiny_run / "config.yaml") == make_config(tiny_dataset)


def test_the_loss_falls_and_every_epoch_has_a_line(tiny_run: Path) -> None:
    lines = metrics(tiny_run)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["iteration"] for line in lines] == [50, 100, 150]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["lr"] < 0.05 * lines[0]["lr"]
    assert all(0 <= line["wait_share"] <= 1 and line["seconds"] > 0 for line in lines)
    assert set(lines[-1]["dice"]) == {"organ", "core"}
    assert lines[-1]["dice_mean"] > 0.85


def test_held_out_cases_are_those_of_the_fold_and_are_scored(tiny_run: Path, tiny_dataset: Path) -> None:
    training, held_out = split(read_manifest(tiny_dataset).cases, 0, 3)
    splits = json.loads((tiny_run / "splits.json").read_text())
    assert len(splits) == 3
    assert splits[0] == {"train": [case.id for case in training], "val": [case.id for case in held_out]}
    with open(tiny_run / "validation" / "per_case.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["case"] for row in rows} == {case.id for case in held_out}
    assert {row["label"] for row in rows} == {"organ", "core"}
    assert all(float(row["dice"]) > 0.8 for row in rows)


def test_validation_masks_are_what_prediction_gives(tiny_run: Path, tiny_dataset: Path) -> None:
    predictor = Predictor(tiny_run, device="cpu", precision="fp32")
    for path in (tiny_run / "validation").glob("*.nii.gz"):
        mask = nibabel.load(path)
        image = tiny_dataset / "imagesTr" / path.name.replace("_seg", "")
        prediction = predictor(image)
        assert np.array_equal(prediction.labels.to_values(prediction.array), np.asarray(mask.dataobj))
        assert np.allclose(mask.affine, nibabel.load(image).affine)
        assert set(np.unique(np.asarray(mask.dataobj))) == {0, 4, 205}


def test_the_model_states_what_training_saw(tiny_run: Path, tiny_dataset: Path) -> None:
    spec = yaml.safe_load((tiny_run / "model" / "model.yaml").read_text())
    training = spec["training"]
    assert (training["cases"], training["fold"], training["epochs"], training["iterations"]) == (4, 0, 3, 150)
    seen = spec["seen"]
    assert (seen["cases"], seen["axes"], seen["orientations"]) == (4, "RAS", ["RAS"])
    assert seen["spacing_mm"] == [[1.5, 1.5], [1.5, 1.5], [2.0, 2.0]]
    ids = json.loads((tiny_run / "splits.json").read_text())[0]["train"]
    masks = [np.asarray(nibabel.load(tiny_dataset / "labelsTr" / f"{case}.nii.gz").dataobj) for case in ids]
    for name, value in (("organ", 4), ("core", 205)):
        volumes = [(mask == value).sum() * 1.5 * 1.5 * 2 / 1000 for mask in masks]
        assert seen["structures"][name]["volume_ml"] == pytest.approx([min(volumes), max(volumes)], rel=1e-5)
    assert training["validation_dice"]["organ"] > 0.85
    weights = (tiny_run / "model" / "weights.safetensors").read_bytes()
    assert spec["files"]["weights.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_the_model_has_the_best_weights(tiny_run: Path) -> None:
    best = torch.load(tiny_run / "checkpoints" / "best.pt", weights_only=True)
    model = load_model(tiny_run / "model")
    assert all(torch.equal(model.weights[name], value) for name, value in best["network"].items())
    lines = metrics(tiny_run)
    top = max(lines, key=lambda line: line["dice_mean"])
    assert best["progress"]["best_epoch"] == top["epoch"] == model.spec.training["best_epoch"]


def test_the_log_tells_the_story_with_times(tiny_run: Path) -> None:
    text = (tiny_run / "train.log").read_text()
    assert "6 cases: 4 for training, 2 held out (fold 0 of 3)." in text
    assert "INFO epoch 3: loss" in text
    assert "Model:" in text


def test_an_observer_hears_of_every_stage_step_and_epoch(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    heard: list[str] = []

    class Listener(Observer):
        def stage(self, name: str, done: int, total: int) -> None:
            heard.append(f"{name} {done}/{total}")

        def step(self, step: Step) -> None:
            heard.append(f"step {step.iteration}/{step.total} of epoch {step.epoch}")

        def epoch(self, summary: EpochSummary) -> None:
            heard.append(summary.line().split(":")[0])

    train(make_config(tiny_dataset, SHORT), tmp_path / "run", device="cpu", observer=Listener())
    assert heard == [
        *(f"check {n}/6" for n in range(1, 7)),
        *(f"preprocess {n}/6" for n in range(1, 7)),
        *(f"step {n}/2 of epoch 1" for n in (1, 2)),
        "epoch 1",
        *(f"validate {n}/2" for n in (1, 2)),
    ]


def test_without_a_folder_the_run_is_named_after_the_task(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(make_config(tiny_dataset, SHORT), device="cpu").model == Path("runs/tiny/model")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    def weights(name: str, seed: int) -> bytes:
        torch.manual_seed(len(name))  # whatever the caller drew before
        config = make_config(tiny_dataset, {**SHORT, "seed": seed})
        return (train(config, tmp_path / name, device="cpu").model / "weights.safetensors").read_bytes()

    assert weights("one", 3) == weights("again", 3)
    assert weights("other", 4) != weights("yet another", 3)


def test_training_leaves_the_switches_of_torch_alone(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    train(make_config(tiny_dataset, SHORT), tmp_path / "run", device="cpu")
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_worker_processes_and_a_thread_train_the_same_model(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    def weights(workers: int) -> bytes:
        changes = {**SHORT, "augment": {"preset": "nnunet"}, "network.dropout": 0.1, "train.workers": workers}
        run = train(make_config(tiny_dataset, changes), tmp_path / str(workers), device="cpu")
        return (run.model / "weights.safetensors").read_bytes()

    assert weights(0) == weights(2)


def test_a_budget_ends_the_training_in_time_with_a_small_learning_rate_and_a_validation(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {"train.budget": "2s", "train.epochs": 1000, "train.iterations_per_epoch": 20, "validate.every": 1000}
    start = time.monotonic()
    train(make_config(tiny_dataset, changes), tmp_path / "run", device="cpu")
    assert 2 < time.monotonic() - start < 10
    lines = metrics(tmp_path / "run")
    assert lines[-1]["lr"] < 0.1 * lines[0]["lr"]
    assert lines[-1]["dice_mean"] is not None
    assert lines[-1]["elapsed"] == pytest.approx(2, abs=1)
    assert all(line["dice_mean"] is None for line in lines[:-1])


def test_another_fold_holds_out_other_cases(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    train(make_config(tiny_dataset, {**SHORT, "data.fold": 2}), tmp_path / "run", device="cpu")
    _, held_out = split(read_manifest(tiny_dataset).cases, 2, 3)
    masks = sorted(path.name for path in (tmp_path / "run" / "validation").glob("*.nii.gz"))
    assert masks == [f"{case.id}_seg.nii.gz" for case in held_out]


# What can be trained


def test_an_uneven_data_set_in_other_spacing_trains_and_predicts(
    write_dataset: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    """Patches larger than the volumes, 2 mm voxels, an oblique LPS grid, post-processing, test-time mirroring."""
    affine = np.array([[-1.5, 0.1, 0, 5], [-0.1, -1.5, 0, 9], [0, 0, 2.5, -3], [0, 0, 0, 1]])
    root = write_dataset(tmp_path / "data", count=3, shape=(20, 22, 5), affine=affine)
    changes = {
        **SHORT,
        "preprocess.spacing": [2.0, 2.0, 2.0],
        "augment": {"preset": "nnunet"},
        "network.deep_supervision": True,
        "network.channels": [4, 8, 8],
        "postprocess": [{"name": "largest_component", "label": "organ"}],
        "inference": {"tta": True},
    }
    result = train(make_config(root, changes), tmp_path / "run", device="cpu")
    image = root / "imagesTr" / "case_00.nii.gz"
    assert Predictor(result.model, device="cpu")(image).geometry.shape == (20, 22, 5)


def test_a_flat_network_learns_volumes_slice_by_slice(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {
        "network.dims": 2,
        "train.patch_size": [16, 16],
        "train.epochs": 2,
        "train.batch_size": 6,
        "train.foreground": 0.5,
        "validate.every": 2,
    }
    result = train(make_config(tiny_dataset, changes), tmp_path / "run", device="cpu")
    assert result.validation is not None
    assert result.validation.mean is not None
    assert result.validation.mean > 0.7
    prediction = Predictor(result.model, device="cpu")(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    assert prediction.geometry.shape == (24, 24, 16)


def write_pictures(root: Path, blob: Callable[[int], tuple[Any, Any]], *, colour: bool) -> Path:
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number in range(5):
        image, mask = blob(number)
        grey = Image.fromarray((image // 2 + 50).clip(0, 255).astype(np.uint8))
        (grey.convert("RGB") if colour else grey).save(root / "images" / f"p{number}.png")
        Image.fromarray(mask).save(root / "labels" / f"p{number}.png")
    return root


@pytest.mark.parametrize("modality", [["grey"], ["R", "G", "B"]], ids=["one channel", "three channels"])
@pytest.mark.parametrize("colour", [False, True], ids=["grey files", "colour files"])
def test_pictures_train_and_predict_grey_or_in_colour(
    modality: list[str], colour: bool, make_config: Callable[..., Any], blob: Any, tmp_path: Path
) -> None:
    root = write_pictures(tmp_path / "data", lambda seed: blob(seed, (40, 30)), colour=colour)
    changes = {
        "data": {"root": str(root), "format": "auto", "modality": modality, "fold": 0, "folds": 5},
        "preprocess": {"intensity": {"name": "zscore"}},
        "network.dims": 2,
        "train.patch_size": [16, 16],
        "train.batch_size": 6,
        "train.epochs": 1,
    }
    result = train(make_config(root, changes), tmp_path / "run", device="cpu")
    assert result.validation is not None
    assert result.validation.mean is not None
    assert result.validation.mean > 0.3
    prediction = Predictor(result.model, device="cpu")(root / "images" / "p0.png")
    assert prediction.array.shape == (30, 40)  # width first
    prediction.save(tmp_path / "mask.nii.gz")


def test_several_channels_and_merged_labels_train_and_predict(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_dataset / "labelsTr", root / "labels")
    (root / "images").mkdir()
    for path in sorted((tiny_dataset / "imagesTr").iterdir()):
        image = nibabel.load(path)
        name = path.name.removesuffix(".nii.gz")
        for channel, sign in enumerate((1, -1)):
            values = sign * np.asarray(image.dataobj, dtype=np.float32)
            nibabel.save(nibabel.Nifti1Image(values, image.affine), root / "images" / f"{name}_{channel:04d}.nii.gz")
    changes = {
        "train.epochs": 1,
        "data": {"root": str(root), "modality": ["T1", "T2"], "folds": 3},
        "labels": {"background": 0, "blob": [4, 205]},
        "preprocess": {"intensity": [{"name": "zscore"}, {"name": "percentile"}]},
    }
    result = train(make_config(root, changes), tmp_path / "run", device="cpu")
    images = [root / "images" / f"case_00_{channel:04d}.nii.gz" for channel in (0, 1)]
    mask = nibabel.load(Predictor(result.model, device="cpu")(images).save(tmp_path / "mask.nii.gz"))
    truth = np.asarray(nibabel.load(root / "labels" / "case_00.nii.gz").dataobj)
    assert set(np.unique(np.asarray(mask.dataobj))) == {0, 4}  # the first value of a merged label is written
    assert ((np.asarray(mask.dataobj) > 0) == (truth > 0)).mean() > 0.9


# What goes wrong


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_checkpoint(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = parts.build_loss

    def exploding(*args: Any) -> Any:
        loss, calls = original(*args), []

        def explode(_: Any, __: Any, value: torch.Tensor) -> torch.Tensor:
            calls.extend([1] * value.requires_grad)  # not those of a validation
            return value * (float("nan") if len(calls) > 3 else 1.0)

        loss.register_forward_hook(explode)
        return loss

    monkeypatch.setattr(parts, "build_loss", exploding)
    config = make_config(tiny_dataset, {"train.epochs": 3, "train.iterations_per_epoch": 2})
    told = r"The loss became nan in step 4, with patches of case_\d\d, case_\d\d\. .*--resume and a lower train.opt"
    with pytest.raises(TrainingError, match=told):
        train(config, tmp_path / "run", device="cpu")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["progress"]["iteration"] == 2
    assert all(torch.isfinite(value).all() for value in state["network"].values())
    assert "ERROR The loss became nan" in (tmp_path / "run" / "train.log").read_text()
    monkeypatch.undo()
    calmer = make_config(
        tiny_dataset, {"train.epochs": 3, "train.iterations_per_epoch": 2, "train.optimizer.lr": 0.001}
    )
    train(calmer, tmp_path / "run", device="cpu", resume=True)
    assert [line["epoch"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize("clip", [12.0, None], ids=["clipped", "not clipped"])
def test_an_absurd_learning_rate_never_leaves_bad_weights(
    clip: float | None, tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    changes = {
        "train.epochs": 4,
        "train.iterations_per_epoch": 1,  # the weights explode in the last step of an epoch, where they are saved
        "train.clip_norm": clip,
        "network.norm": "none",
        "train.optimizer": {"name": "sgd", "lr": 3e38},
    }
    with pytest.raises(TrainingError, match="became"):
        train(make_config(tiny_dataset, changes), tmp_path / "run", device="cpu")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    if last.is_file():
        state = torch.load(last, weights_only=True)
        assert all(torch.isfinite(value).all() for value in state["network"].values())
    assert not (tmp_path / "run" / "model").exists()


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match="was asked for"):
        train(make_config(tiny_dataset), tmp_path / "run", device="cuda:77")
    with pytest.raises(UsageError, match="no device"):
        train(make_config(tiny_dataset), tmp_path / "run", device="gpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_whose_data_was_refused_can_be_used_again(
    write_dataset: Callable[..., Path], make_config: Callable[..., Any], tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "data", count=3)
    image = root / "imagesTr" / "case_01.nii.gz"
    good = image.read_bytes()
    image.write_bytes(good[:100])
    config = make_config(root, SHORT)
    with pytest.raises(DatasetError, match="case_01"):
        train(config, tmp_path / "run", device="cpu")
    with pytest.raises(DatasetError, match="cannot fill 9 folds"):
        train(make_config(root, {**SHORT, "data.folds": 9}), tmp_path / "run", device="cpu")
    image.write_bytes(good)
    train(config, tmp_path / "run", device="cpu")


def test_a_folder_without_a_checkpoint_is_resumed_with_any_config(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    wrong = make_config(tiny_dataset, {**SHORT, "preprocess.spacing": [1.0, 1.0]})
    with pytest.raises(Exception, match=r"preprocess.spacing has 2 numbers"):
        train(wrong, tmp_path / "run", device="cpu")
    train(make_config(tiny_dataset, SHORT), tmp_path / "run", device="cpu", resume=True)


def test_pictures_are_refused_by_a_network_of_volumes(
    make_config: Callable[..., Any], blob: Any, tmp_path: Path
) -> None:
    root = write_pictures(tmp_path / "data", lambda seed: blob(seed, (40, 30)), colour=False)
    changes = {**SHORT, "data.format": "auto"}
    with pytest.raises(DatasetError, match=r"network.dims is 3, but the images have 2 axes. Set network.dims to 2"):
        train(make_config(root, changes), tmp_path / "run", device="cpu")


def test_a_file_in_the_way_of_the_run_folder_is_an_error(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in ("file", "file/run"):
        with pytest.raises(OutputError, match="cannot be written"):
            train(make_config(tiny_dataset), tmp_path / out, device="cpu")
    assert (tmp_path / "file").read_text() == "in the way"


class FullFrom(Observer):
    """The disk is full when an epoch is over, and has room again after the next."""

    def __init__(self, fill: Callable[[], None], clear: Callable[[], None], epoch: int) -> None:
        self.fill, self.clear, self.at = fill, clear, epoch

    def epoch(self, summary: EpochSummary) -> None:
        if summary.epoch == self.at:
            self.fill()
        elif summary.epoch == self.at + 1:
            self.clear()


@pytest.mark.parametrize("file", ["best.part", "last.part"])
def test_a_run_goes_on_when_the_disk_is_full_warns_and_keeps_the_old_checkpoint(
    file: str,
    tiny_dataset: Path,
    make_config: Callable[..., Any],
    tmp_path: Path,
    full_disk: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoints, seen = tmp_path / "run" / "checkpoints", []

    def clear() -> None:
        seen.append(torch.load(checkpoints / "last.pt", weights_only=True)["progress"]["epoch"])
        seen.append(torch.load(checkpoints / "best.pt", weights_only=True)["progress"]["best_epoch"])
        monkeypatch.undo()

    changes = {**SHORT, "train.epochs": 3, "validate.metric": "loss", "train.optimizer.lr": 0.005}
    observer = FullFrom(lambda: full_disk(file), clear, 2)
    result = train(make_config(tiny_dataset, changes), tmp_path / "run", device="cpu", observer=observer)
    assert [line["best"] for line in metrics(result.run)] == [True] * 3
    log = (result.run / "train.log").read_text()
    name = file.replace(".part", ".pt")
    assert log.count(f"WARNING {checkpoints / name} cannot be written: No space left on device. The training") == 1
    # The one that could not be written at epoch 2 was still that of epoch 1.
    assert seen == ([2, 1] if file == "best.part" else [1, 2])
    assert result.best_epoch == 3
    assert not [path for path in result.run.rglob("*") if ".part-" in path.name]


def test_a_run_whose_disk_stays_full_ends_with_a_model_if_there_is_room_for_that(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, full_disk: Callable[[str], None]
) -> None:
    full_disk("last.part")
    result = train(make_config(tiny_dataset, SHORT), tmp_path / "run", device="cpu")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["best.pt"]
    assert load_model(result.model)


def test_a_full_memory_ends_in_advice(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("medunet.training.step.learning_rate", full)
    with pytest.raises(DeviceError, match="ran out of memory with"):
        train(make_config(tiny_dataset, SHORT), tmp_path / "run", device="cpu")


def test_all_cases_get_weight_maps_where_the_loss_needs_them(
    tiny_dataset: Path, make_config: Callable[..., Any], tmp_path: Path
) -> None:
    heard: list[str] = []

    class Listener(Observer):
        def stage(self, name: str, done: int, total: int) -> None:
            heard.append(f"{name} {done}/{total}")

    changes = {**SHORT, "loss": [{"name": "dice"}, {"name": "boundary_weighted_ce", "sigma": 2.0}]}
    config = make_config(tiny_dataset, {**changes, "data.cache": str(tmp_path / "cache")})
    result = train(config, tmp_path / "run", device="cpu", observer=Listener())
    assert metrics(result.run)[-1]["loss"] > 0
    assert [line for line in heard if line.startswith("weigh")] == [f"weigh {number}/6" for number in range(1, 7)]
    assert metrics(result.run)[-1]["validation_loss"] > 0  # the held-out cases have maps, too
