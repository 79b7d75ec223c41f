"""metrics.jsonl and metrics.csv stay valid and agree, whatever happened; a recorder that breaks ends no training."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from medunet.training.observe import EpochSummary
from medunet.training.record.lines import Lines
from medunet.training.record.runlog import NoLog, Recorder, Row, RunLog


def summary(epoch: int, **keys: Any) -> EpochSummary:
    return EpochSummary(epoch, epoch * 10, 0.5, 0.01, 1.0, 2.0, 10.0, 0.1, **keys)


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog(tmp_path, ["liver", "tumour, small"])


def lines(log: RunLog) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def table(log: RunLog) -> list[dict[str, str]]:
    with open(log.path.with_name("metrics.csv"), newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_epoch_is_a_line_of_json_and_a_row(log: RunLog) -> None:
    log.write(summary(1))
    log.write(summary(2, dice_mean=0.8, dice={"liver": 0.8, "tumour, small": None}, best=True))
    log.close()
    first, second = lines(log)
    assert (first["epoch"], first["dice_mean"], first["dice"], first["best"]) == (1, None, {}, False)
    assert (second["dice_mean"], second["dice"], second["best"]) == (0.8, {"liver": 0.8, "tumour, small": None}, True)
    first_row, second_row = table(log)
    assert (first_row["epoch"], first_row["loss"], first_row["dice/liver"]) == ("1", "0.5", "")
    assert (second_row["dice_mean"], second_row["dice/liver"], second_row["dice/tumour, small"]) == ("0.8", "0.8", "")
    assert set(first_row) >= {"lr", "validation_loss", "wait_share", "resources/cpu_percent", "resources/memory_GB"}


def test_a_resumed_run_drops_what_it_does_again(log: RunLog, tmp_path: Path) -> None:
    log.keep_until(3)  # nothing there yet
    for epoch in (1, 2, 3):
        log.write(summary(epoch, dice={"liver": epoch / 10}))
    before = (tmp_path / "metrics.csv").read_text()
    resumed = RunLog(tmp_path, ["liver", "tumour, small"])
    resumed.keep_until(2)
    assert [row["epoch"] for row in lines(log)] == [1, 2]
    assert (tmp_path / "metrics.csv").read_text() == "".join(before.splitlines(keepends=True)[:-1])
    resumed.write(summary(3, dice={"liver": 0.3}))
    assert [row["epoch"] for row in lines(log)] == [1, 2, 3]
    assert (tmp_path / "metrics.csv").read_text() == before


def test_a_table_that_was_lost_is_made_again_from_the_lines(log: RunLog, tmp_path: Path) -> None:
    log.write(summary(1))
    (tmp_path / "metrics.csv").unlink()
    log.keep_until(1)
    assert [row["epoch"] for row in table(log)] == ["1"]


@pytest.mark.parametrize("rest", ['{"epoch": 3, "it', "{}", "null", '{"epoch": "x"}', "\0\0\0", "\ufffd"])
def test_a_line_that_was_cut_off_is_dropped(log: RunLog, rest: str) -> None:
    log.write(summary(1))
    with open(log.path, "a", encoding="utf-8") as handle:
        handle.write(rest)
    log.keep_until(5)
    assert [row["epoch"] for row in lines(log)] == [1]


def test_a_loss_that_is_no_number_is_null(log: RunLog) -> None:
    log.write(summary(1, validation_loss=float("inf"), dice={"liver": float("nan")}))
    assert (lines(log)[0]["validation_loss"], lines(log)[0]["dice"]) == (None, {"liver": None})


def test_what_cannot_be_written_is_written_with_the_next_line(
    log: RunLog, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log.path.mkdir()
    with caplog.at_level(logging.WARNING, logger="medunet"):
        log.write(summary(1))
    assert "metrics.jsonl cannot be written: Is a directory. The training goes on." in caplog.text
    log.path.rmdir()
    log.write(summary(2))
    assert [row["epoch"] for row in lines(log)] == [1, 2]
    assert [row["epoch"] for row in table(log)] == ["1", "2"]


def test_a_header_comes_once(tmp_path: Path) -> None:
    for text in ("one", "two"):
        Lines(tmp_path / "a.csv", "head").add(text)
    assert (tmp_path / "a.csv").read_text() == "head\none\ntwo\n"
    assert Lines(tmp_path / "a.csv", "head").read() == ["one", "two"]


class Broken(Recorder):
    name = "The broken one"

    def epoch(self, rows: Sequence[Row]) -> None:  # noqa: ARG002
        raise OSError("no more")


class Whole(Recorder):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def resume(self, rows: Sequence[Row]) -> None:
        self.seen.append(len(rows))

    def epoch(self, rows: Sequence[Row]) -> None:
        self.seen.append(rows[-1]["epoch"])

    def pictures(self, epoch: int, pictures: Mapping[str, Any]) -> None:
        self.seen.append((epoch, sorted(pictures)))


def test_a_recorder_that_breaks_is_told_once_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Whole()
    log = RunLog(tmp_path, [], [Broken(), whole])
    log.keep_until(0)
    with caplog.at_level(logging.WARNING, logger="medunet"):
        log.write(summary(1))
        log.write(summary(2))
    log.close()
    assert whole.seen == [0, 1, 2]
    assert caplog.text.count("The broken one cannot go on (OSError: no more). The training does.") == 1


class Pictures:
    """Stands for `Slices`: a picture of every second validation, until it breaks."""

    broken = False

    def wanted(self, validations: int) -> bool:
        return validations % 2 == 1

    def draw(self) -> dict[str, Any]:
        if self.broken:
            raise ValueError("empty")
        return {"case_01": None}


def test_pictures_go_with_validations_not_with_epochs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = Whole()
    log = RunLog(tmp_path, ["liver"], [whole])
    log.slices = Pictures()  # type: ignore[assignment]
    for epoch in range(1, 7):
        log.write(summary(epoch, dice={"liver": 0.5} if epoch % 2 == 0 else {}))
    assert [each for each in whole.seen if isinstance(each, tuple)] == [(2, ["case_01"]), (6, ["case_01"])]
    log.slices.broken = True  # type: ignore[union-attr]
    for epoch in (8, 10, 12, 14):
        log.write(summary(epoch, dice={"liver": 0.5}))
    assert caplog.text.count("Slices cannot be drawn any more: empty. The training goes on.") == 1
    assert [row["epoch"] for row in lines(log)][-1] == 14


def test_a_process_beside_the_recording_one_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    log = NoLog()
    log.keep_until(3)
    assert log.write(summary(1)) == summary(1)
    assert log.resources(0.5) == {}
    log.close()
    assert list(tmp_path.iterdir()) == []
