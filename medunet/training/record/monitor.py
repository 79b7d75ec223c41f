"""What a training does to its machine: a thread that looks every few seconds at processor, memory, disk and GPU.

Each look is a line of resources.jsonl; when that has grown long, every second line goes and half as many follow. What
this machine cannot tell is null; what goes wrong is one warning and ends the monitor, never the training. GB are 10^9
bytes. Knows nothing of networks.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path
from types import TracebackType

import torch

from medunet.engines.probe import Probe, Sample, Summary
from medunet.training.record.lines import Lines

logger = logging.getLogger("medunet")

RESOURCES_FILE = "resources.jsonl"
MOST_LINES = 20_000


class Monitor:
    """Looks in a thread of its own from `__enter__` to `__exit__`.

    Args:
        folder: of the run; resources.jsonl grows there.
        seconds: between two looks.
        device: of the training.

    Attributes:
        latest: the last sample; empty before the first.
        wait_share: set by the training; recorded with each sample.
    """

    def __init__(self, folder: Path, seconds: float, device: torch.device) -> None:
        self.latest: Sample = {}
        self.wait_share = 0.0
        self._folder = folder
        self._seconds = seconds
        self._device = device
        self._lines = Lines(folder / RESOURCES_FILE)
        self._count, self._looks, self._stride = 0, 0, 1
        self._since: Summary | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="medunet-monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=10)

    def epoch(self) -> Sample:
        """Means, largest and smallest values since the last call; of the last sample where there was none since."""
        with self._lock:
            found, self._since = self._since, None
            if found is None:
                found = Summary()
                found.add(self.latest)
        return {name: None if value is None else round(value, 3) for name, value in found.sample().items()}

    def _run(self) -> None:
        try:
            self._count = self._whole_lines()
            probe = Probe(self._folder, self._device)
            wait = min(1.0, self._seconds)  # the first sample soon: rates need a moment
            ended = False
            while not ended:  # once more at the end, so that the shortest run has a sample
                ended = self._ended.wait(wait)
                self._take(probe.look())
                wait = self._seconds
        except Exception as error:  # whatever it is, a training is worth more
            logger.warning(
                "The resource monitor cannot go on (%s: %s). The training does.", type(error).__name__, error
            )

    def _whole_lines(self) -> int:
        """Number of lines of an earlier part of the run; one that was cut off is dropped."""
        lines = self._lines.read()
        if lines and not lines[-1].endswith("}"):
            self._lines.replace(lines[:-1])
            return len(lines) - 1
        return len(lines)

    def _take(self, sample: Sample) -> None:
        with self._lock:
            self.latest = sample
            self._since = self._since or Summary()
            self._since.add(sample)
        self._looks += 1
        if self._looks % self._stride:
            return
        row = {"time": time.time(), **sample, "wait_share": self.wait_share}
        self._lines.add(json.dumps({key: None if value is None else round(value, 3) for key, value in row.items()}))
        self._count += 1
        if self._count >= MOST_LINES:
            kept = self._lines.read()[::2]
            self._lines.replace(kept)
            self._count, self._stride = len(kept), 2 * self._stride
