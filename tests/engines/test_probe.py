"""A probe sees what this process does to its machine, and what it cannot see is None."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medunet.engines.probe import SUMMARY_NAMES, Probe, Summary

CPU = torch.device("cpu")


def burn(seconds: float) -> None:
    """Use the processor for so many seconds of its own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10_000))


def test_a_probe_sees_processor_memory_and_disk(tmp_path: Path) -> None:
    probe = Probe(tmp_path, CPU)
    start, used = time.monotonic(), time.process_time()
    burn(0.3)
    block = np.ones(100_000_000, dtype=np.uint8)
    sample = probe.look()
    expected = 100 * (time.process_time() - used) / (time.monotonic() - start)
    assert sample["cpu_percent"] == pytest.approx(expected, rel=0.3)
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


def test_a_summary_weighs_rates_by_time_and_keeps_extremes_of_memory() -> None:
    summary = Summary()
    assert summary.sample() == dict.fromkeys(SUMMARY_NAMES)
    summary.add({"cpu_percent": 100.0, "memory_GB": 3.0, "free_memory_GB": 5.0, "gpu_percent": None}, 3.0)
    summary.add({"cpu_percent": 0.0, "memory_GB": 2.0, "free_memory_GB": 6.0, "gpu_percent": 40.0}, 1.0)
    found = {name: value for name, value in summary.sample().items() if value is not None}
    assert found == {"cpu_percent": 75.0, "memory_GB": 3.0, "free_memory_GB": 5.0, "gpu_percent": 40.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_does_not_answer_is_null(tmp_path: Path) -> None:
    sample = Probe(tmp_path, torch.device("cuda")).look()
    assert (sample["gpu_percent"], sample["gpu_memory_GB"]) == (None, None)
    assert sample["cpu_percent"] is not None


@pytest.mark.gpu
def test_a_gpu_is_seen(tmp_path: Path) -> None:
    block = torch.ones(250_000_000, device="cuda")
    assert Probe(tmp_path, block.device).look()["gpu_memory_GB"] > 1.0  # type: ignore[operator]
