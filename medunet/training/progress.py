"""Where a run stands: what a checkpoint says beside weights and random numbers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medunet.config.schema import Config
from medunet.config.training import PlateauConfig
from medunet.training.watch import Watch

logger = logging.getLogger("medunet")


@dataclass
class Progress:
    """Counters of a run; saved with every checkpoint.

    Attributes:
        iteration: optimizer steps done.
        elapsed: seconds of training.
        epoch: last epoch that is complete: its steps done, validated if due, logged.
        losses: of the steps since then, so that a resumed epoch has the same mean.
        best: of the metric that decides which epoch becomes the model.
        best_epoch: where it was reached.
        plateau: of the metric that lowers the learning rate.
        lowered: how often it did.
        stopping: of the metric that ends the training early.
        finished: whether `epoch` was the last one planned, or early stopping made it the last.
    """

    iteration: int = 0
    elapsed: float = 0.0
    epoch: int = 0
    losses: list[float] = field(default_factory=list)
    best: Watch = field(default_factory=Watch)
    best_epoch: int = 0
    plateau: Watch = field(default_factory=Watch)
    lowered: int = 0
    stopping: Watch = field(default_factory=Watch)
    finished: bool = False

    def judge(self, metrics: Mapping[str, float | None], epoch: int, config: Config) -> bool:
        """Take the metrics of an epoch in: True if it is the best so far; the rate may fall, the end may come nearer.

        Args:
            metrics: what was measured, by the names that a config watches.
            epoch: from 1.
            config: what is watched, and how patiently.
        """
        schedule, rule = config.train.schedule, config.train.early_stop
        if isinstance(schedule, PlateauConfig):
            self.plateau.note(schedule.metric, metrics, schedule.min_delta)
            if self.plateau.since > schedule.patience:
                self.lowered, self.plateau.since = self.lowered + 1, 0
                logger.info("%s has not got better for a while: the learning rate falls.", schedule.metric)
        if rule is not None:
            self.stopping.note(rule.metric, metrics, rule.min_delta)
        best = self.best.note(config.validation.metric, metrics)
        if best:
            self.best_epoch = epoch
        return best

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """Inverse of `dataclasses.asdict`."""
        watches = {key: Watch(**state[key]) for key in ("best", "plateau", "stopping")}
        return cls(**{**state, **watches})
