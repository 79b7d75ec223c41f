"""Trains some steps and tells how long they waited for patches: `python watched_training.py FILE`."""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

from medunet.config.load import load_config
from medunet.training.observe import Observer, Step
from medunet.training.run import train


class _Stopped(Exception):
    pass


class _Watch(Observer):
    def __init__(self, steps: int) -> None:
        self.steps, self.wait, self.seconds = steps, 0.0, 0.0
        self.resident: list[int] = []
        self.process = psutil.Process()

    def step(self, step: Step) -> None:
        if not self.resident:
            self.start = time.perf_counter()
        self.resident.append(self.process.memory_info().rss)
        self.wait = step.wait_share
        if step.iteration == self.steps:
            self.seconds = (time.perf_counter() - self.start) / max(1, len(self.resident) - 1)
            raise _Stopped


def main() -> None:
    wish = json.loads(Path(sys.argv[1]).read_text())
    overrides = [*wish["overrides"], "train.budget=null", "train.epochs=1", "validate.every=1000", "validate.cases=1"]
    overrides.append(f"train.iterations_per_epoch={wish['steps'] + 1}")
    watch = _Watch(wish["steps"])
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Stopped):
        train(load_config(wish["config"], data=wish["data"], overrides=overrides), Path(folder) / "run", observer=watch)
    print(json.dumps({"wait": watch.wait, "seconds": watch.seconds, "resident": watch.resident}))


if __name__ == "__main__":
    main()
