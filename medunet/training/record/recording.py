"""Everything that records a run, begun and ended together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from medunet.config.derived import seconds_of
from medunet.config.schema import Config
from medunet.errors import Interrupted
from medunet.io.check import CaseStatistics
from medunet.labels import LabelMap
from medunet.postprocess import least_probabilities
from medunet.training.record.curves import Curves
from medunet.training.record.monitor import Monitor
from medunet.training.record.passport import write_passport
from medunet.training.record.runlog import Recorder, RunLog
from medunet.training.record.slices import Slices
from medunet.training.record.tensorboard import TensorBoard, is_there
from medunet.training.record.tracking import open_tracking
from medunet.training.validate import Validator


@contextmanager
def recording(
    config: Config, folder: Path, device: torch.device, statistics: Sequence[CaseStatistics]
) -> Iterator[RunLog]:
    """Record while the context lasts; how it ends is told to MLflow.

    Args:
        config: of the training.
        folder: of the run.
        device: of the training.
        statistics: of all cases, for run.json.

    Raises:
        TrainingError: MLflow cannot be used.
        OutputError: run.json cannot be written.
    """
    passport = write_passport(folder, config, device, statistics)
    names = [label.name for label in LabelMap.from_mapping(config.labels).foreground]
    tracking = open_tracking(config, folder, passport)
    recorders: list[Recorder] = [Curves(folder, names)]
    if _has_board(config):
        recorders.append(TensorBoard(folder))
    if tracking is not None:
        recorders.append(tracking)
    status = "FAILED"
    with ExitStack() as stack:
        seconds = seconds_of(config.logging.monitor)
        monitor = stack.enter_context(Monitor(folder, seconds, device)) if seconds else None
        log = RunLog(folder, names, recorders, monitor)
        try:
            yield log
            status = "FINISHED"
        except (Interrupted, KeyboardInterrupt):
            status = "KILLED"
            raise
        finally:
            log.close()
            if tracking is not None:
                tracking.finish(status)


def watch(log: RunLog, validator: Validator, config: Config) -> None:
    """Let the log have slices of the first held-out cases, if anybody looks at them.

    Args:
        log: of the run.
        validator: tells what the network says about the cases.
        config: of the training.
    """
    images = config.logging.images
    if images is None or not (_has_board(config) or config.logging.mlflow):
        return
    least = least_probabilities(config.postprocess, validator.labels)
    log.slices = Slices(validator.cases[: images.cases], validator.labels, images.every, least)
    validator.seen = log.slices.see


def _has_board(config: Config) -> bool:
    """Whether TensorBoard is asked for, or there and not refused."""
    wish = config.logging.tensorboard
    return is_there() if wish == "auto" else wish
