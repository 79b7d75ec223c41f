"""The monitor notes what a process does, ends with its run, stays small and breaks nothing."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.engines.probe import SUMMARY_NAMES, Probe
from medunet.training.record import monitor as module
from medunet.training.record.monitor import Monitor

CPU = torch.device("cpu")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "resources.jsonl").read_text().splitlines()]


def wait_for(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_samples_are_lines_and_epochs_have_means_and_extremes(tmp_path: Path) -> None:
    with Monitor(tmp_path, 0.05, CPU) as monitor:
        monitor.wait_share = 0.25
        wait_for(lambda: (tmp_path / "resources.jsonl").is_file() and len(rows(tmp_path)) >= 3)
        epoch = monitor.epoch()
        assert monitor.latest["memory_GB"] > 0  # type: ignore[operator]
    assert set(epoch) == set(SUMMARY_NAMES)
    assert min(row["memory_GB"] for row in rows(tmp_path)) <= epoch["memory_GB"]  # type: ignore[operator]
    assert rows(tmp_path)[-1]["wait_share"] == 0.25
    assert abs(rows(tmp_path)[-1]["time"] - time.time()) < 60


def test_means_and_extremes_are_those_of_the_samples_since_the_last_epoch(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, 1, CPU)
    assert set(monitor.epoch().values()) == {None}  # before the first sample
    for percent, memory, free in ((10.0, 2.0, 5.0), (30.0, 1.0, 4.0)):
        monitor._take({"cpu_percent": percent, "memory_GB": memory, "free_memory_GB": free, "gpu_percent": None})
    epoch = monitor.epoch()
    assert (epoch["cpu_percent"], epoch["memory_GB"], epoch["free_memory_GB"]) == (20.0, 2.0, 4.0)
    assert epoch["gpu_percent"] is None
    assert monitor.epoch()["cpu_percent"] == 30.0  # none since: the last one


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Monitor(tmp_path, 60, CPU):
        assert len(set(threading.enumerate()) - before) == 1
    assert set(threading.enumerate()) <= before


def test_the_file_stays_small_and_covers_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 8)
    monitor = Monitor(tmp_path, 1, CPU)
    for number in range(100):
        monitor._take({"cpu_percent": float(number)})
        assert len(rows(tmp_path)) <= 8
    seen = [row["cpu_percent"] for row in rows(tmp_path)]
    assert seen[0] == 0.0
    assert seen[-1] > 80
    assert seen == sorted(seen)


def test_a_resumed_run_goes_on_in_the_file_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "resources.jsonl").write_text('{"cpu_percent": 1.0}\n{"cpu_per')
    with Monitor(tmp_path, 0.02, CPU):
        wait_for(lambda: (tmp_path / "resources.jsonl").read_text().count("\n") >= 3)
    assert rows(tmp_path)[0] == {"cpu_percent": 1.0}
    assert "memory_GB" in rows(tmp_path)[1]


def test_a_failure_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Probe) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Probe, "look", broken)
    with caplog.at_level(logging.WARNING, logger="medunet"), Monitor(tmp_path, 0.01, CPU) as monitor:
        wait_for(lambda: caplog.records)
        time.sleep(0.1)
        assert set(monitor.epoch().values()) == {None}
    assert caplog.text.count("The resource monitor cannot go on (ZeroDivisionError: a defect)") == 1
