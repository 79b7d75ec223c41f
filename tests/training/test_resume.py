"""A run that was stopped anywhere and resumed ends with exactly what an uninterrupted one ends with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.errors import DatasetError, TrainingError, UsageError
from medunet.training.run import train

SCRIPT = Path(__file__).with_name("stopped_runs.py")
KILLED = -9
SMALL = {
    "train.epochs": 3,
    "train.iterations_per_epoch": 4,
    "train.optimizer.lr": 0.003,
    "augment": {"preset": "nnunet"},
    "network.dropout": 0.1,  # random numbers of the network, too, must go on where they stopped
}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks"),
    pytest.mark.xdist_group("resume"),  # the runs are made once, not once per worker
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
    config = make_config(tiny_dataset, {**SMALL, "data.cache": str(folder / "cache")})
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


def losses(run: Path) -> list[tuple[int, float, float | None]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["loss"], line["dice_mean"]) for line in lines]


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
    return state


CODES = {
    "killed_in_first_epoch": KILLED,
    "killed_after_first_epoch": KILLED,
    "killed_in_first_save": KILLED,
    "killed_in_later_save": KILLED,
    "killed_between_best_and_last": KILLED,
    "killed_in_metrics": KILLED,
    "interrupted_in_epoch": 130,
    "terminated_in_epoch": 130,
    "interrupted_at_end_of_epoch": 130,
    "interrupted_at_last_step": 130,
    "interrupted_in_validation": 130,
}


def test_every_way_to_stop_is_tried(stopped: Stopped) -> None:
    assert stopped.codes == {"never": 0, **CODES}
    assert "Traceback" not in stopped.stderr


@pytest.mark.parametrize("name", CODES)
def test_a_stopped_run_resumes_to_the_same_bits(stopped: Stopped, name: str) -> None:
    run, whole = stopped.folder / name, stopped.folder / "never"
    if CODES[name] == 130:
        assert (run / "checkpoints" / "last.pt").is_file()
    result = train(stopped.config, run, resume=True, device="cpu")
    for file in ("last", "best"):
        expected, found = checkpoint(whole, file), checkpoint(run, file)
        assert found["network"].keys() == expected["network"].keys()
        assert all(torch.equal(found["network"][key], value) for key, value in expected["network"].items())
        assert {**found["progress"], "elapsed": 0} == {**expected["progress"], "elapsed": 0}
    weights = "model/weights.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert losses(run) == losses(whole)
    assert result.best_epoch == expected["progress"]["best_epoch"]
    assert not [path for path in run.rglob("*.part-*") if path.is_file()]


def test_every_epoch_of_the_whole_run_writes_both_checkpoints(stopped: Stopped) -> None:
    """Guards the guard: only then does it matter in which order best.pt and last.pt are written."""
    lines = (stopped.folder / "never" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["best"] for line in lines)


def test_an_interrupted_run_says_how_to_go_on(stopped: Stopped) -> None:
    assert "Stopped after step 6 of 12; everything is saved. Go on with --resume --out" in stopped.stderr


def test_resuming_a_finished_run_does_not_train_again(stopped: Stopped) -> None:
    run = stopped.folder / "never"
    before, metrics = checkpoint(run), (run / "metrics.jsonl").read_bytes()
    stamp = (run / "checkpoints" / "last.pt").stat().st_mtime_ns
    train(stopped.config, run, resume=True, device="cpu")
    assert (run / "checkpoints" / "last.pt").stat().st_mtime_ns == stamp
    assert (run / "metrics.jsonl").read_bytes() == metrics
    assert checkpoint(run)["progress"] == before["progress"]


def copy_run(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(
    stopped: Stopped, tmp_path: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    longer = make_config(tiny_dataset, {**SMALL, "data.cache": stopped.config.data.cache, "train.epochs": 4})
    train(longer, run, resume=True, device="cpu")
    assert [epoch for epoch, *_ in losses(run)] == [1, 2, 3, 4]
    assert checkpoint(run)["progress"]["iteration"] == 16


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"network.channels": [4, 12]}, "network.channels"),
        ({"labels": {"background": 0, "core": 205, "organ": 4}}, "labels"),
        ({"labels": {"background": 0, "organ": [4, 205]}}, "labels"),
        ({"preprocess.spacing": [2.0, 2.0, 2.0]}, "preprocess.spacing"),
        ({"augment": {"preset": "none"}}, "augment.preset"),
        ({"data.fold": 1}, "data.fold"),
        ({"train.patch_size": [8, 8, 8]}, "train.patch_size"),
    ],
    ids=["network", "order of labels", "merged labels", "spacing", "augmentation", "fold", "patch"],
)
def test_a_run_is_not_resumed_as_something_else(
    stopped: Stopped, changes: dict[str, Any], key: str, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    other = make_config(tiny_dataset, {**SMALL, "data.cache": stopped.config.data.cache, **changes})
    with pytest.raises(UsageError, match=key):
        train(other, stopped.folder / "never", resume=True, device="cpu")


def test_a_run_is_not_resumed_on_other_folds(
    stopped: Stopped, tmp_path: Path, make_config: Callable[..., Any], write_dataset: Callable[..., Path]
) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    splits = (run / "splits.json").read_bytes()
    larger = make_config(write_dataset(tmp_path / "data", count=7), SMALL)
    with pytest.raises(DatasetError, match="folds of the data set differ"):
        train(larger, run, resume=True, device="cpu")
    assert (run / "splits.json").read_bytes() == splits


def test_a_damaged_checkpoint_ends_in_a_sentence(stopped: Stopped, tmp_path: Path) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    last = run / "checkpoints" / "last.pt"
    for content in (b"", b"PK\3\4 nothing", last.read_bytes()[:-200]):
        last.write_bytes(content)
        with pytest.raises(TrainingError, match="cannot be read"):
            train(stopped.config, run, resume=True, device="cpu")


def test_there_must_be_a_run_to_resume(stopped: Stopped, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        train(stopped.config, tmp_path / "nothing", resume=True, device="cpu")
    assert not (tmp_path / "nothing").exists()


def test_a_run_is_not_overwritten(stopped: Stopped) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(stopped.config, stopped.folder / "never", device="cpu")
