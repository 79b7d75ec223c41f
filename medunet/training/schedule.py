"""Learning rate and end of training as functions of progress, 0 to 1.

Progress is the larger of steps done / steps planned and, with a budget, time spent / time allowed. So the whole
curve is always drawn, however fast the machine is, and drawn anew when its speed changes. Knows nothing of networks.
"""

from __future__ import annotations

import math
import time

from medunet.config.derived import seconds_of
from medunet.config.training import OneCycleConfig, PlateauConfig, ScheduleConfig, TrainConfig


def learning_rate(schedule: ScheduleConfig, base: float, progress: float, lowered: int = 0) -> float:
    """Learning rate at `progress`.

    Args:
        schedule: the `train.schedule:` section.
        base: the optimizer's lr.
        progress: 0 at the start, 1 at the end.
        lowered: how often a plateau was met; means something to the schedule `plateau` only.
    """
    if isinstance(schedule, OneCycleConfig):
        return _one_cycle(schedule, base, min(1.0, progress))
    if isinstance(schedule, PlateauConfig) and lowered:
        base = max(min(base, schedule.min_lr), base * schedule.factor**lowered)
    if progress < schedule.warmup:
        return base * progress / schedule.warmup
    rest = min(1.0, (progress - schedule.warmup) / (1.0 - schedule.warmup))
    if schedule.name == "poly":
        return float(base * (1.0 - rest) ** schedule.power)
    if schedule.name == "cosine":
        return base * 0.5 * (1.0 + math.cos(math.pi * rest))
    return base


def _one_cycle(schedule: OneCycleConfig, base: float, progress: float) -> float:
    """Up from start_factor to 1 while `progress` is below `rise`, then down to end_factor; both half a cosine."""
    if progress < schedule.rise:
        begin, end, share = schedule.start_factor, 1.0, progress / schedule.rise
    else:
        begin, end, share = 1.0, schedule.end_factor, (progress - schedule.rise) / (1.0 - schedule.rise)
    return base * (end + (begin - end) * 0.5 * (1.0 + math.cos(math.pi * share)))


class Clock:
    """Measures progress; survives a resume.

    Args:
        config: the `train:` section.
        elapsed: seconds spent before this process.

    Attributes:
        agreed: seconds by the clock of the first of several processes; None: there is one.
    """

    def __init__(self, config: TrainConfig, elapsed: float = 0.0) -> None:
        self.total = config.epochs * config.iterations_per_epoch
        self.budget = seconds_of(config.budget)
        self.agreed: float | None = None
        self._start = time.monotonic() - elapsed

    @property
    def own(self) -> float:
        """Seconds by the clock of this process."""
        return time.monotonic() - self._start

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier processes included."""
        return self.own if self.agreed is None else self.agreed

    def progress(self, iteration: int) -> float:
        """Share of the training that is done after `iteration` steps."""
        share = iteration / self.total
        return share if self.budget is None else max(share, self.elapsed / self.budget)

    def remaining(self, iteration: int) -> float | None:
        """Seconds left, by what was needed so far; None before the first step."""
        if iteration == 0:
            return None
        by_steps = self.elapsed * (self.total - iteration) / iteration
        return max(0.0, by_steps if self.budget is None else min(by_steps, self.budget - self.elapsed))
