"""Starts runs, stops them at exact or random moments and resumes them: `python stopped_runs.py CONFIG.json OUT`.

A script and not a fixture, because each run ends its process. torch is imported once, then every run gets a fork.
Writes OUT/NAME for every name in STOPS and RANDOM, and prints NAME and the exit codes of its processes: of those that
were stopped, then of the one that was not. What is in OUT/NAME.stopped was there after the first stop.
"""

from __future__ import annotations

import functools
import io
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel  # noqa: F401 - here and not in every fork
import torch
import torch._inductor

from medunet.config.schema import Config
from medunet.errors import MedunetError
from medunet.training import checkpoint, keeper
from medunet.training.costs import costs_in_words
from medunet.training.observe import Observer, Step
from medunet.training.record.curves import draw_curves
from medunet.training.record.runlog import RunLog
from medunet.training.run import train
from medunet.training.validate import Validator

Stop = Callable[[], Observer]
"""Called in the process that is to be stopped, before it trains."""

SEED = 20_04
AT_ONCE = 2
"""Runs at the same time."""


def kill() -> None:
    """End at once: nothing is flushed, closed or cleared up."""
    os.kill(os.getpid(), signal.SIGKILL)


class _SignalAt(Observer):
    def __init__(self, step: int, number: int) -> None:
        self.at, self.number = step, number

    def step(self, step: Step) -> None:
        if step.iteration == self.at:
            os.kill(os.getpid(), self.number)


def at_step(step: int, number: int) -> Stop:
    return lambda: _SignalAt(step, number)


def _count_calls(owner: Any, name: str, action: Callable[[int, Callable[[], Any], tuple[Any, ...]], Any]) -> Observer:
    """Replace `owner.name` by `action(call number from 1, the call, its arguments)`."""
    original, calls = getattr(owner, name), []

    def replaced(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return action(len(calls), functools.partial(original, *args, **options), args)

    setattr(owner, name, replaced)
    return Observer()


def kill_in_save(number: int, share: float = 0.5) -> Stop:
    """SIGKILL when `share` of the bytes of a checkpoint are on disk."""

    def save(call: int, original: Callable[[], Any], args: tuple[Any, ...]) -> None:
        if call < number:
            original()
            return
        state, handle = args
        plain_save(state, whole := io.BytesIO())
        handle.write(whole.getvalue()[: int(share * whole.tell())])
        handle.flush()
        kill()

    plain_save = checkpoint.torch.save
    return lambda: _count_calls(checkpoint.torch, "save", save)


def kill_before_save(number: int) -> Stop:
    def save(call: int, original: Callable[[], Any], _: tuple[Any, ...]) -> None:
        if call == number:
            kill()
        original()

    return lambda: _count_calls(keeper, "save_checkpoint", save)


def kill_at_rename(number: int, *, after: bool) -> Stop:
    """SIGKILL before or after a file in checkpoints/ gets its final name, or makes room for another."""
    seen = []

    def replace(_: int, original: Callable[[], Any], args: tuple[Any, ...]) -> None:
        seen.append(Path(args[1]).parent.name == keeper.FOLDER)
        ours = seen[-1] and sum(seen) == number
        if ours and not after:
            kill()
        original()
        if ours:
            kill()

    return lambda: _count_calls(os, "replace", replace)


def kill_at_call(number: int) -> Stop:
    """SIGKILL at some call of a function, or return from one, by the main thread: anything between two of them."""

    def begin() -> Observer:
        count_calls(number)
        return Observer()

    return begin


def count_calls(last: int = sys.maxsize) -> list[int]:
    """Count calls and returns of the main thread from here on; SIGKILL at the last."""
    counted = [0]

    def profile(*_: Any) -> None:
        counted[0] += 1
        if counted[0] >= last:
            kill()

    sys.setprofile(profile)
    return counted


def kill_in_metrics() -> Observer:
    """SIGKILL when half of the second line of metrics.jsonl is on disk."""

    def write(call: int, original: Callable[[], Any], args: tuple[Any, ...]) -> Any:
        result = original()
        if call == 2:
            path = args[0].path
            os.truncate(path, path.stat().st_size - 40)
            kill()
        return result

    return _count_calls(RunLog, "write", write)


def interrupt_in_validation() -> Observer:
    def segment(call: int, original: Callable[[], Any], _: tuple[Any, ...]) -> Any:
        if call == 3:  # first case of the second validation
            os.kill(os.getpid(), signal.SIGINT)
        return original()

    return _count_calls(Validator, "segment", segment)


# Three epochs of four steps; each epoch saves best.pt (if it is better), then last.pt.
STOPS: dict[str, Stop] = {
    "killed_in_first_epoch": at_step(2, signal.SIGKILL),
    "killed_after_first_epoch": at_step(6, signal.SIGKILL),
    "killed_in_first_save": kill_in_save(1),
    "killed_in_later_save": kill_in_save(4),
    "killed_between_best_and_last": kill_before_save(4),
    "killed_between_the_renames": kill_at_rename(4, after=True),
    "killed_in_metrics": kill_in_metrics,
    "interrupted_in_epoch": at_step(6, signal.SIGINT),
    "terminated_in_epoch": at_step(6, signal.SIGTERM),
    "interrupted_at_end_of_epoch": at_step(8, signal.SIGINT),
    "interrupted_at_last_step": at_step(12, signal.SIGINT),
    "interrupted_in_validation": interrupt_in_validation,
}

RANDOM = [
    *(f"random_call_{number}" for number in range(8)),
    *(f"random_time_{number}" for number in range(4)),
    *(f"random_byte_{number}" for number in range(4)),
    *(f"random_rename_{number}" for number in range(4)),
]
CHAIN = "chain"
"""A run that is killed again and again."""
LINKS = 6


def random_stops(calls: int) -> dict[str, list[Stop]]:
    """Twenty random moments, and a chain of them.

    Args:
        calls: that a whole run makes.
    """
    rng = random.Random(SEED)
    found: dict[str, list[Stop]] = {}
    for name in RANDOM:
        if "call" in name:
            found[name] = [kill_at_call(rng.randrange(calls))]
        elif "byte" in name:
            found[name] = [kill_in_save(rng.randint(1, 12), rng.random())]
        elif "rename" in name:
            found[name] = [kill_at_rename(rng.randint(1, 16), after=rng.random() < 0.5)]
    found[CHAIN] = [kill_at_call(rng.randrange(calls // 2)) for _ in range(LINKS)]
    return found


class Starter:
    """Starts training in forks.

    Args:
        config: of all runs.
        out: their folder.
    """

    def __init__(self, config: Config, out: Path) -> None:
        self.config = config
        self.out = out
        eager = config.train.model_copy(update={"save_every": "0.001s"})  # a checkpoint after every step
        self.eager = config.model_copy(update={"train": eager})

    def run(self, name: str, stop: Stop = Observer, *, seconds: float | None = None, eager: bool = False) -> int:
        """Train or go on, as a user would after a look into the folder; gives the exit code.

        Args:
            name: of the run.
            stop: what ends it.
            seconds: after which it is killed from outside.
            eager: save after every step.
        """
        child = os.fork()
        if child == 0:
            os._exit(self._train(name, stop, self.eager if eager else self.config))
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)  # the child was not waited for, so its number is still its own
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _train(self, name: str, stop: Stop, config: Config) -> int:
        folder = self.out / name
        try:
            train(config, folder, device="cpu", observer=stop(), resume=(folder / "config.yaml").is_file())
        except MedunetError as error:
            sys.stderr.write(f"{error}\n")
            return error.exit_code
        return 0

    def stopped(self, name: str, stops: Sequence[Stop], *, eager: bool = False) -> list[int]:
        """Exit codes of a run that is stopped, resumed and so on, and in the end let go."""
        codes = []
        for stop in stops:
            codes.append(self.run(name, stop, eager=eager))
            if len(codes) == 1 and (self.out / name).is_dir():
                shutil.copytree(self.out / name, self.out / f"{name}.stopped")
        return [*codes, self.run(name)]

    def killed_from_outside(self, name: str, seconds: float, *, eager: bool) -> list[int]:
        """The same for a run that is killed after some time; sooner if it was done by then."""
        while (code := self.run(name, seconds=seconds, eager=eager)) == 0:
            shutil.rmtree(self.out / name)
            seconds *= 0.7
        return [code, self.run(name)]


def counting(path: Path) -> Stop:
    """Writes to `path`, in the last of its stages, how many calls there were so far: nearly all."""

    class Counter(Observer):
        def __init__(self) -> None:
            self.counted = count_calls()

        def stage(self, name: str, done: int, total: int) -> None:  # noqa: ARG002
            if name == "validate":
                path.write_text(str(self.counted[0]))

    return Counter


def tell(name: str, codes: Sequence[int]) -> None:
    sys.stdout.write(f"{name} {' '.join(map(str, codes))}\n")
    sys.stdout.flush()


def warm_up(config: Config, folder: Path) -> None:
    """Do once what every fork would have to do again: libraries that are loaded when they are first used."""
    costs_in_words(config, torch.device("cpu"))
    row = {"epoch": 1, "loss": 1.0, "lr": 0.1, "dice": {}, "best": True}
    draw_curves(folder / "warm_up.png", [row], [])


def jobs(starter: Starter, seconds: float, calls: int) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """Every run that is stopped, by name.

    Args:
        starter: of the runs.
        seconds: that a whole run takes.
        calls: that it makes.
    """
    for name, stop in STOPS.items():
        yield name, functools.partial(starter.stopped, name, [stop])
    for number, (name, stops) in enumerate(random_stops(calls).items()):
        eager = "call" not in name or number % 2 == 0
        yield name, functools.partial(starter.stopped, name, stops, eager=eager)
    rng = random.Random(SEED)
    for name in RANDOM:
        if "time" in name:
            yield (
                name,
                functools.partial(starter.killed_from_outside, name, seconds * rng.uniform(0.1, 0.95), eager=True),
            )


def work_through(todo: Sequence[tuple[str, Callable[[], list[int]]]]) -> int:
    """Do some of the jobs in a process of their own; gives its number."""
    child = os.fork()
    if child == 0:
        for name, job in todo:
            tell(name, job())
        os._exit(0)
    return child


def main() -> None:
    config, out = Config.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    starter = Starter(config, out)
    warm_up(config, out)
    tell("never", [starter.run("never")])
    tell("counted", [starter.run("counted", counting(out / "calls.txt"))])
    began = time.monotonic()
    tell("eager", [starter.run("eager", eager=True)])
    todo = list(jobs(starter, time.monotonic() - began, int((out / "calls.txt").read_text())))
    children = [work_through(todo[first::AT_ONCE]) for first in range(AT_ONCE)]
    sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))


if __name__ == "__main__":
    main()
