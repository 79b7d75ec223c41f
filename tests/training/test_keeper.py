"""Whatever is cut off, damaged or did not fit: there is a whole checkpoint to go on from, or one sentence."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.errors import OutputError, TrainingError
from medunet.training.keeper import BEST, LAST, PREVIOUS, Keeper, not_written

CPU = torch.device("cpu")
NUMBERS = 20_000


def state(number: int) -> dict[str, Any]:
    return {"network": {"w": torch.full((NUMBERS,), float(number))}, "progress": {"iteration": number}}


def number_of(found: dict[str, Any] | None) -> int:
    assert found is not None
    number = int(found["progress"]["iteration"])
    assert torch.equal(found["network"]["w"], state(number)["network"]["w"])
    return number


def both(keeper: Keeper, number: int) -> None:
    keeper.save_best(state(number))
    keeper.save(state(number))


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    """After three checkpoints, of which the second was the best."""
    made = Keeper(tmp_path / "run")
    both(made, 1)
    both(made, 2)
    made.save(state(3))
    return made


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut in half": halve,
    "empty": lambda path: path.write_bytes(b"") and None,
    "a changed byte": flip,
    "no checkpoint": lambda path: path.write_text("hello") and None,
}


def test_a_new_run_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    fresh = Keeper(tmp_path)
    assert not fresh.started
    assert fresh.load() is None
    assert fresh.load_best(CPU) is None
    fresh.tidy()


def test_the_last_the_one_before_and_the_best_are_kept_and_no_more(keeper: Keeper) -> None:
    assert sorted(path.name for path in keeper.folder.iterdir()) == sorted([LAST, PREVIOUS, BEST])
    assert keeper.started
    assert number_of(keeper.load()) == 3
    assert number_of(keeper.load_best(CPU)) == 2
    (keeper.folder / LAST).unlink()
    assert keeper.started
    assert number_of(keeper.load()) == 2


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_the_last_is_damaged_the_one_before_is_taken_and_the_log_says_so(
    keeper: Keeper, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](keeper.folder / LAST)
    assert number_of(keeper.load()) == 2
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith(f"The checkpoint {keeper.folder / LAST} cannot be read: ")
    assert told[1] == f"Going on from the checkpoint before it, {keeper.folder / PREVIOUS}."


def test_where_the_last_is_gone_the_one_before_is_taken_and_the_log_says_so(
    keeper: Keeper, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a kill between the two renames."""
    (keeper.folder / LAST).unlink()
    assert number_of(keeper.load()) == 2
    assert f"Going on from the checkpoint before it, {keeper.folder / PREVIOUS}." in caplog.text


def test_a_damaged_checkpoint_does_not_push_the_good_one_out(keeper: Keeper) -> None:
    """Else a run that is killed once more, between the two renames, had none left."""
    halve(keeper.folder / LAST)
    again = Keeper(keeper.folder.parent)
    assert number_of(again.load()) == 2
    again.save(state(3))
    assert [number_of(again.load()), number_of(load(again.folder / PREVIOUS))] == [3, 2]
    again.save(state(4))
    assert [number_of(again.load()), number_of(load(again.folder / PREVIOUS))] == [4, 3]


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


@pytest.mark.parametrize("previous", [True, False])
def test_where_all_are_damaged_the_error_names_the_last(keeper: Keeper, previous: bool) -> None:
    halve(keeper.folder / LAST)
    if previous:
        flip(keeper.folder / PREVIOUS)
    else:
        (keeper.folder / PREVIOUS).unlink()
    with pytest.raises(TrainingError, match=r"last\.pt cannot be read: .* Put a copy in its place") as caught:
        keeper.load()
    assert "\n" not in str(caught.value)


def test_a_damaged_best_is_no_reason_to_lose_the_run(keeper: Keeper, caplog: pytest.LogCaptureFixture) -> None:
    halve(keeper.folder / BEST)
    assert keeper.load_best(CPU) is None
    assert "best.pt cannot be read" in caplog.text
    assert "The weights of the last epoch take its place." in caplog.text


def test_a_checkpoint_is_due_after_some_time_also_where_it_could_not_be_written(tmp_path: Path) -> None:
    assert not Keeper(tmp_path).due
    made = Keeper(tmp_path / "run", every=0.05)
    time.sleep(0.06)
    assert made.due
    made.save(state(1))
    assert not made.due
    time.sleep(0.06)
    shutil.rmtree(made.folder)
    made.folder.write_text("in the way")
    with pytest.raises(OutputError):
        made.save(state(2))
    assert not made.due


def test_what_a_killed_run_left_half_written_is_removed(keeper: Keeper) -> None:
    run = keeper.folder.parent
    (run / "validation").mkdir()
    (run / ".model.part-1234").mkdir()
    left = [run / ".curves.part-1.png", keeper.folder / ".last.part-2.pt", run / "validation" / ".a.part-3.nii.gz"]
    for path in [*left, run / ".model.part-1234" / "weights"]:
        path.write_bytes(b"half")
    (run / "config.yaml").write_text("whole")
    keeper.tidy()
    assert not [path for path in run.rglob("*") if ".part-" in path.name]
    assert (run / "config.yaml").is_file()
    assert number_of(keeper.load()) == 3


# A full disk


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel refuses to let files grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("best", [True, False], ids=["best", "last"])
def test_what_does_not_fit_leaves_all_as_it_was(keeper: Keeper, best: bool) -> None:
    before = {path.name: path.read_bytes() for path in keeper.folder.iterdir()}
    with no_file_larger_than(NUMBERS * 2), pytest.raises(OutputError, match="cannot be written: File too large"):
        (keeper.save_best if best else keeper.save)(state(4))
    assert {path.name: path.read_bytes() for path in keeper.folder.iterdir()} == before
    keeper.save(state(4))
    assert number_of(keeper.load()) == 4


FULL = """
import os, subprocess, sys
from pathlib import Path

import torch

from medunet.errors import OutputError
from medunet.training.keeper import Keeper

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
keeper = Keeper(folder / "run")
state = lambda number: {"w": torch.full((50_000,), float(number)), "number": number}
keeper.save(state(1))
(folder / "other").write_bytes(bytes(750_000))
try:
    keeper.save(state(2))
except OutputError as error:
    print(error.message)
print(sorted(os.listdir(keeper.folder)), keeper.load()["number"])
(folder / "other").unlink()
keeper.save(state(3))
print(sorted(os.listdir(keeper.folder)), keeper.load()["number"])
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A file system of 1 MiB in a name space of its own, so that nothing has to be unmounted."""
    space = ("unshare", "--mount", "--map-root-user")
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*space, "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no name space can be made here")
    done = subprocess.run(
        [*space, sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == [
        f"{tmp_path}/run/checkpoints/last.pt cannot be written: No space left on device.",
        "['last.pt'] 1",
        "['last.pt', 'previous.pt'] 3",
    ]


def test_the_training_says_that_it_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "medunet"):
        not_written(OutputError("last.pt cannot be written: No space left on device.", "Check free space."))
    assert [record.message for record in caplog.records] == [
        "last.pt cannot be written: No space left on device. "
        "The training goes on; the next checkpoint is tried after the next epoch."
    ]
