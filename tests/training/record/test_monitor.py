"""The monitor measures what a process does, ends with its run, stays small and breaks nothing."""

from __future__ import annotations

import json
import logging
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medunet.training.record import monitor as module
from medunet.training.record.monitor import EPOCH_NAMES, Monitor, Probe

CPU = torch.device("cpu")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "resources.jsonl").read_text().splitlines()]


def burn(seconds: float) -> None:
    """Use the processor for so many seconds of its own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10_000))


def wait_for(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_probe_sees_processor_memory_and_disk(tmp_path: Path) -> None:
    probe = Probe(tmp_path, CPU)
    start = time.monotonic()
    burn(0.3)
    block = np.ones(100_000_000, dtype=np.uint8)
    sample = probe.look()
    expected = 100 * 0.3 / (time.monotonic() - start)
    assert sample["cpu_percent"] == pytest.approx(expected, rel=0.7)
    assert 0 <= sample["machine_cpu_percent"] <= 100  # type: ignore[operator]
    assert len(block) / 1e9 < sample["memory_GB"] < 100  # type: ignore[operator]
    assert sample["free_memory_GB"] > 0  # type: ignore[operator]
    assert sample["disk_free_GB"] > 0  # type: ignore[operator]
    assert (sample["gpu_percent"], sample["gpu_memory_GB"]) == (None, None)


def test_children_count_too(tmp_path: Path) -> None:
    probe = Probe(tmp_path, CPU)
    child = multiprocessing.get_context("fork").Process(target=burn, args=(0.3,))
    start = time.monotonic()
    child.start()
    child.join()  # it has ended, and its time is that of its parent now
    assert probe.look()["cpu_percent"] > 0.5 * 100 * 0.3 / (time.monotonic() - start)  # type: ignore[operator]


def test_samples_are_lines_and_epochs_have_means_and_extremes(tmp_path: Path) -> None:
    with Monitor(tmp_path, 0.05, CPU) as monitor:
        monitor.wait_share = 0.25
        wait_for(lambda: (tmp_path / "resources.jsonl").is_file() and len(rows(tmp_path)) >= 3)
        epoch = monitor.epoch()
        assert monitor.latest["memory_GB"] > 0  # type: ignore[operator]
    assert set(epoch) == set(EPOCH_NAMES)
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


def test_what_a_system_does_not_tell_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def denied(*_: Any) -> None:
        raise psutil.AccessDenied

    for name in ("io_counters", "cpu_times"):
        monkeypatch.setattr(psutil.Process, name, denied)
    monkeypatch.setattr(psutil, "disk_usage", denied)
    sample = Probe(tmp_path, CPU).look()
    assert [sample[name] for name in ("cpu_percent", "read_MB_s", "write_MB_s", "disk_free_GB")] == [None] * 4
    assert sample["memory_GB"] is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_does_not_answer_is_null(tmp_path: Path) -> None:
    sample = Probe(tmp_path, torch.device("cuda")).look()
    assert (sample["gpu_percent"], sample["gpu_memory_GB"]) == (None, None)
    assert sample["cpu_percent"] is not None


@pytest.mark.gpu
def test_a_gpu_is_seen(tmp_path: Path) -> None:
    block = torch.ones(250_000_000, device="cuda")
    assert Probe(tmp_path, block.device).look()["gpu_memory_GB"] > 1.0  # type: ignore[operator]
