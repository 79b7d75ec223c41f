"""Rules for the `train:` section, and for the metrics that several sections watch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from medunet.config.derived import seconds_of
from medunet.config.document import KeyPath, as_written
from medunet.config.finding import Finding
from medunet.config.network_options import EncoderOptions
from medunet.config.schema import Config
from medunet.config.training import PlateauConfig, SgdConfig
from medunet.labels import BACKGROUND, IGNORE


def _durations(config: Config) -> Iterator[Finding]:
    for path, value in (
        (("train", "budget"), config.train.budget),
        (("train", "save_every"), config.train.save_every),
        (("logging", "monitor"), config.logging.monitor),
    ):
        if seconds_of(value) == 0:
            yield Finding((path,), "must be more than no time.", as_written(value), "Write null for no limit.")


def _nesterov(config: Config) -> Iterator[Finding]:
    optimizer = config.train.optimizer
    if isinstance(optimizer, SgdConfig) and optimizer.nesterov and optimizer.momentum == 0:
        yield Finding(
            (("train", "optimizer", "nesterov"), ("train", "optimizer", "momentum")),
            "needs a momentum greater than 0.",
            "true",
            "Set nesterov: false.",
        )


def _accumulate(config: Config) -> Iterator[Finding]:
    train = config.train
    if train.accumulate > train.batch_size:
        yield Finding(
            (("train", "accumulate"), ("train", "batch_size")),
            f"cannot be more than train.batch_size, which is {train.batch_size}: a part holds one patch or more.",
            str(train.accumulate),
        )


def _metrics(config: Config) -> Iterator[Finding]:
    names = [name for name in config.labels if name not in (BACKGROUND, IGNORE)]
    known = ["dice", "validation_loss", "loss", *(f"dice/{name}" for name in names)]
    watched: list[tuple[KeyPath, str]] = [(("validate", "metric"), config.validation.metric)]
    if isinstance(config.train.schedule, PlateauConfig):
        watched.append((("train", "schedule", "metric"), config.train.schedule.metric))
    if config.train.early_stop is not None:
        watched.append((("train", "early_stop", "metric"), config.train.early_stop.metric))
    for key, metric in watched:
        if metric not in known:
            near = difflib.get_close_matches(metric, known, 1)
            yield Finding(
                (key,),
                f"must be one of {', '.join(known)}.",
                as_written(metric),
                f'Did you mean "{near[0]}"?' if near else "",
            )


def _start(config: Config) -> Iterator[Finding]:
    network = config.network
    if config.train.start_from and isinstance(network, EncoderOptions) and network.encoder_weights:
        yield Finding(
            (("train", "start_from"), ("network", "encoder_weights")),
            "cannot stand beside network.encoder_weights: both would give the encoder its weights.",
            as_written(config.train.start_from),
            "Set one of them to null.",
        )


TRAINING_RULES: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _durations,
    _nesterov,
    _accumulate,
    _metrics,
    _start,
)
