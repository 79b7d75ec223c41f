"""What this process does to its machine: processor, memory, disk and GPU, by one look after the other.

What this machine cannot tell is None. GB are 10^9 bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

Sample = dict[str, float | None]

_MEAN = ("cpu_percent", "machine_cpu_percent", "read_MB_s", "write_MB_s", "gpu_percent")
_MOST = ("memory_GB", "gpu_memory_GB")
_LEAST = ("free_memory_GB", "disk_free_GB")

SUMMARY_NAMES = (*_MEAN, *_MOST, *_LEAST)
"""What a summary holds: means, largest and smallest values of its samples."""


class Probe:
    """Looks at this process, its children and the machine.

    Args:
        folder: for the disk.
        device: that computes.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device
        self._own = psutil.Process()
        self._before = (time.monotonic(), *_totals(self._processes()))
        psutil.cpu_percent(None)  # counts from here

    def look(self) -> Sample:
        """`cpu_percent` counts 100 per core, `machine_cpu_percent` 100 for all; both and the rates since last time."""
        processes = self._processes()
        now = (time.monotonic(), *_totals(processes))
        seconds = max(now[0] - self._before[0], 1e-3)
        rates = [
            None if new is None or old is None else max(0.0, new - old) / seconds
            for new, old in zip(now[1:], self._before[1:], strict=True)
        ]
        self._before = now
        memory = _known(psutil.virtual_memory)
        on_gpu = _known(lambda: torch.cuda.mem_get_info(self._device)) if self._device.type == "cuda" else None
        return {
            "cpu_percent": _scaled(rates[0], 100),
            "machine_cpu_percent": _known(lambda: float(psutil.cpu_percent(None))),
            "memory_GB": _scaled(sum(_each(processes, lambda process: process.memory_info().rss)), 1e-9),
            "free_memory_GB": _scaled(memory.available, 1e-9) if memory else None,
            "disk_free_GB": _scaled(_known(lambda: psutil.disk_usage(str(self._folder)).free), 1e-9),
            "read_MB_s": _scaled(rates[1], 1e-6),
            "write_MB_s": _scaled(rates[2], 1e-6),
            "gpu_percent": self._gpu_percent(),
            "gpu_memory_GB": _scaled(on_gpu[1] - on_gpu[0], 1e-9) if on_gpu else None,
        }

    def _processes(self) -> list[Any]:
        """This one and its children; looking for them reads the list of all processes, so it is done once a look."""
        return [self._own, *(_known(lambda: self._own.children(recursive=True)) or [])]

    def _gpu_percent(self) -> float | None:
        """Share of the time in which it computed, by NVML; of all processes."""
        return _known(lambda: float(torch.cuda.utilization(self._device))) if self._device.type == "cuda" else None


class Summary:
    """Many samples in the room of one: means of rates, the most memory that was taken, the least that was free."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}
        self._extremes: dict[str, float] = {}

    def add(self, sample: Sample, seconds: float = 1.0) -> None:
        """Take up a sample of so many seconds."""
        for name, value in sample.items():
            if value is None:
                continue
            if name in _MEAN:
                total, weight = self._sums.get(name, (0.0, 0.0))
                self._sums[name] = total + value * max(seconds, 1e-6), weight + max(seconds, 1e-6)
            else:
                choose = max if name in _MOST else min
                self._extremes[name] = choose(value, self._extremes.get(name, value))

    def sample(self) -> Sample:
        """What is known of each of `SUMMARY_NAMES`."""
        means = {name: total / weight for name, (total, weight) in self._sums.items()}
        return {name: means.get(name, self._extremes.get(name)) for name in SUMMARY_NAMES}


def _each(processes: Sequence[Any], ask: Callable[[Any], Any]) -> list[Any]:
    """The answers of those processes that have not just ended."""
    return [answer for process in processes if (answer := _known(partial(ask, process))) is not None]


def _totals(processes: Sequence[Any]) -> tuple[float | None, float | None, float | None]:
    """Seconds of processor, bytes read and bytes written, by some processes and the ended children of the first."""
    times = _each(processes, lambda process: process.cpu_times())
    ended = times[0].children_user + times[0].children_system if times else 0.0
    counted = _each(processes, lambda process: process.io_counters())
    return (
        ended + sum(each.user + each.system for each in times) if times else None,
        sum(each.read_bytes for each in counted) if counted else None,
        sum(each.write_bytes for each in counted) if counted else None,
    )


def _known(ask: Callable[[], Any]) -> Any:
    """The answer, or None where this system has none, or a process has just ended."""
    try:
        return ask()
    except Exception:  # psutil, torch, NVML (a part of a GPU, no driver) and the system have many words for "unknown"
        return None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
