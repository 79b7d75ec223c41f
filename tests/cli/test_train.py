"""`medunet train`: what it prints, where it ends, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medunet.config.load import dump_config

SHORT = ("--set", "train.epochs=1", "--set", "train.iterations_per_epoch=2")


@pytest.fixture
def config_file(make_config: Callable[..., Any], tiny_dataset: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(dump_config(make_config(tiny_dataset)))
    return path


def test_stdout_is_the_path_of_the_model_and_nothing_else(cli: Any, config_file: Path, tmp_path: Path) -> None:
    done = cli("train", "--config", config_file, "--out", tmp_path / "run", "-d", "cpu", *SHORT)
    assert (done.code, done.out) == (0, f"{tmp_path / 'run' / 'model'}\n")
    assert "epoch 1: loss" in done.err
    assert "\x1b[" not in done.err  # no bars where there is no terminal


def test_quiet_is_quiet_and_the_log_is_not(cli: Any, config_file: Path, tmp_path: Path) -> None:
    done = cli("-q", "train", "-c", config_file, "--out", tmp_path / "run", *SHORT)
    assert (done.code, done.err) == (0, "")
    assert "epoch 1: loss" in (tmp_path / "run" / "train.log").read_text()


def test_data_fold_and_settings_of_the_command_line_win(
    cli: Any, config_file: Path, tmp_path: Path, write_dataset: Callable[..., Path]
) -> None:
    other = write_dataset(tmp_path / "other", count=4, first_seed=50)
    done = cli(
        *("train", "-c", config_file, "--out", tmp_path / "run", "--data", other, "--fold", "2", "--set", "seed=9"),
        *SHORT,
    )
    assert done.code == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["data"]["root"], config["data"]["fold"], config["seed"]) == (str(other), 2, 9)
    assert config["train"]["epochs"] == 1


def test_the_written_config_is_enough_to_resume(cli: Any, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("train", "-c", config_file, "--out", run, *SHORT)
    again = cli("train", "-c", run / "config.yaml", "--out", run, "--resume")
    assert (again.code, again.out) == (0, f"{run / 'model'}\n")
    assert "epoch" not in again.err


def test_a_changed_config_is_refused_unless_it_is_forced(cli: Any, config_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("train", "-c", config_file, "--out", run, *SHORT)
    other = ("train", "-c", run / "config.yaml", "--out", run, "--resume", "--set", "train.epochs=2")
    changed = ("--set", "train.batch_size=1", "--set", "seed=7")
    refused = cli(*other, *changed)
    assert (refused.code, refused.out) == (2, "")
    assert "seed was 0, is 7; train.batch_size was 2, is 1." in refused.err
    assert "go on all the same with --force" in refused.err
    forced = cli(*other, *changed, "--force")
    assert (forced.code, forced.out) == (0, f"{run / 'model'}\n"), forced.err
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 7


def medunet(*arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from medunet.cli.main import main; main()", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # a group of its own, so that signals reach its workers as from a terminal
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not (path.is_file() and path.stat().st_size):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_signals_save_the_state_and_end_with_130(cli: Any, config_file: Path, tmp_path: Path) -> None:
    """Ctrl-C with worker processes, SIGTERM without; each at some moment after the first epoch."""
    endless = ("--set", "train.epochs=100000", "--set", "train.iterations_per_epoch=5")
    runs = {}
    for name, number, workers in (("ctrl_c", signal.SIGINT, 2), ("term", signal.SIGTERM, 0)):
        out = tmp_path / name
        process = medunet("train", "-c", config_file, "--out", out, *endless, "--set", f"train.workers={workers}")
        runs[name] = process, number
    for name, (process, number) in runs.items():
        wait_for(tmp_path / name / "metrics.jsonl", process)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    for name, (process, _) in runs.items():
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert out == ""
        assert "Traceback" not in err
        assert err.count("Stopping after this step") == 1, err
        last = [line for line in err.splitlines() if line][-1]
        assert last.startswith("medunet: Stopped after step "), err
        assert f"Go on with --resume --out {tmp_path / name}" in last
        state = torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)
        step, epochs = state["progress"]["iteration"], state["progress"]["iteration"] // 5 + 1
        settings = ("--set", f"train.epochs={epochs}", "--set", "train.iterations_per_epoch=5")
        assert cli("train", "-c", config_file, "--out", tmp_path / name, "--resume", *settings).code == 0
        lines = [json.loads(line)["epoch"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert lines == list(range(1, epochs + 1))
        assert step <= 5 * epochs
        assert (tmp_path / name / "model" / "model.yaml").is_file()


@pytest.mark.parametrize(
    ("module", "moment"),
    [
        ("medunet.training.material.check_cases", "while it checks"),
        ("medunet.training.validate.Validator.report", "at the end"),
    ],
)
def test_ctrl_c_outside_of_the_training_loop_ends_in_a_sentence_too(
    cli: Any, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, moment: str
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(module, interrupted)
        done = cli("train", "-c", config_file, "--out", tmp_path / "run", *SHORT)
    assert done.code == 130, moment
    assert done.err.splitlines()[-1] == "medunet: stopped."
    assert "Traceback" not in done.err
    resume = ("--resume",) if (tmp_path / "run" / "config.yaml").is_file() else ()
    assert cli("train", "-c", config_file, "--out", tmp_path / "run", *resume, *SHORT).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fold", "7"), "must be less than data.folds, which is 3"),
        (("--fold", "-1"), "must be a whole number from 0, or all"),
        (("--fold", "ALL"), "must be a whole number from 0, or all"),
        (("--fold", "all", "--resume"), "There is no run to resume"),
        (("--fold", "²"), "must be a whole number from 0"),
        (("--set", "train.epochz=3"), "epochz"),
        (("--set", "network.channels=4"), "network.channels"),
        (("--data", "nowhere"), "There is no file or folder"),
        (("-d", "tpu"), '"tpu" is no device'),
        (("--resume",), "There is no run to resume"),
    ],
)
def test_a_wrong_call_ends_with_2_and_writes_nothing(
    cli: Any, config_file: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = cli("train", "-c", config_file, "--out", tmp_path / "run", *arguments)
    assert done.code == 2, done.err
    assert done.err.startswith("medunet: ")
    assert message in done.err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_is_not_overwritten(cli: Any, config_file: Path, tiny_run: Path) -> None:
    done = cli("train", "-c", config_file, "--out", tiny_run)
    assert done.code == 2
    assert done.err == (
        f"medunet: {tiny_run} holds a run already. Go on with --resume, or choose another folder with --out.\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_all_folds_end_as_one_model_after_ctrl_c_too(
    cli: Any, config_file: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    run = tmp_path / "run"
    call = ("train", "-c", config_file, "--out", run, "-d", "cpu", "--fold", "all", "--set", "data.folds=2")
    endless = ("--set", "train.epochs=100000", "--set", "train.iterations_per_epoch=2")
    process = medunet(*call, *endless)
    wait_for(run / "fold_0" / "metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    last = [line for line in err.splitlines() if line][-1]
    assert last.startswith("medunet: Fold 0: Stopped after step "), err
    assert last.endswith(f"Go on with --fold all --resume --out {run}.")
    assert "not finished" in cli("info", run).out

    state = torch.load(run / "fold_0" / "checkpoints" / "last.pt", weights_only=True)
    epochs = state["progress"]["iteration"] // 2 + 1
    done = cli(*call, "--resume", "--set", f"train.epochs={epochs}", "--set", "train.iterations_per_epoch=2")
    assert (done.code, done.out) == (0, f"{run / 'model'}\n"), done.err
    info = cli("info", run)
    assert info.code == 0
    assert "2 of 2 folds" in info.out
    assert json.loads(cli("info", run / "model", "--json").out)["networks"] == 2
    image = tiny_dataset / "imagesTr" / "case_00.nii.gz"
    assert cli("predict", "-m", run, "-i", image, "-o", tmp_path / "mask.nii.gz", "-d", "cpu").code == 0
    assert cli("train", "-c", config_file, "--out", run, "--resume").code == 2
