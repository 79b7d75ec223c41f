"""Starts training runs and stops them at exact points: `python stopped_runs.py CONFIG.json OUT`.

A script and not a fixture, because each run ends its process. torch is imported once, then every run gets a fork.
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
from medunet.training import checkpoint, session
from medunet.training.observe import Observer, RunLog, Step
from medunet.training.run import train
from medunet.training.validate import Validator


class _SignalAt(Observer):
    def __init__(self, step: int, number: int) -> None:
        self.at, self.number = step, number

    def step(self, step: Step) -> None:
        if step.iteration == self.at:
            os.kill(os.getpid(), self.number)


def at_step(step: int, number: int) -> Callable[[], Observer]:
    return lambda: _SignalAt(step, number)


def _count_calls(owner: Any, name: str, action: Callable[[int, Callable[..., Any], tuple[Any, ...]], Any]) -> Observer:
    """Replace `owner.name` by `action(call number from 1, original, arguments)`."""
    original, calls = getattr(owner, name), []

    def replaced(*args: Any, **_: Any) -> Any:
        calls.append(1)
        return action(len(calls), original, args)

    setattr(owner, name, replaced)
    return Observer()


def kill_in_save(number: int) -> Callable[[], Observer]:
    """SIGKILL when half of a checkpoint is on disk."""

    def save(call: int, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
        original(*args)
        if call == number:
            handle = args[1]
            handle.flush()
            handle.truncate(handle.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: _count_calls(checkpoint.torch, "save", save)


def kill_before_save(number: int) -> Callable[[], Observer]:
    def save(call: int, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args)

    return lambda: _count_calls(session, "save_checkpoint", save)


def kill_in_metrics() -> Observer:
    """SIGKILL when half of the second line of metrics.jsonl is on disk."""

    def write(call: int, original: Callable[..., Any], args: tuple[Any, ...]) -> None:
        original(*args)
        if call == 2:
            path = args[0].path
            os.truncate(path, path.stat().st_size - 40)
            os.kill(os.getpid(), signal.SIGKILL)

    return _count_calls(RunLog, "write", write)


def interrupt_in_validation() -> Observer:
    def segment(call: int, original: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if call == 3:  # first case of the second validation
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, tta=False)

    return _count_calls(Validator, "segment", segment)


# Three epochs of four steps; each epoch saves best.pt (if it is better), then last.pt.
STOPS: dict[str, Callable[[], Observer]] = {
    "never": Observer,
    "killed_in_first_epoch": at_step(2, signal.SIGKILL),
    "killed_after_first_epoch": at_step(6, signal.SIGKILL),
    "killed_in_first_save": kill_in_save(1),
    "killed_in_later_save": kill_in_save(4),
    "killed_between_best_and_last": kill_before_save(4),
    "killed_in_metrics": kill_in_metrics,
    "interrupted_in_epoch": at_step(6, signal.SIGINT),
    "terminated_in_epoch": at_step(6, signal.SIGTERM),
    "interrupted_at_end_of_epoch": at_step(8, signal.SIGINT),
    "interrupted_at_last_step": at_step(12, signal.SIGINT),
    "interrupted_in_validation": interrupt_in_validation,
}


def _run(name: str, config: Config, out: Path) -> int:
    try:
        train(config, out / name, device="cpu", observer=STOPS[name]())
    except MedunetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def main() -> None:
    config, out = Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for name in STOPS:
        child = os.fork()
        if child == 0:
            os._exit(_run(name, config, out))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{name} {os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
