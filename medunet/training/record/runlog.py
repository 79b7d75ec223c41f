"""metrics.jsonl and metrics.csv of a run folder, and the recorders that are told the same: curves, TensorBoard, MLflow.

A recorder never ends a training: what it raises becomes one warning, and the run goes on without it.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medunet.engines.probe import SUMMARY_NAMES
from medunet.training.observe import EpochSummary
from medunet.training.record.lines import Lines
from medunet.training.record.monitor import Monitor

if TYPE_CHECKING:
    from PIL.Image import Image

    from medunet.training.record.slices import Slices

logger = logging.getLogger("medunet")

Row = Mapping[str, Any]
"""A line of metrics.jsonl."""

METRICS_FILE = "metrics.jsonl"
TABLE_FILE = "metrics.csv"


class Recorder:
    """Is told what happens; every method may be overridden, none has to be.

    Attributes:
        name: for messages.
    """

    name = "A recorder"

    def resume(self, rows: Sequence[Row]) -> None:
        """Before the training, fresh or resumed: the epochs that are done."""

    def epoch(self, rows: Sequence[Row]) -> None:
        """After every epoch, whose row is the last one."""

    def pictures(self, epoch: int, pictures: Mapping[str, Image]) -> None:
        """Slices of held-out cases after a validation, by case id."""

    def close(self) -> None:
        """After the training; may come more than once."""


class RunLog:
    """Records epochs.

    Args:
        folder: of the run.
        labels: names of the structures, for the columns of metrics.csv.
        recorders: are told the same.
        monitor: adds what the machine did during an epoch; None: nothing.
    """

    def __init__(
        self,
        folder: Path,
        labels: Sequence[str] = (),
        recorders: Sequence[Recorder] = (),
        monitor: Monitor | None = None,
    ) -> None:
        self.path = folder / METRICS_FILE
        self.monitor = monitor
        self.slices: Slices | None = None
        self._labels = labels
        self._lines = Lines(self.path)
        self._table = Lines(folder / TABLE_FILE, _csv_line(_columns(labels)))
        self._recorders = list(recorders)
        self._rows: list[Row] = []

    def keep_until(self, epoch: int) -> None:
        """Drop what was recorded after `epoch`, and a line that was cut off: a resumed run writes them again."""
        self._rows = [row for row in read_rows(self.path) if row["epoch"] <= epoch]
        if self.path.is_file():
            self._lines.replace(map(json.dumps, self._rows))
            self._table.replace(self._cells(row) for row in self._rows)
        if self.monitor is not None:
            self.monitor.epoch()  # what was before the training belongs to no epoch
        self._tell(lambda recorder: recorder.resume(self._rows))

    def resources(self, wait_share: float) -> dict[str, float | None]:
        """The last sample of the monitor, which is told how much of the epoch went into waiting for data."""
        if self.monitor is None:
            return {}
        self.monitor.wait_share = wait_share
        return self.monitor.latest

    def write(self, summary: EpochSummary) -> EpochSummary:
        """Record an epoch; gives the summary with what the monitor adds."""
        if self.monitor is not None:
            summary = replace(summary, resources=self.monitor.epoch())
        row = _finite(asdict(summary))
        self._rows.append(row)
        self._lines.add(json.dumps(row, allow_nan=False))
        self._table.add(self._cells(row))
        self._tell(lambda recorder: recorder.epoch(self._rows))
        self._draw(summary)
        return summary

    def close(self) -> None:
        """Flush and close; may come more than once."""
        self._lines.flush()
        self._table.flush()
        self._tell(lambda recorder: recorder.close())

    def _draw(self, summary: EpochSummary) -> None:
        """Slices of held-out cases, if this was a validation that calls for them."""
        validations = sum(bool(row["dice"]) for row in self._rows)
        if self.slices is None or not summary.dice or not self.slices.wanted(validations):
            return
        try:
            pictures = self.slices.draw()
        except Exception as error:  # a picture is worth no training
            logger.warning("Slices cannot be drawn any more: %s. The training goes on.", error)
            self.slices = None
            return
        self._tell(lambda recorder: recorder.pictures(summary.epoch, pictures))

    def _tell(self, call: Callable[[Recorder], None]) -> None:
        for recorder in self._recorders[:]:
            try:
                call(recorder)
            except Exception as error:  # whatever a library raises: a record is worth no training
                reason = f"{type(error).__name__}: {error}"
                logger.warning("%s cannot go on (%s). The training does.", recorder.name, reason[:300])
                self._recorders.remove(recorder)

    def _cells(self, row: Row) -> str:
        flat = {key: value for key, value in row.items() if not isinstance(value, dict)}
        flat |= {f"dice/{name}": value for name, value in (row.get("dice") or {}).items()}
        flat |= {f"resources/{name}": value for name, value in (row.get("resources") or {}).items()}
        return _csv_line(["" if flat.get(name) is None else flat[name] for name in _columns(self._labels)])


def read_rows(path: Path) -> list[Row]:
    """What metrics.jsonl says, one row per epoch in their order; damaged lines are left out, as is a missing file."""
    rows = {row["epoch"]: row for row in map(_parsed, Lines(path).read()) if row is not None}
    return [rows[epoch] for epoch in sorted(rows)]


class NoLog(RunLog):
    """Records nothing: for processes beside the one that does."""

    def __init__(self) -> None:
        super().__init__(Path())

    def keep_until(self, epoch: int) -> None:
        """Nothing to drop."""

    def write(self, summary: EpochSummary) -> EpochSummary:
        """The summary as it is."""
        return summary


def _columns(labels: Sequence[str]) -> list[str]:
    """Of metrics.csv: the same ones in every line, and after a resume."""
    plain = [field.name for field in fields(EpochSummary) if field.name not in ("dice", "resources", "rates")]
    return [*plain, *(f"dice/{name}" for name in labels), *(f"resources/{name}" for name in SUMMARY_NAMES)]


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None where it is damaged."""
    try:
        row = json.loads(line)
        nested = {name: row.get(name) or {} for name in ("dice", "resources")}
        return {**row, **nested} if isinstance(row["epoch"], int) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
