"""Lines about the machine come when they shall, tell what was done, and a broken monitor costs no mask."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medunet.engines.probe import Probe
from medunet.inference import pulse as module
from medunet.inference.pulse import Pulse, Tally

CPU = torch.device("cpu")
MACHINE = r"CPU \d+%  RAM \d+\.\d GB  \(\d+\.\d GB free\)  disk \d+ GB free"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, logger="medunet")
    return lambda: [record.message for record in caplog.records]


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_line_comes_from_time_to_time_and_one_of_all_at_the_end(
    tmp_path: Path, lines: Callable[[], list[str]]
) -> None:
    tally = Tally(waiting=3)
    with Pulse(0.05, tmp_path, CPU, tally):
        wait_for(lambda: len(lines()) >= 1)
        tally.count("done")
        tally.count("failed")
        tally.count("skipped")
        tally.waiting = 0
        wait_for(lambda: len(lines()) >= 4)
    *some, last = lines()
    assert re.fullmatch(rf"{MACHINE}; 0 done, 0 failed, 3 waiting, 0 cases/s\.", some[0]), some[0]
    assert re.fullmatch(rf"{MACHINE}; 1 done, 1 failed, 0 waiting, 0 cases/s\.", some[-1]), some[-1]
    whole = re.fullmatch(
        rf"Mean and peak of ([\d.]+) s: {MACHINE}; 1 done, 1 failed, 0 waiting, ([\d.]+) cases/s\.", last
    )
    assert whole, last
    assert float(whole[1]) * float(whole[2]) == pytest.approx(2, rel=0.05)


def test_a_short_run_has_the_last_line_only_and_a_watch_begins_with_one(
    tmp_path: Path, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Pulse(60, tmp_path, CPU, Tally()):
        time.sleep(0.1)
    assert [line[:13] for line in lines()] == ["Mean and peak"]
    monkeypatch.setattr(module, "_SOON", 0.05)
    with Pulse(60, tmp_path, CPU, Tally(), at_once=True):
        wait_for(lambda: len(lines()) == 2)
    assert lines()[1].startswith("CPU")
    assert len(lines()) == 3


def test_a_peak_between_two_lines_is_seen(
    tmp_path: Path, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOKS", 0.01)
    taken = iter([1.0, 77.7])
    sample = {"gpu_percent": 50.0, "free_memory_GB": 1.0}
    monkeypatch.setattr(Probe, "look", lambda _: {**sample, "gpu_memory_GB": next(taken, 2.0)})
    with Pulse(0.2, tmp_path, CPU, Tally()):
        wait_for(lambda: len(lines()) >= 2)
    assert lines()[0].startswith("(1.0 GB free)  GPU 50%  VRAM 77.7 GB; ")
    assert "VRAM 2.0 GB" in lines()[1]
    assert "VRAM 77.7 GB" in lines()[-1]


def test_without_an_interval_there_is_no_line_and_no_thread(tmp_path: Path, lines: Callable[[], list[str]]) -> None:
    before = threading.active_count()
    with Pulse(0, tmp_path, CPU, Tally(), at_once=True):
        assert threading.active_count() == before
    assert lines() == []


def test_a_failure_is_one_warning(
    tmp_path: Path, lines: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Probe) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Probe, "look", broken)
    with Pulse(0.01, tmp_path, CPU, Tally()):
        time.sleep(0.1)
    assert lines() == ["The resource monitor cannot go on (ZeroDivisionError: a defect). The prediction does."]
