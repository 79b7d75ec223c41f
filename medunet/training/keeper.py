"""Which checkpoints a run keeps, and what happens when one cannot be written or read.

`last.pt` is the state after the last epoch or the last few minutes, `previous.pt` the one before it, `best.pt` the
weights of the best epoch. Knows nothing of networks.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from medunet.errors import OutputError, TrainingError
from medunet.training.checkpoint import load_checkpoint, save_checkpoint

logger = logging.getLogger("medunet")

FOLDER = "checkpoints"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"


class Keeper:
    """The checkpoints of a run folder.

    Args:
        run: the run folder.
        every: seconds after which `due` asks for a checkpoint; None: never.
    """

    def __init__(self, run: Path, every: float | None = None) -> None:
        self.folder = run / FOLDER
        self.every = every
        self._written = time.monotonic()
        self._damaged = False

    @property
    def started(self) -> bool:
        """Whether there is a state to go on from."""
        return any((self.folder / name).is_file() for name in (LAST, PREVIOUS))

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is older than `every`."""
        return self.every is not None and time.monotonic() - self._written >= self.every

    def save_best(self, state: dict[str, Any]) -> None:
        """Write best.pt; the old one stays until the new one is whole.

        It comes before last.pt: a run killed between the two repeats the epoch and writes both again. The other way
        round last.pt would know of a best epoch whose weights were never written.

        Raises:
            OutputError: it cannot be written; what was there before is still there.
        """
        save_checkpoint(self.folder / BEST, state)

    def save(self, state: dict[str, Any]) -> None:
        """Write last.pt; the old one becomes previous.pt when the new one is whole.

        Raises:
            OutputError: it cannot be written; what was there before is still there.
        """
        self._written = time.monotonic()  # also where it fails: the next attempt comes after the usual time
        save_checkpoint(self.folder / LAST, state, before=self._make_room)
        self._damaged = False

    def _make_room(self) -> None:
        """What was the last checkpoint becomes the previous one, unless it is damaged: then that one is better."""
        last = self.folder / LAST
        if last.is_file() and not self._damaged:
            os.replace(last, self.folder / PREVIOUS)

    def load(self) -> dict[str, Any] | None:
        """The state of last.pt, or of previous.pt where that is damaged or gone; None where neither exists.

        Raises:
            TrainingError: none of those that exist can be read.
        """
        failures: list[TrainingError] = []
        for name in (LAST, PREVIOUS):
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                state = load_checkpoint(path, torch.device("cpu"))
            except TrainingError as error:
                logger.warning("%s", error.message)
                failures.append(error)
                self._damaged = self._damaged or name == LAST
                continue
            if name == PREVIOUS:
                logger.warning("Going on from the checkpoint before it, %s.", path)
            return state
        if failures:
            raise failures[0]
        return None

    def load_best(self, device: torch.device) -> dict[str, Any] | None:
        """The state of best.pt; None without one, or where it is damaged, which a warning says."""
        path = self.folder / BEST
        if not path.is_file():
            return None
        try:
            return load_checkpoint(path, device)
        except TrainingError as error:
            logger.warning("%s The weights of the last epoch take its place.", error.message)
            return None

    def tidy(self) -> None:
        """Remove what a run that was killed while writing left behind."""
        for folder in (self.folder, self.folder.parent, self.folder.parent / "validation"):
            for part in folder.glob(".*.part-*"):
                if part.is_dir():
                    shutil.rmtree(part, ignore_errors=True)
                else:
                    part.unlink(missing_ok=True)


def not_written(error: OutputError) -> None:
    """Tell that a checkpoint could not be written and that the training goes on."""
    logger.warning("%s The training goes on; the next checkpoint is tried after the next epoch.", error.message)
