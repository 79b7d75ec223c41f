"""A run that was stopped anywhere and resumed ends with exactly what an uninterrupted one ends with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.config.load import load_config
from medunet.errors import DatasetError, TrainingError, UsageError
from medunet.model import load_model
from medunet.training.run import train

SCRIPT = Path(__file__).with_name("stopped_runs.py")
KILLED = -9
SMALL = {
    "train.epochs": 3,
    "train.iterations_per_epoch": 4,
    "train.optimizer.lr": 0.003,
    # Whatever has a state has to go on where it was: random numbers, moving average, plateau, early stopping.
    "augment": {"preset": "nnunet"},
    "network.dropout": 0.1,
    "train.ema": 0.5,
    "train.schedule": {"name": "plateau", "metric": "loss", "factor": 0.7, "patience": 0, "min_delta": 1000.0},
    "train.early_stop": {"metric": "loss", "patience": 9, "min_delta": 1000.0},
    "validate": {"every": 1, "metric": "validation_loss"},
    "logging": {"monitor": None, "tensorboard": False},
}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks"),
    pytest.mark.xdist_group("resume"),  # the runs are made once, not once per worker
    pytest.mark.timeout(600),  # on a busy machine
]


@dataclass(frozen=True)
class Stopped:
    """Runs below `folder`, the exit codes of each (stopped, then resumed), and what they printed on stderr."""

    folder: Path
    codes: dict[str, list[int]]
    stderr: str
    config: Any


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, make_config: Callable[..., Any]) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    config = make_config(tiny_dataset, {**SMALL, "data.cache": str(folder / "cache")})
    (folder / "config.json").write_text(config.model_dump_json(by_alias=True))
    (folder / "runs").mkdir()
    done = subprocess.run(
        [sys.executable, SCRIPT, folder / "config.json", folder / "runs"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=560,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    codes = {name: [int(code) for code in found] for name, *found in lines}
    return Stopped(folder / "runs", codes, done.stderr, config)


def losses(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        tuple(line[key] for key in ("epoch", "iteration", "loss", "lr", "dice_mean", "validation_loss", "best"))
        for line in lines
    ]


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
    state["progress"]["elapsed"] = 0
    return state


def leaves(state: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a state that hold no others, with their paths."""
    if isinstance(state, dict | list | tuple):
        inside = state.items() if isinstance(state, dict) else enumerate(state)
        yield path, len(state)
        for key, value in inside:
            yield from leaves(value, f"{path}/{key}")
    else:
        yield path, state


def differences(found: Any, expected: Any) -> list[str]:
    """Where two states differ, tensors bit for bit."""
    one, two = dict(leaves(found)), dict(leaves(expected))
    return [path for path in {**one, **two} if not equal(one.get(path), two.get(path))]


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    return type(one) is type(two) and bool(one == two)


def assert_same(run: Path, whole: Path) -> None:
    """Two runs ended with the same bits: all of both checkpoints, the model, the metrics."""
    for file in ("last", "best"):
        assert differences(checkpoint(run, file), checkpoint(whole, file)) == []
    weights = "model/weights.safetensors"
    assert (run / weights).read_bytes() == (whole / weights).read_bytes()
    assert losses(run) == losses(whole)
    assert len((run / "metrics.csv").read_text().splitlines()) == len(losses(whole)) + 1
    assert (run / "validation" / "per_case.csv").read_bytes() == (whole / "validation" / "per_case.csv").read_bytes()
    assert not [path for path in run.rglob("*") if ".part-" in path.name]


CODES = {
    "killed_in_first_epoch": KILLED,
    "killed_after_first_epoch": KILLED,
    "killed_in_first_save": KILLED,
    "killed_in_later_save": KILLED,
    "killed_between_best_and_last": KILLED,
    "killed_between_the_renames": KILLED,
    "killed_in_metrics": KILLED,
    "interrupted_in_epoch": 130,
    "terminated_in_epoch": 130,
    "interrupted_at_end_of_epoch": 130,
    "interrupted_at_last_step": 130,
    "interrupted_in_validation": 130,
}
KINDS = {"call": 8, "time": 4, "byte": 4, "rename": 4}
RANDOM = [f"random_{kind}_{number}" for kind, count in KINDS.items() for number in range(count)]


def test_every_way_to_stop_is_tried(stopped: Stopped) -> None:
    assert len(RANDOM) == 20
    whole = {name: [0] for name in ("never", "counted", "eager")}
    one_by_one = {name: [code, 0] for name, code in CODES.items()}
    killed = {name: [KILLED, 0] for name in RANDOM}
    chain = stopped.codes["chain"]
    assert stopped.codes == {**whole, **one_by_one, **killed, "chain": chain}
    assert chain.count(KILLED) >= 4
    assert set(chain) == {KILLED, 0}
    assert chain[-1] == 0
    assert "Traceback" not in stopped.stderr


@pytest.mark.parametrize("name", ["counted", "eager"])
def test_a_run_that_is_watched_or_saved_more_often_is_the_same_run(stopped: Stopped, name: str) -> None:
    assert_same(stopped.folder / name, stopped.folder / "never")


@pytest.mark.parametrize("name", CODES)
def test_a_stopped_run_resumes_to_the_same_bits(stopped: Stopped, name: str) -> None:
    if CODES[name] == 130:
        assert (stopped.folder / f"{name}.stopped" / "checkpoints" / "last.pt").is_file()
    assert_same(stopped.folder / name, stopped.folder / "never")


@pytest.mark.parametrize("name", RANDOM)
def test_a_run_that_is_killed_at_a_random_moment_resumes_to_the_same_bits(stopped: Stopped, name: str) -> None:
    assert_same(stopped.folder / name, stopped.folder / "never")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(stopped: Stopped) -> None:
    assert_same(stopped.folder / "chain", stopped.folder / "never")


def test_the_kills_hit_checkpoints_that_were_being_written(stopped: Stopped) -> None:
    """Guards the guard: the files are cut off at different places, and between renames one is missing."""
    whole = (stopped.folder / "never" / "checkpoints" / "last.pt").stat().st_size
    sizes = {
        path.stat().st_size
        for name in stopped.codes
        if "byte" in name
        for path in (stopped.folder / f"{name}.stopped" / "checkpoints").glob(".*.part-*")
    }
    assert len(sizes) == KINDS["byte"]
    assert max(sizes) < whole
    between = stopped.folder / "killed_between_the_renames.stopped" / "checkpoints"
    assert not (between / "last.pt").exists()
    assert (between / "previous.pt").is_file()
    log = (stopped.folder / "killed_between_the_renames" / "train.log").read_text()
    assert "Going on from the checkpoint before it" in log


def test_what_has_a_state_was_at_work(stopped: Stopped) -> None:
    """Guards the guard: a counter that stands at its start survives anything."""
    last = checkpoint(stopped.folder / "never")
    progress = last["progress"]
    assert (progress["lowered"], progress["stopping"]["since"], progress["epoch"]) == (2, 2, 3)
    assert int(last["average"]["n_averaged"]) == 12
    assert differences(last["network"], checkpoint(stopped.folder / "never", "best")["network"])
    rates = [line[3] for line in losses(stopped.folder / "never")]
    assert rates == pytest.approx([0.003, 0.003, 0.0021])


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
        ({"train.ema": 0.9}, "train.ema"),
        ({"train.optimizer": {"name": "sgd", "lr": 0.003}}, "train.optimizer.name"),
        ({"seed": 5}, "seed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_is_not_resumed_as_something_else(
    stopped: Stopped, changes: dict[str, Any], key: str, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    other = make_config(tiny_dataset, {**SMALL, "data.cache": stopped.config.data.cache, **changes})
    with pytest.raises(UsageError, match=rf"config is not that of the run in .*{key}.* was .*, is .*--force"):
        train(other, stopped.folder / "never", resume=True, device="cpu")


def test_a_refusal_names_all_keys_with_both_values(
    stopped: Stopped, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    changes = {"augment": {"preset": "none"}, "train.batch_size": 3, "train.epochs": 9, "data.cache": "elsewhere"}
    other = make_config(tiny_dataset, {**SMALL, **changes})
    with pytest.raises(UsageError) as caught:
        train(other, stopped.folder / "never", resume=True, device="cpu")
    told = "augment.preset was 'nnunet', is 'none'; train.batch_size was 2, is 3."
    assert caught.value.message == f"This config is not that of the run in {stopped.folder / 'never'}: {told}"


def test_a_changed_config_is_taken_by_force_and_the_log_says_what_changed(
    stopped: Stopped, tmp_path: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    run = copy_run(stopped.folder / "interrupted_in_epoch.stopped", tmp_path / "run")
    changes = {"augment": {"preset": "none"}, "train.ema": None, "data.cache": stopped.config.data.cache}
    other = make_config(tiny_dataset, {**SMALL, **changes})
    train(other, run, resume=True, force=True, device="cpu")
    assert "From here on the run has another augment.preset, train.ema." in (run / "train.log").read_text()
    assert load_config(run / "config.yaml") == other
    whole = losses(stopped.folder / "never")
    assert losses(run)[0] == whole[0]
    assert [line[:2] for line in losses(run)] == [line[:2] for line in whole]
    assert losses(run)[1:] != whole[1:]
    assert checkpoint(run)["average"] is None
    train(other, run, resume=True, device="cpu")  # it is the run's own config now


def test_not_even_force_puts_weights_into_another_network(
    stopped: Stopped, tmp_path: Path, make_config: Callable[..., Any], tiny_dataset: Path
) -> None:
    run = copy_run(stopped.folder / "interrupted_in_epoch.stopped", tmp_path / "run")
    other = make_config(tiny_dataset, {**SMALL, "data.cache": stopped.config.data.cache, "network.channels": [4, 12]})
    with pytest.raises(TrainingError, match="does not fit the network of the config"):
        train(other, run, resume=True, force=True, device="cpu")
    train(stopped.config, run, resume=True, device="cpu")  # its config is the same as before
    assert_same(run, stopped.folder / "never")


def test_a_run_is_not_resumed_on_other_folds(
    stopped: Stopped, tmp_path: Path, make_config: Callable[..., Any], write_dataset: Callable[..., Path]
) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    splits = (run / "splits.json").read_bytes()
    larger = make_config(write_dataset(tmp_path / "data", count=7), SMALL)
    with pytest.raises(DatasetError, match="folds of the data set differ"):
        train(larger, run, resume=True, device="cpu")
    assert (run / "splits.json").read_bytes() == splits


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda _: b"",
    lambda _: b"PK\3\4 nothing",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-200],
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_a_damaged_checkpoint_is_replaced_by_the_one_before_which_ends_with_the_same_bits(
    stopped: Stopped, tmp_path: Path, number: int
) -> None:
    run = copy_run(stopped.folder / "killed_in_later_save.stopped", tmp_path / "run")
    run_twice = copy_run(stopped.folder / "interrupted_at_last_step.stopped", tmp_path / "later")
    for folder in (run, run_twice):
        last = folder / "checkpoints" / "last.pt"
        last.write_bytes(DAMAGES[number](last.read_bytes()))
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read: .* Put a copy in its place"):
        train(stopped.config, run, resume=True, device="cpu")  # killed in epoch 2: there was one checkpoint only
    train(stopped.config, run_twice, resume=True, device="cpu")
    assert_same(run_twice, stopped.folder / "never")
    log = (run_twice / "train.log").read_text()
    assert "last.pt cannot be read" in log
    assert f"Going on from the checkpoint before it, {run_twice / 'checkpoints' / 'previous.pt'}." in log


def test_where_both_checkpoints_are_damaged_the_run_ends_in_a_sentence(stopped: Stopped, tmp_path: Path) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    for name in ("last.pt", "previous.pt"):
        os.truncate(run / "checkpoints" / name, 1000)
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read"):
        train(stopped.config, run, resume=True, device="cpu")


def test_a_damaged_best_checkpoint_costs_the_best_but_not_the_run(stopped: Stopped, tmp_path: Path) -> None:
    run = copy_run(stopped.folder / "never", tmp_path / "run")
    os.truncate(run / "checkpoints" / "best.pt", 1000)
    result = train(stopped.config, run, resume=True, device="cpu")
    assert result.best_epoch == 3
    assert "The weights of the last epoch take its place." in (run / "train.log").read_text()
    weights = load_model(result.model).weights
    average = checkpoint(run)["average"]
    assert all(torch.equal(value, average[f"module.{name}"]) for name, value in weights.items())


def test_there_must_be_a_run_to_resume(stopped: Stopped, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run to resume"):
        train(stopped.config, tmp_path / "nothing", resume=True, device="cpu")
    assert not (tmp_path / "nothing").exists()


def test_a_run_is_not_overwritten(stopped: Stopped) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        train(stopped.config, stopped.folder / "never", device="cpu")
