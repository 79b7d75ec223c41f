"""What the database of a study remembers, whatever happens to the processes that work at it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from medunet.config.load import dump_config
from medunet.config.schema import Config
from medunet.errors import OutputError
from medunet.training.tune.book import DATABASE, Book, OpenTrial

SPACES = {
    "train.optimizer.lr": {"low": 1e-4, "high": 0.1, "log": True},
    "train.batch_size": {"low": 2, "high": 8, "step": 2},
    "network.channels": {"choices": [[4, 8], [2, 4]]},
    "train.clip_norm": {"low": 1, "high": 12},
}


@pytest.fixture
def config(make_config: Callable[..., Any], tmp_path: Path) -> Config:
    result: Config = make_config(tmp_path, {"tune": SPACES})
    return result


def opened(folder: Path, config: Config, *, prune: bool = True) -> Book:
    return Book(folder, config, maximise=True, prune=prune)


def taken(book: Book, wanted: int = 99) -> OpenTrial:
    trial = book.next(wanted)
    assert trial is not None
    return trial


def die(trial: OpenTrial) -> None:
    """What is left of a trial when its process is killed."""
    trial._lock.release()


def test_the_first_trial_is_the_configuration_itself(tmp_path: Path, config: Config) -> None:
    expected = {"train.optimizer.lr": 0.02, "train.batch_size": 2, "network.channels": [4, 8], "train.clip_norm": 12}
    assert taken(opened(tmp_path, config)).values == expected


def test_a_configuration_outside_of_the_spaces_is_not_tried(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    config = make_config(tmp_path, {"tune": {"train.batch_size": {"low": 3, "high": 9, "step": 2}}})
    assert taken(opened(tmp_path, config)).values["train.batch_size"] in (3, 5, 7, 9)


def test_values_are_of_their_spaces_and_make_a_configuration(tmp_path: Path, config: Config) -> None:
    book = opened(tmp_path, config)
    drawn = []
    for _ in range(8):
        trial = taken(book)
        drawn.append(trial.values)
        made = book.config_of(trial.values, trial.folder)
        assert made.train.optimizer.lr == trial.values["train.optimizer.lr"]
        assert list(made.network.channels) == trial.values["network.channels"]  # type: ignore[union-attr]
        trial.finish("done", 0.5)
    assert {type(values["train.batch_size"]) for values in drawn} == {int}
    assert {values["train.batch_size"] for values in drawn} <= {2, 4, 6, 8}
    assert all(1e-4 <= values["train.optimizer.lr"] <= 0.1 for values in drawn)
    assert len({values["train.optimizer.lr"] for values in drawn}) == 8


def test_a_study_that_is_gone_on_with_draws_what_it_would_have_drawn(tmp_path: Path, config: Config) -> None:
    whole, parts = [], []
    book = opened(tmp_path / "whole", config)
    for _ in range(4):
        trial = taken(book)
        whole.append(trial.values)
        trial.finish("done", 0.5)
    for _ in range(4):
        trial = taken(opened(tmp_path / "parts", config))
        parts.append(trial.values)
        trial.finish("done", 0.5)
    assert parts == whole


def test_a_trial_that_was_cut_off_is_handed_out_again(tmp_path: Path, config: Config) -> None:
    first = taken(opened(tmp_path, config))
    first.report(0.4, 10)
    die(first)
    again = taken(opened(tmp_path, config))
    assert (again.number, again.values) == (first.number, first.values)
    assert not again.report(0.9, 10)
    assert again.best_reported() == 0.4
    again.finish("done", 0.7)
    assert [(entry.state, entry.value) for entry in opened(tmp_path, config).entries()] == [("done", 0.7)]


def test_a_trial_that_is_cut_off_each_time_is_given_up(tmp_path: Path, config: Config) -> None:
    for _ in range(3):
        trial = taken(opened(tmp_path, config))
        assert trial.number == 0
        die(trial)
    assert taken(opened(tmp_path, config)).number == 1
    entry = opened(tmp_path, config).entries()[0]
    assert (entry.state, entry.note) == ("failed", "It was cut off 3 times.")


def test_a_trial_that_was_told_to_stop_is_never_given_up(tmp_path: Path, config: Config) -> None:
    for _ in range(5):
        trial = taken(opened(tmp_path, config))
        assert trial.number == 0
        trial.leave()


def test_there_are_no_more_trials_than_wanted(tmp_path: Path, config: Config) -> None:
    book = opened(tmp_path, config)
    for state in ("failed", "pruned"):
        taken(book, 2).finish(state)
    assert book.next(2) is None
    assert book.next(3) is not None


def test_a_trial_worse_than_half_of_the_others_is_pruned_unless_that_is_off(tmp_path: Path, config: Config) -> None:
    book = opened(tmp_path, config)
    for _ in range(5):
        trial = taken(book)
        assert not trial.report(0.8, 50)
        trial.finish("done", 0.8)
    bad = taken(book)
    assert bad.report(0.1, 50)
    die(bad)
    spared = taken(opened(tmp_path, config, prune=False))
    assert not spared.report(0.1, 60)


def test_importance_is_told_where_enough_trials_are_done(tmp_path: Path, config: Config) -> None:
    book = opened(tmp_path, config)
    assert book.importance() == {}
    for _ in range(8):
        trial = taken(book)
        trial.finish("done", trial.values["train.optimizer.lr"])
    found = book.importance()
    assert set(found) == set(SPACES)
    assert next(iter(found)) == "train.optimizer.lr"


def test_a_database_that_is_none_is_told(tmp_path: Path, config: Config) -> None:
    (tmp_path / DATABASE).write_bytes(b"nothing that SQLite knows" * 100)
    with pytest.raises(OutputError, match=DATABASE):
        opened(tmp_path, config)


WORK = """
import sys
from pathlib import Path
from medunet.config.load import load_config
from medunet.training.tune.book import Book
book = Book(Path(sys.argv[2]), load_config(sys.argv[1]), maximise=True, prune=True)
while (trial := book.next(12)) is not None:
    trial.report(0.5, 1)
    trial.finish("done", float(trial.number))
    print(trial.number)
"""


def test_two_processes_share_a_study(tmp_path: Path, config: Config) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    command = [sys.executable, "-c", WORK, str(file), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    numbers = sorted(int(line) for out, _ in told for line in out.split())
    assert numbers == list(range(12))
    entries = opened(tmp_path, config).entries()
    assert [entry.value for entry in entries] == [float(number) for number in range(12)]
