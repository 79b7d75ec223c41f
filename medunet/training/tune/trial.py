"""One trial: an ordinary training whose validations are told to the study, which may end it early."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medunet.config.schema import Config
from medunet.errors import DatasetError, Interrupted, MedunetError, OutputError, UsageError
from medunet.training.folder import CONFIG_FILE
from medunet.training.material import Examined
from medunet.training.observe import EpochSummary, Observer, Step
from medunet.training.run import TrainingResult, train
from medunet.training.tune.book import OpenTrial

logger = logging.getLogger("medunet")

_COARSE = 5  # percent: trainings that a budget ends validate at moments of their own


class Pruned(Interrupted):
    """A trial was ended because others were better."""


@dataclass(frozen=True)
class Terms:
    """What all trials of a study have in common.

    Attributes:
        folder: of the study.
        metric: dice, dice/LABEL or validation_loss.
        device: auto, cpu, cuda, cuda:N or mps.
        examined: what the checks saw in the data.
        observer: receives the events of all trainings.
    """

    folder: Path
    metric: str
    device: str
    examined: Examined
    observer: Observer


class _Reporter(Observer):
    """Passes events on, and tells the study of each validation.

    Args:
        inner: receives the same events.
        metric: see `Terms`.
        report: takes a value and the percent of the training; True: end it.
        grain: percent that are told apart.
    """

    def __init__(self, inner: Observer, metric: str, report: Callable[[float, int], bool], grain: int) -> None:
        self._inner = inner
        self._metric = metric
        self._report = report
        self._grain = grain
        self._share = 0.0

    def stage(self, name: str, done: int, total: int) -> None:
        """See `Observer`."""
        self._inner.stage(name, done, total)

    def step(self, step: Step) -> None:
        """See `Observer`."""
        self._share = step.progress
        self._inner.step(step)

    def epoch(self, summary: EpochSummary) -> None:
        """Tell the study; raises `Pruned` if it wants no more."""
        self._inner.epoch(summary)
        value = self._value(summary)
        if value is None or self._share <= 0:
            return
        percent = int(100 * self._share + 1e-6) // self._grain * self._grain
        if self._report(value, percent) and self._share < 1.0:
            raise Pruned(
                f"Ended after epoch {summary.epoch}, at {self._share:.0%} of the training: its {self._metric} is "
                f"worse than half of the other trials had there."
            )

    def _value(self, summary: EpochSummary) -> float | None:
        if self._metric == "validation_loss":
            return summary.validation_loss
        if self._metric == "dice":
            return summary.dice_mean
        return summary.dice.get(self._metric.removeprefix("dice/"))


def run_trial(trial: OpenTrial, config: Callable[[], Config], terms: Terms) -> None:
    """Train, and write down what became of it.

    Args:
        trial: of the study's book.
        config: makes its configuration; raises ConfigError where its values do not go together.
        terms: of the study.

    Raises:
        Interrupted: a signal came; the trial goes on when the study does.
        DatasetError, OutputError, UsageError: what every other trial would meet with, too.
    """
    try:
        value = _trained(trial, config(), terms)
    except Pruned as end:
        trial.finish("pruned", note=end.message)
    except (Interrupted, KeyboardInterrupt, DatasetError, OutputError):
        trial.leave()
        raise
    except UsageError as error:
        if type(error) is UsageError:
            trial.leave()
            raise
        trial.finish("failed", note=str(error))  # values that do not go together
    except MedunetError as error:
        trial.finish("failed", note=str(error))
    except MemoryError:
        trial.finish("failed", note="The computer ran out of memory.")
    except Exception as error:  # whatever is wrong with one trial, the others are worth their scores
        logger.debug("%s", trial.folder, exc_info=error)
        trial.finish("failed", note=f"{type(error).__name__}: {error}")
    else:
        if value is None:
            trial.finish("failed", note=f"No held-out case says anything about {terms.metric}.")
        else:
            trial.finish("done", value)
    gc.collect()  # the network and its trainer refer to each other


def _trained(trial: OpenTrial, config: Config, terms: Terms) -> float | None:
    """The metric that a training reached."""
    folder = terms.folder / trial.folder
    grain = 1 if config.train.budget is None else _COARSE
    result = train(
        _own(config, terms.folder, trial.folder),
        folder,
        resume=(folder / CONFIG_FILE).is_file(),
        device=terms.device,
        observer=_Reporter(terms.observer, terms.metric, trial.report, grain),
        examined=terms.examined,
    )
    return _reached(result, trial, terms.metric)


def _reached(result: TrainingResult, trial: OpenTrial, metric: str) -> float | None:
    if metric == "validation_loss":  # that of the best validation: it is not computed again at the end
        return trial.best_reported()
    if result.validation is None:
        return None
    return result.validation.metrics().get(metric)


def _own(config: Config, study: Path, name: str) -> Config:
    """The configuration of one trial: the cache is shared, and MLflow tells the trials of a study apart."""
    data = config.data.model_copy(update={"cache": config.data.cache or str((study / "cache").absolute())})
    mlflow = config.logging.mlflow
    if mlflow is not None:
        mlflow = mlflow.model_copy(update={"run": f"{mlflow.run or study.absolute().name}/{name}"})
    return config.model_copy(update={"data": data, "logging": config.logging.model_copy(update={"mlflow": mlflow})})
