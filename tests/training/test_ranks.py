"""Two processes of torchrun on this machine train as one process does, and end together whatever happens.

The runs are as small as they can be: what takes time is to start Python five times.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import nibabel
import numpy as np
import psutil
import pytest
import torch

from medunet.config.load import dump_config
from medunet.errors import UsageError
from medunet.training.folds import train_folds
from medunet.training.observe import Observer, Step
from medunet.training.ranks import ALONE, Ranks, check_batch
from medunet.training.run import train
from medunet.training.torchrun import began_here, is_first, own_device

SCRIPT = Path(__file__).with_name("ranked_runs.py")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_addr", "127.0.0.1")
PATIENCE = 150
LOSS, WEIGHT, DICE = 5e-6, 5e-6, 1e-3
"""How far losses and weights may be from those of one process: sums in another order, over a dozen steps.

Dice counts voxels: in a few of these small volumes two labels are as likely as each other, so that rounding decides.
"""

SMALL: dict[str, Any] = {
    "deterministic": False,  # it takes seconds to begin, and sums on one thread are always the same
    "train.batch_size": 4,
    "train.epochs": 3,
    "train.iterations_per_epoch": 4,
    "train.optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
    "network.dropout": 0.0,
    "logging.tensorboard": False,
    "logging.monitor": None,
}
HARD: dict[str, Any] = {
    "labels": {"background": 0, "organ": 4, "core": 205, "ignore": 9},
    "data.annotated": {"case_0[0-2]": ["organ"]},
    "loss": [{"name": "dice", "batch": True}, {"name": "cross_entropy"}, {"name": "topk_ce", "weight": 0.5}],
    "train.accumulate": 2,
    "train.ema": 0.9,
    "train.clip_norm": 0.1,
    "train.foreground": 0.5,
    "network.deep_supervision": True,
    "network.channels": [4, 8, 8, 8],
    "train.schedule": {"name": "plateau", "metric": "loss", "patience": 0, "min_delta": 1.0},
}
FROZEN = {"train.freeze": [{"layers": "*bias", "epochs": 1}], "augment": {"preset": "nnunet"}}
TOLD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400"}
NORMED = {"network.norm": "batch", "train.epochs": 2, "logging.tensorboard": True}
BROKEN = {**SMALL, "network.dropout": 0.2, "train.optimizer": {"name": "adamw", "lr": 0.003}}

pytestmark = [
    pytest.mark.timeout(600),  # on a busy machine
    pytest.mark.skipif(sys.platform == "win32", reason="signals and torchrun"),
    pytest.mark.xdist_group("ranks"),  # the runs are made once, not once per worker
]


def scribbled(root: Path, case: str) -> None:
    """Everything above the middle of a mask is unknown; a case of three lacks the core."""
    path = root / "labelsTr" / f"{case}.nii.gz"
    image = nibabel.load(path)
    mask = np.asarray(image.dataobj).copy()
    if case < "case_03":
        mask[mask == 205] = 0
    mask[..., mask.shape[-1] // 2 :] = 9
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)


def torchrun(*words: str | Path, before: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*TORCHRUN, *before, *map(str, words))


@contextmanager
def started(command: tuple[str, ...], out: IO[str], err: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A running torchrun, of which nothing is left afterwards."""
    process = subprocess.Popen(command, stdout=out, stderr=err, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()
        process.wait()


def call(command: tuple[str, ...]) -> tuple[int, str]:
    """Exit code and stderr."""
    with TemporaryFile("w+") as err, started(command, err, err) as process:
        try:
            code = process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            code = -1
        err.seek(0)
        return code, err.read()


@dataclass(frozen=True)
class Runs:
    """Folder of the runs of two processes, and of those of one; what torchrun and its processes printed."""

    folder: Path
    alone: Path
    stderr: dict[str, str]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_dataset: Path,
    write_dataset: Callable[..., Path],
    make_config: Callable[..., Any],
    one_thread: None,
) -> Runs:
    folder = tmp_path_factory.mktemp("ranks")
    hard = write_dataset(folder / "data")
    for number in range(6):
        scribbled(hard, f"case_{number:02d}")
    configs = {
        "plain": make_config(tiny_dataset, SMALL),
        "hard": make_config(hard, {**SMALL, **HARD}),
        "frozen": make_config(tiny_dataset, {**SMALL, **FROZEN, "train.epochs": 2}),
        "folds": make_config(tiny_dataset, {**SMALL, "train.epochs": 1, "data.folds": 2}),
        "unbroken": make_config(tiny_dataset, BROKEN),
        "broken": make_config(tiny_dataset, BROKEN),
        "normed": make_config(tiny_dataset, {**SMALL, **NORMED}),
        "moved": make_config(tiny_dataset, SMALL),
        "failing": make_config(tiny_dataset, SMALL),
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(config.model_dump_json(by_alias=True))
    alone = folder / "alone"
    for name in ("plain", "hard", "frozen"):
        train(configs[name], alone / name, device="cpu")
    train_folds(configs["folds"], alone / "folds", device="cpu")
    with pytest.raises(Stopped):
        train(configs["moved"], folder / "moved", device="cpu", observer=_StopAt(6))
    calls = {
        "stopped": ("broken@6",),
        "whole": ("plain", "hard", "frozen", "folds*", "unbroken", "broken", "normed", "moved", "failing!3"),
    }
    done = {name: call(torchrun(SCRIPT, folder, *words)) for name, words in calls.items()}
    assert all(code > 0 for code, _ in done.values()), done
    return Runs(folder, alone, {name: stderr for name, (_, stderr) in done.items()})


class Stopped(Exception):
    """What ends a run in the middle of an epoch."""


class _StopAt(Observer):
    def __init__(self, step: int) -> None:
        self.at = step

    def step(self, step: Step) -> None:
        if step.iteration == self.at:
            raise Stopped


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)["network"]
    return found


def assert_same_curve(found: Path, expected: Path) -> None:
    assert len(rows(found)) == len(rows(expected))
    for one, other in zip(rows(found), rows(expected), strict=True):
        for key in ("epoch", "iteration", "lr"):
            assert one[key] == other[key]
        for key in ("loss", "validation_loss"):
            assert one[key] == pytest.approx(other[key], abs=LOSS)
        for key in ("dice", "dice_mean"):
            assert one[key] == pytest.approx(other[key], abs=DICE)


@pytest.mark.parametrize("name", ["plain", "hard", "frozen", "folds/fold_0", "folds/fold_1"])
def test_two_processes_learn_what_one_learns(runs: Runs, name: str) -> None:
    found, expected = runs.folder / name, runs.alone / name
    assert_same_curve(found, expected)
    for key, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[key], value, rtol=0, atol=WEIGHT)


@pytest.mark.parametrize("name", ["plain", "hard", "frozen", "folds"])
def test_two_processes_leave_the_files_of_one(runs: Runs, name: str) -> None:
    found, expected = (
        {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "cache" not in path.parts}
        for root in (runs.folder / name, runs.alone / name)
    )
    assert found == expected


def test_the_weights_have_moved(runs: Runs) -> None:
    """Guards the guard: a tolerance is worth something only beside what a training changes."""
    first, last = rows(runs.alone / "plain")[0]["loss"], rows(runs.alone / "plain")[-1]["loss"]
    assert abs(first - last) > 1000 * LOSS
    one, other = weights(runs.alone / "frozen"), weights(runs.alone / "plain")
    assert max(float((one[key] - value).abs().max()) for key, value in other.items()) > 1000 * WEIGHT


def test_masks_and_scores_of_the_held_out_cases_are_those_of_one_process(runs: Runs) -> None:
    for run in ("plain", "hard"):
        found, expected = (root / run / "validation" for root in (runs.folder, runs.alone))
        for path in expected.glob("*.nii.gz"):
            masks = [np.asarray(nibabel.load(root / path.name).dataobj) for root in (found, expected)]
            assert np.mean(masks[0] == masks[1]) > 0.999


def test_a_batch_norm_keeps_the_statistics_of_the_first_process_and_says_so(runs: Runs) -> None:
    """The masks are those of the network that was best, whichever process segmented a case, then and at the end."""
    run = runs.folder / "normed"
    assert "torch has no batch norm over several processes on a CPU" in (run / "train.log").read_text()
    quick = [row["dice_mean"] for row in rows(run)]
    with open(run / "validation" / "per_case.csv", newline="") as handle:
        found = list(csv.DictReader(handle))
    means = [
        np.mean([float(row["dice"]) for row in found if row["label"] == name and row["dice"]])
        for name in rows(run)[-1]["dice"]
    ]
    assert np.mean(means) == pytest.approx(max(quick), abs=DICE)


def test_slices_of_all_cases_reach_the_process_that_draws_them(runs: Runs) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (events,) = {path.parent for path in (runs.folder / "normed").rglob("events.out.tfevents*")}
    found = accumulator.EventAccumulator(str(events))
    found.Reload()
    held_out = {path.name.removesuffix("_seg.nii.gz") for path in (runs.folder / "normed").rglob("*_seg.nii.gz")}
    assert len(held_out) == 2
    assert all(any(case in tag for tag in found.Tags()["images"]) for case in held_out)


def test_a_signal_to_torchrun_ends_both_in_the_same_step(runs: Runs) -> None:
    lines = [line for line in runs.stderr["stopped"].splitlines() if line.startswith("rank ")]
    said = "Stopped after step 7 of 12; everything is saved."
    assert sorted(line.partition(" Go on")[0] for line in lines) == [
        f"rank 0, told False: {said}",
        f"rank 1, told True: {said}",
    ]


def test_a_stopped_run_resumes_to_the_weights_of_the_unbroken_one(runs: Runs) -> None:
    """With dropout: the random numbers of both processes go on, too. The same two sums, so the same bits."""
    found, expected = weights(runs.folder / "broken"), weights(runs.folder / "unbroken")
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert [row["loss"] for row in rows(runs.folder / "broken")] == [
        row["loss"] for row in rows(runs.folder / "unbroken")
    ]


def test_a_run_that_one_process_began_is_ended_by_two(runs: Runs) -> None:
    found, expected = runs.folder / "moved", runs.alone / "plain"
    assert "another number of processes (1, now 2)" in (found / "train.log").read_text()
    assert_same_curve(found, expected)
    for key, value in weights(expected).items():
        torch.testing.assert_close(weights(found)[key], value, rtol=0, atol=WEIGHT)


def test_an_error_in_one_process_ends_both(runs: Runs) -> None:
    lines = [line for line in runs.stderr["whole"].splitlines() if line.startswith("rank ")]
    assert "rank 1, told False: The second process has no memory left. Buy some." in lines
    assert [line for line in lines if line.startswith("rank 0")] in (
        [],  # torchrun ended it before it could speak
        [
            "rank 0, told False: Another process of this training has ended or cannot be reached, so this one ends, "
            "too. Look for its own message; then go on with --resume."
        ],
    )


def test_a_run_that_lost_a_process_goes_on_where_it_was(
    runs: Runs, tmp_path: Path, tiny_dataset: Path, make_config: Callable[..., Any]
) -> None:
    config = make_config(tiny_dataset, {**SMALL, "train.epochs": 6})
    expected = train(config, tmp_path / "expected", device="cpu").run
    (tmp_path / "config.yaml").write_text(dump_config(config))
    command = torchrun(
        *("-m", "medunet", "train", "-d", "cpu", "--out", tmp_path / "run", "--config", tmp_path / "config.yaml"),
        before=("--max_restarts", "1"),
    )
    saved, end = tmp_path / "run" / "checkpoints" / "last.pt", time.monotonic() + PATIENCE
    with (
        open(tmp_path / "stdout", "w") as out,
        open(tmp_path / "stderr", "w") as err,
        started(command, out, err) as process,
    ):
        while not saved.is_file() and time.monotonic() < end:
            time.sleep(0.02)
        second_of(process.pid).send_signal(signal.SIGKILL)
        code = process.wait(timeout=PATIENCE)
    told = (tmp_path / "stderr").read_text()
    assert code == 0, told
    assert "Going on after step" in told
    assert (tmp_path / "stdout").read_text().splitlines() == [str(tmp_path / "run" / "model")]
    assert_same_curve(tmp_path / "run", expected)


def second_of(parent: int) -> psutil.Process:
    """The process of rank 1."""
    return next(child for child in psutil.Process(parent).children() if child.environ().get("RANK") == "1")


def test_a_batch_that_cannot_be_shared_is_told_with_ones_that_can() -> None:
    with pytest.raises(UsageError) as caught:
        check_batch(3, 1, Ranks(size=2))
    assert str(caught.value) == (
        "train.batch_size is 3, which 2 processes cannot share equally. Set it to 2 or 4, or start 1 process."
    )
    with pytest.raises(UsageError, match=r"Set it to 4, or start 3 processes\."):
        check_batch(3, 1, Ranks(size=4))
    with pytest.raises(UsageError, match=r"Set train\.accumulate to 2 or less"):
        check_batch(4, 3, Ranks(size=2))
    check_batch(4, 2, Ranks(size=2))
    check_batch(3, 3, ALONE)


def test_each_process_takes_its_own_part_and_all_take_everything() -> None:
    shares = [list(Ranks(rank=rank, size=3).share(range(8))) for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4, 7], [2, 5]]


def test_one_process_needs_no_group() -> None:
    assert not ALONE.many
    assert ALONE.each(lambda: 1) == [1]
    assert ALONE.tell(lambda: 1) == ALONE.lead(lambda: 1) == ALONE.agree(lambda: 1) == 1
    assert ALONE.sums([1.5, 2]) == [1.5, 2]
    assert ALONE.collect(3) == [3]
    assert ALONE.prepared([1, 2], list) == [1, 2]
    assert not torch.distributed.is_initialized()


def test_the_environment_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert is_first()
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    assert not is_first()
    assert own_device("cpu") == torch.device("cpu")
    recorded = tmp_path / "config.yaml"
    recorded.touch()
    assert not began_here(recorded)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert began_here(recorded)
    os.utime(recorded, (0, 0))
    assert not began_here(recorded), "a run from before torchrun was started"
    assert not began_here(tmp_path / "missing")
