"""Progress bars on stderr; nothing at all where stderr is no terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medunet.training.observe import Observer


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _drawn(*columns: Any) -> Iterator[Any]:
    """A rich progress display; log lines appear above it instead of in its middle."""
    from rich.progress import Progress

    console = _console()
    handlers = [each for each in logging.getLogger("medunet").handlers if type(each) is logging.StreamHandler]
    streams = [handler.stream for handler in handlers]
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        for handler in handlers:
            handler.setStream(sys.stderr)  # rich has put a proxy in its place
        try:
            yield bar
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream)


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts; yields `advance(done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    with _drawn(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def training_bar() -> Iterator[Observer]:
    """An observer that draws: stages first, then loss, Dice, speed and the time that is left."""
    from rich.progress import BarColumn, TextColumn

    from medunet.training.observe import Observer, Step

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"))
    with _drawn(*columns) as bar:
        task = bar.add_task("starting", total=None, text="")

        class Bar(Observer):
            def stage(self, name: str, done: int, total: int) -> None:
                bar.update(task, description=name, completed=done, total=total, text=f"{done}/{total} cases")

            def step(self, step: Step) -> None:
                dice = "" if step.dice is None else f"  Dice {step.dice:.3f}"
                left = "" if step.remaining is None else f"  {_clock(step.remaining)} left"
                text = f"{step.progress:4.0%}  loss {step.loss:.3f}{dice}  {step.iterations_per_second:.2f} it/s{left}"
                bar.update(task, description=f"epoch {step.epoch}", completed=step.progress, total=1.0, text=text)

        yield Bar()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
