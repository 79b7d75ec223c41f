"""Watched metrics: which epoch is best, when the learning rate falls, when a training ends early.

One counter for all three, whose whole state is two numbers in the checkpoint. torch's `ReduceLROnPlateau` counts alike
(tested) but holds an optimizer; ignite's `EarlyStopping` takes a first score of NaN for the best for ever. Here a
metric that was not measured, or is not a number, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LOSSES = ("loss", "validation_loss")
"""Metrics that shall fall; the others (Dice) shall rise."""


@dataclass
class Watch:
    """The best value of a metric so far, and how often it was not surpassed since.

    Attributes:
        best: None before the first measurement.
        since: measurements since then.
    """

    best: float | None = None
    since: int = 0

    def note(self, metric: str, metrics: Mapping[str, float | None], min_delta: float = 0.0) -> bool:
        """Take a measurement in; True if it is better than the best by more than `min_delta`.

        Args:
            metric: a key of `metrics`; whether it shall fall or rise follows from its name.
            metrics: what was measured.
            min_delta: a smaller change is none.
        """
        value = metrics.get(metric)
        if value is None or not math.isfinite(value):
            return False
        gain = 0.0 if self.best is None else (self.best - value if metric in LOSSES else value - self.best)
        if self.best is None or gain > min_delta:
            self.best, self.since = value, 0
            return True
        self.since += 1
        return False
