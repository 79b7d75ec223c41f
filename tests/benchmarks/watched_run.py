"""Runs a command and watches the memory of all its processes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass
class Run:
    """What a command took: seconds, and bytes of its largest process and of all together at their peaks."""

    seconds: float
    largest: int
    together: int


def run(command: list[str | Path], **environment: str) -> Run:
    """Run a command and watch the memory of all its processes."""
    start = time.perf_counter()
    process = psutil.Popen(
        [str(part) for part in command],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peaks = {"largest": 0, "together": 0}

    def watch() -> None:
        while process.is_running():
            try:
                sizes = [each.memory_info().rss for each in [process, *process.children(recursive=True)]]
            except psutil.Error:
                continue
            peaks["largest"] = max(peaks["largest"], *sizes)
            peaks["together"] = max(peaks["together"], sum(sizes))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - start
    assert process.returncode == 0, errors[-3000:].decode()
    return Run(seconds, **peaks)
