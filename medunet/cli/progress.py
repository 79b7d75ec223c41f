"""Progress bars on stderr; nothing at all where stderr is no terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medunet.training.observe import Observer, Step

_LONGEST_NAME = 12
_INDENT = 2
_RESOURCES = {
    "cpu_percent": "CPU {:.0f}%",
    "memory_GB": "RAM {:.1f} GB",
    "gpu_percent": "GPU {:.0f}%",
    "gpu_memory_GB": "VRAM {:.1f} GB",
    "disk_free_GB": "disk {:.0f} GB free",
}
"""How a sample of the resource monitor is shown; what comes first is left out last."""


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def _drawn(*columns: Any) -> Iterator[Any]:
    """A rich progress display; log lines appear above it instead of in its middle."""
    from rich.progress import Progress

    class Bars(Progress):
        """Bars, and some text below them."""

        below: Any = None

        def get_renderables(self) -> Iterable[Any]:
            yield from super().get_renderables()
            if self.below is not None:
                yield self.below

    console = _console()
    handlers = [each for each in logging.getLogger("medunet").handlers if type(each) is logging.StreamHandler]
    streams = [handler.stream for handler in handlers]
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        for handler in handlers:
            handler.setStream(sys.stderr)  # rich has put a proxy in its place
        try:
            yield bar
        finally:
            for handler, stream in zip(handlers, streams, strict=True):
                handler.setStream(stream)


@contextmanager
def counted(what: str, *, rate: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar that counts, and with `rate` says how many a second; yields `advance(done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with _drawn(*columns, TextColumn("{task.fields[pace]}")) as bar:
        task, start = bar.add_task(what, total=None, pace=""), time.monotonic()

        def advance(done: int, total: int) -> None:
            pace = pace_of(done, time.monotonic() - start, what) if rate else ""
            bar.update(task, completed=done, total=total, pace=pace)

        yield advance


def pace_of(done: int, seconds: float, what: str) -> str:
    """`3.1 cases/s`, or `12 s each` where it is less than one."""
    if not done:
        return ""
    return f"{done / seconds:.3g} {what}/s" if done >= seconds else f"{seconds / done:.3g} s each"


@contextmanager
def training_bar() -> Iterator[Observer]:
    """An observer that draws: a bar with loss, learning rate and time left; below it Dice, then speed and machine."""
    from rich.progress import BarColumn, TextColumn
    from rich.text import Text

    from medunet.training.observe import Observer

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[text]}"))
    with _drawn(*columns) as bar:
        task = bar.add_task("starting", total=None, text="")

        class Bar(Observer):
            def stage(self, name: str, done: int, total: int) -> None:
                bar.below = None
                bar.update(task, description=name, completed=done, total=total, text=f"{done}/{total} cases")

            def step(self, step: Step) -> None:
                bar.below = Text(below(step, bar.console.width), no_wrap=True, overflow="ellipsis")
                bar.update(
                    task, description=f"epoch {step.epoch}", completed=step.progress, total=1.0, text=beside(step)
                )

        yield Bar()


def beside(step: Step) -> str:
    """What stands right of the bar."""
    left = "" if step.remaining is None else f"  {_clock(step.remaining)} left"
    return f"{step.progress:4.0%}  loss {step.loss:.3f}  lr {step.lr:.1e}{left}"


def below(step: Step, width: int) -> str:
    """The lines below the bar: Dice (as many labels as fit); speed, share of time without data, machine.

    Args:
        step: the last one.
        width: columns of the terminal.
    """
    lines = [_dice(step.dice, width - _INDENT), _machine(step, width - _INDENT)]
    return "\n".join(" " * _INDENT + line for line in lines if line)


def _machine(step: Step, width: int) -> str:
    """What is known, as far as there is room; processor: 100 % per core, by this process and its children."""
    found = {name: value for name, value in step.resources.items() if value is not None}
    parts = [f"{step.patches_per_second:.3g} patches/s", f"wait {step.wait_share:.0%}"]
    for name, form in _RESOURCES.items():
        if name in found:
            parts.append(form.format(found[name]))
    while len("  ".join(parts)) > width and len(parts) > 1:
        parts.pop()
    return "  ".join(parts)


def _dice(dice: Mapping[str, float | None], width: int) -> str:
    """Mean and each label; the last ones are only counted where there is no room."""
    known = [value for value in dice.values() if value is not None]
    if not known:
        return ""
    text, left = f"Dice {sum(known) / len(known):.3f}", len(dice)
    for name, value in dice.items():
        short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}."
        more = f"{text}  {short} {'-' if value is None else f'{value:.2f}'}"
        if len(more) + (len(f"  +{left - 1}") if left > 1 else 0) > width:
            break
        text, left = more, left - 1
    return f"{text}  +{left}" if left and len(text) + 4 <= width else text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
