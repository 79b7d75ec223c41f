"""What a training run tells the outside: events for progress bars, and train.log.

The run calls an `Observer`; the command line draws bars with one. Nothing here prints.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from medunet.errors import MedunetError, OutputError

logger = logging.getLogger("medunet")


@dataclass(frozen=True)
class Step:
    """After one optimizer step: counters from 1, losses as numbers, times in seconds.

    `dice` is that of the last validation, per label; `wait_share` the part of the epoch spent waiting for patches;
    `resources` the last sample of the resource monitor.
    """

    iteration: int
    total: int
    epoch: int
    loss: float
    lr: float
    progress: float
    iterations_per_second: float
    wait_share: float
    remaining: float | None
    dice: dict[str, float | None]
    patches_per_second: float = 0.0
    resources: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class EpochSummary:
    """After one epoch; a line of metrics.jsonl. `dice` holds the validation's mean per label, if there was one;
    `resources` what the monitor saw; `rates` the learning rates that are not `lr`, by pattern of the layers."""

    epoch: int
    iteration: int
    loss: float
    lr: float
    seconds: float
    elapsed: float
    iterations_per_second: float
    wait_share: float
    validation_loss: float | None = None
    dice_mean: float | None = None
    dice: dict[str, float | None] = field(default_factory=dict)
    best: bool = False
    resources: dict[str, float | None] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """One line for people."""
        rates = "".join(f", {layers} {rate:.2e}" for layers, rate in self.rates.items())
        text = (
            f"epoch {self.epoch}: loss {self.loss:.4f}, lr {self.lr:.2e}{rates}, "
            f"{self.seconds:.1f} s ({self.iterations_per_second:.2f} it/s, {self.wait_share:.0%} waiting for data)"
        )
        if self.dice:
            each = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in self.dice.items())
            mean = "-" if self.dice_mean is None else f"{self.dice_mean:.4f}"
            text += f", validation Dice {mean} ({each}){', best so far' if self.best else ''}"
        return text


class Observer:
    """Receives events; every method may be overridden, none has to be."""

    def stage(self, name: str, done: int, total: int) -> None:
        """A counted stage before or after training: "check", "preprocess", "weigh", "validate"."""

    def step(self, step: Step) -> None:
        """After every optimizer step."""

    def epoch(self, summary: EpochSummary) -> None:
        """After every epoch."""


class _LogFile(logging.FileHandler):
    """A log file; where it cannot be written any more (disk full), the run's own files say so in one sentence."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Do not print a traceback."""

    def close(self) -> None:
        """Close, whether or not the last lines fit."""
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Copy the package's log into `path` while the context lasts, and what ended it if that was an error.

    Raises:
        OutputError: `path` cannot be written.
    """
    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", "Check the run folder.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = logger.level
    if not logger.isEnabledFor(logging.INFO):
        logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        text = str(error) if isinstance(error, MedunetError) else f"{type(error).__name__} {error}".strip()
        known = isinstance(error, MedunetError | KeyboardInterrupt)
        trace = None if known else (type(error), error, error.__traceback__)
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (), trace))
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
