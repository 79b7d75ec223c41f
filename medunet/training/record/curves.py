"""curves.png: loss, Dice and learning rate over the epochs, for whoever has no TensorBoard.

Drawn from the rows of metrics.jsonl, so that a resumed run has the whole story. matplotlib's objects without pyplot:
nothing of it is shared with the caller.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.atomic import atomic_file
from medunet.training.record.runlog import Recorder, Row

CURVES_FILE = "curves.png"

_COST_SHARE = 0.02
"""Drawing may take this share of the time of a training; epochs that are shorter are drawn together."""
_MOST_NAMED = 12
_MARKED = 60


class Curves(Recorder):
    """Draws after each epoch, but not so often that the training notices.

    Args:
        folder: of the run.
        labels: names of the structures.
    """

    name = CURVES_FILE

    def __init__(self, folder: Path, labels: Sequence[str]) -> None:
        self._path = folder / CURVES_FILE
        self._labels = labels
        self._next = 0.0
        self._undrawn: Sequence[Row] = ()

    def epoch(self, rows: Sequence[Row]) -> None:
        """Draw, or remember to."""
        self._undrawn = rows
        if time.monotonic() >= self._next:
            self._draw()

    def close(self) -> None:
        """Draw what is not drawn yet."""
        if self._undrawn:
            self._draw()

    def _draw(self) -> None:
        import matplotlib.figure  # noqa: F401 - loading it once counts for nothing

        start = time.monotonic()
        draw_curves(self._path, self._undrawn, self._labels)
        self._undrawn = ()
        end = time.monotonic()
        self._next = end + (end - start) / _COST_SHARE


def draw_curves(path: Path, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Write a picture of 900 x 1050 pixels.

    Args:
        path: of the PNG.
        rows: of metrics.jsonl.
        labels: names of the structures.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 10.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    loss, dice, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 4, 2))
    _line(loss, rows, "loss", "training", color="tab:blue")
    _line(loss, rows, "validation_loss", "validation", color="tab:orange")
    loss.set_ylabel("loss")
    _dice(dice, rows, labels)
    _line(rate, rows, "lr", None, color="tab:gray")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("epoch")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.set_ylim(bottom=0)
    for axes in (loss, dice, rate):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize="small", frameon=False)
    with warnings.catch_warnings(), atomic_file(path) as part:
        warnings.simplefilter("ignore")  # of names in a script that the font does not have
        canvas.print_png(str(part))


def _dice(axes: Any, rows: Sequence[Row], labels: Sequence[str]) -> None:
    """Each structure, the mean above them, and the best epoch."""
    flat = [{**row, **{f"dice/{name}": value for name, value in row["dice"].items()}} for row in rows]
    for name in labels:
        style = {"label": name} if len(labels) <= _MOST_NAMED else {"color": "tab:gray"}
        _line(axes, flat, f"dice/{name}", style.pop("label", None), linewidth=1.0, alpha=0.8, **style)
    _line(axes, flat, "dice_mean", "mean", color="black", linewidth=2.0)
    best = [row for row in rows if row["best"]]
    if best:
        axes.axvline(best[-1]["epoch"], color="tab:green", linestyle=":", label=f"best: epoch {best[-1]['epoch']}")
    axes.set_ylabel("validation Dice")


def _line(axes: Any, rows: Sequence[Row], key: str, label: str | None, **style: Any) -> None:
    """A curve through the epochs that have a value; few points are marked."""
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        marker = "." if len(points) <= _MARKED else None
        axes.plot(*zip(*points, strict=True), label=label, marker=marker, **style)
