"""`Pulse`: lines in the log about the machine while many cases are segmented, with what was done."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from medunet.engines.probe import Probe, Sample, Summary

logger = logging.getLogger("medunet")

_LOOKS = 5.0  # seconds between two looks at the most, of which a line has means and extremes
_SOON = 1.0  # seconds before the first look: rates need a moment

_SHOWN = {
    "machine_cpu_percent": "CPU {:.0f}%",
    "memory_GB": "RAM {:.1f} GB",
    "free_memory_GB": "({:.1f} GB free)",
    "gpu_percent": "GPU {:.0f}%",
    "gpu_memory_GB": "VRAM {:.1f} GB",
    "disk_free_GB": "disk {:.0f} GB free",
}


@dataclass
class Tally:
    """What was done so far.

    Attributes:
        done, failed: cases.
        waiting: inputs that are still to be done.
    """

    done: int = 0
    failed: int = 0
    waiting: int = 0

    def count(self, status: str) -> None:
        """Take up a case that has ended; one that was skipped is neither done nor failed."""
        self.done += status == "done"
        self.failed += status == "failed"


class Pulse:
    """Logs a line from time to time and one at the end, in a thread of its own.

    Args:
        every: seconds between lines; 0: there is none at all.
        folder: for the room on the disk.
        device: that computes.
        tally: what the lines count.
        at_once: the first line comes soon, not only after `every` seconds.
    """

    def __init__(
        self, every: float, folder: Path, device: torch.device, tally: Tally, *, at_once: bool = False
    ) -> None:
        self._every, self._folder, self._device, self._tally = every, folder, device, tally
        self._first = min(_SOON, every) if at_once else every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="medunet-pulse", daemon=True)

    def __enter__(self) -> None:
        if self._every > 0:
            self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        try:
            self._tell()
        except Exception as error:  # whatever it is, masks are worth more
            logger.warning(
                "The resource monitor cannot go on (%s: %s). The prediction does.", type(error).__name__, error
            )

    def _tell(self) -> None:
        probe = Probe(self._folder, self._device)
        whole, part = _Span(self._tally), _Span(self._tally)
        due, ended = time.monotonic() + self._first, False
        while not ended:
            ended = self._ended.wait(max(0.0, min(_LOOKS, due - time.monotonic())))
            sample = probe.look()
            whole.add(sample)
            part.add(sample)
            if time.monotonic() >= due and not ended:
                logger.info("%s.", part.describe())
                part, due = _Span(self._tally), time.monotonic() + self._every
        logger.info("Mean and peak of %.3g s: %s.", whole.seconds, whole.describe())


class _Span:
    """A stretch of time: what the machine did, and how many cases ended."""

    def __init__(self, tally: Tally) -> None:
        self._tally, self._before = tally, tally.done + tally.failed
        self._begin = self._last = time.monotonic()
        self._summary = Summary()

    @property
    def seconds(self) -> float:
        """From the beginning to the last look."""
        return self._last - self._begin

    def add(self, sample: Sample) -> None:
        """Take up a look at what was since the last one."""
        now = time.monotonic()
        self._summary.add(sample, now - self._last)
        self._last = now

    def describe(self) -> str:
        """For people: the machine (rates are means, memory is the most, free room the least), then the work."""
        found, tally = self._summary.sample(), self._tally
        parts = [form.format(value) for name, form in _SHOWN.items() if (value := found[name]) is not None]
        rate = (tally.done + tally.failed - self._before) / max(1e-9, self.seconds)
        work = f"{tally.done} done, {tally.failed} failed, {tally.waiting} waiting, {rate:.3g} cases/s"
        return f"{'  '.join(parts)}; {work}"
