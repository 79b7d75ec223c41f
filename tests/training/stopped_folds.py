"""Starts runs over folds and stops them at exact points: `python stopped_folds.py CONFIG.json OUT`.

A script and not a fixture, because each run ends its process. torch is imported once, then every run gets a fork,
all at the same time.
Writes OUT/NAME for every name in STOPS, and prints NAME and the exit code of its process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel  # noqa: F401 - here and not in every fork
import torch._inductor  # noqa: F401

from medunet.config.schema import Config
from medunet.errors import MedunetError
from medunet.training import folds
from medunet.training.observe import Observer, Step


class _SignalAt(Observer):
    """Sends a signal at a step of a fold, or at the first event of one of its stages."""

    def __init__(self, number: int, fold: int, *, step: int | None = None, stage: str | None = None) -> None:
        self.number, self.at = number, (fold, step, stage)
        self.fold = -1

    def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
        self.fold += name == "preprocess" and done == 1
        if (self.fold, None, name) == self.at:
            os.kill(os.getpid(), self.number)

    def step(self, step: Step) -> None:
        if (self.fold, step.iteration, None) == self.at:
            os.kill(os.getpid(), self.number)


def kill_before(name: str) -> Callable[[], Observer]:
    """SIGKILL in the place of a function of `medunet.training.folds`."""

    def killed(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def patched() -> Observer:
        setattr(folds, name, killed)
        return Observer()

    return patched


STOPS: dict[str, Callable[[], Observer]] = {
    "never": Observer,
    "killed_before_the_first_fold": kill_before("train"),
    "killed_in_a_fold": lambda: _SignalAt(signal.SIGKILL, 1, step=3),
    "interrupted_in_a_fold": lambda: _SignalAt(signal.SIGINT, 1, step=3),
    "killed_as_a_fold_is_scored": lambda: _SignalAt(signal.SIGKILL, 0, stage="validate"),
    "killed_between_folds": lambda: _SignalAt(signal.SIGKILL, 1, stage="preprocess"),
    "killed_after_the_last_fold": kill_before("_gather"),
    "killed_before_the_models_are_joined": kill_before("join_models"),
}


def _run(name: str, config: Config, out: Path) -> int:
    try:
        folds.train_folds(config, out / name, device="cpu", observer=STOPS[name]())
    except MedunetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def main() -> None:
    config, out = Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    children = {}
    for name in STOPS:
        children[name] = os.fork()
        if children[name] == 0:
            os._exit(_run(name, config, out))
    for name, child in children.items():
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{name} {os.waitstatus_to_exitcode(status)}\n")


if __name__ == "__main__":
    main()
