"""MLflow is told what a run does, when it can be reached; a training never waits or ends for it.

A server that is away costs one warning. What it misses is sent when it is back, or when the run is resumed: the id of
the MLflow run lies in the run folder, and the numbers are taken from the lines of metrics.jsonl.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medunet.config.schema import Config, MlflowConfig
from medunet.errors import TrainingError
from medunet.training.record.mlflow_run import MlflowRun, client_of, first_line, without_password
from medunet.training.record.runlog import METRICS_FILE, Recorder, Row, read_rows

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger("medunet")

_PAUSE = 60.0
"""Seconds until what failed is tried again."""
_COST_SHARE = 0.05
"""Attempts that fail may take this share of the time."""

_FIRST_FILES = ("config.yaml", "run.json", "splits.json", "dataset.json")
_LAST_FILES = (
    *("metrics.csv", "metrics.jsonl", "curves.png", "resources.jsonl", "train.log"),
    "validation/per_case.csv",
)


class _Attempts:
    """Calls that may fail: the first failure of a row is a warning, and the next attempt is not made at once.

    Args:
        fails: what is told when one fails.
        works: what is told when one works again.
    """

    def __init__(self, fails: str, works: str) -> None:
        self.failed = False
        self._fails, self._works = fails, works
        self._next = 0.0

    def make(self, call: Callable[[], Any], *, last: bool = False) -> bool:
        """Whether the call was made and worked; `last`: it is made in any case."""
        start = time.monotonic()
        if self.failed and start < self._next and not last:
            return False
        try:
            call()
        except Exception as error:  # requests, SQL, MLflow's own: whatever it is, the training goes on
            end = time.monotonic()
            if not self.failed:
                logger.warning("%s: %s. The training goes on.", self._fails, first_line(error))
            self.failed, self._next = True, end + max(_PAUSE, (end - start) / _COST_SHARE)
            return False
        if self.failed:
            logger.info("%s", self._works)
        self.failed = False
        return True


class Tracking(Recorder):
    """One MLflow run.

    Args:
        config: of the training.
        options: its section `logging.mlflow`.
        folder: of the run; its name is that of the MLflow run unless the options say otherwise.
        passport: this start's entry of run.json.
    """

    name = "MLflow"

    def __init__(self, config: Config, options: MlflowConfig, folder: Path, passport: Mapping[str, Any]) -> None:
        self._options = options
        self._folder = folder
        self._begin = partial(MlflowRun.begin, config, options, folder, passport)
        self._run: MlflowRun | None = None
        self._rows: Sequence[Row] = ()
        self._sent = 0
        self._numbers = _Attempts("MLflow cannot be reached", "MLflow is back.")
        self._files = _Attempts("MLflow cannot store files", "MLflow stores files again.")

    def resume(self, rows: Sequence[Row]) -> None:
        """Begin, or go on; epochs of an earlier part of the run that MLflow has missed are sent."""
        self._rows = rows
        self._numbers.make(self._send)

    def epoch(self, rows: Sequence[Row]) -> None:
        """Send the numbers of an epoch; those of one that was sent before the run was resumed are left as they are."""
        self.resume(rows)

    def pictures(self, epoch: int, pictures: Mapping[str, Image]) -> None:
        """Store slices as PNG files; left out while the server is away."""
        if self._run is not None and not self._numbers.failed:
            self._files.make(partial(self._run.show, epoch, pictures))

    def finish(self, status: str) -> None:
        """Send what is left, the files and how the run ended: FINISHED, KILLED or FAILED."""
        self._rows = self._rows or read_rows(self._folder / METRICS_FILE)
        model = ("model",) if self._options.model and status == "FINISHED" else ()
        sent = self._numbers.make(self._send, last=True)
        if sent and self._run is not None:
            sent = self._files.make(partial(self._store, (*_FIRST_FILES, *_LAST_FILES, *model)), last=True)
            sent = self._numbers.make(partial(self._run.end, status), last=True) and sent
        if not sent:
            logger.info("MLflow has not got everything of this run; %s has.", self._folder)

    def _send(self) -> None:
        """Send the epochs that are not sent yet."""
        run = self._connected()
        while left := [row for row in self._rows if row["epoch"] > self._sent]:
            number = run.send(left)
            self._sent = left[number - 1]["epoch"]

    def _connected(self) -> MlflowRun:
        """The MLflow run, begun where it is not yet."""
        if self._run is None:
            run = self._begin()
            self._sent = run.last_epoch()
            self._run = run
            self._files.make(partial(self._store, _FIRST_FILES))
        return self._run

    def _store(self, names: Sequence[str]) -> None:
        if self._run is not None:
            self._run.store(self._folder, names)


def check_tracking(config: Config) -> None:
    """Make sure, before anything is computed, that MLflow can be used as the config says; no server is asked.

    Raises:
        TrainingError: MLflow is not installed, or `logging.mlflow.tracking_uri` is none.
    """
    options = config.logging.mlflow
    if options is None:
        return
    try:
        client_of(options)
    except TrainingError:
        raise
    except Exception as error:  # MLflow's, SQL's, a folder that cannot be written: an address that is none
        raise TrainingError(
            f"MLflow at {without_password(options.tracking_uri)} cannot be used: {first_line(error)}",
            "Correct logging.mlflow.tracking_uri, or set logging.mlflow to null.",
        ) from error


def open_tracking(config: Config, folder: Path, passport: Mapping[str, Any]) -> Tracking | None:
    """Begin an MLflow run, or go on in that of the run folder; None where the config asks for none.

    Args:
        config: of the training.
        folder: of the run.
        passport: this start's entry of run.json.
    """
    options = config.logging.mlflow
    if options is None:
        return None
    tracking = Tracking(config, options, folder, passport)
    tracking.resume(())
    return tracking
