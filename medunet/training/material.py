"""What a run trains on: cases that are listed, checked, preprocessed and in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from medunet.atomic import make_folder
from medunet.config.schema import Config, IntensityImageNet
from medunet.errors import DatasetError
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases
from medunet.io.folds import split
from medunet.io.manifest import Manifest, survey, unusable
from medunet.labels import LabelMap
from medunet.model.seen import Seen, seen_in
from medunet.training.cache import CachedCase, lacking, prepare_cases, prepare_weights
from medunet.training.observe import Observer
from medunet.training.ranks import Ranks
from medunet.training.room import check_room
from medunet.transforms.border_weights import weight_term

Examined = tuple[Manifest, list[CaseStatistics]]
"""The cases of a data set, and what the checks saw in each."""


def examine(config: Config, observer: Observer) -> Examined:
    """List the cases and read each once.

    Raises:
        DatasetError: with every problem of the listing and of the files.
    """
    root, channels = Path(config.data.root), len(config.data.modality)
    manifest, problems = survey(root, config.data.format, channels=channels, options=config.data)
    manifest = manifest.by_rules(config.data.series)
    if not problems:
        split(manifest.cases, config.data.fold, config.data.folds)  # a fold that does not exist is told at once
    there = [case for case in manifest.cases if all(path.exists() for path in case.files)]
    statistics: list[CaseStatistics] = []
    try:
        statistics = check_cases(
            there,
            LabelMap.from_mapping(config.labels),
            channels=channels,
            annotated=config.data.annotated,
            progress=lambda done, total: observer.stage("check", done, total),
        )
    except DatasetError as error:
        problems += error.problems
    if problems:
        raise unusable(root, manifest, list(dict.fromkeys(problems)))
    _check_rank(statistics, config)
    return manifest, statistics


def _check_rank(statistics: Sequence[CaseStatistics], config: Config) -> None:
    """A 3D network needs volumes; a 2D network takes both, volumes slice by slice. All cases have one rank."""
    rank = len(statistics[0].shape)
    if rank < config.network.dims:
        raise DatasetError(
            f"network.dims is {config.network.dims}, but the images have {rank} axes.", f"Set network.dims to {rank}."
        )
    if rank == 2 and config.preprocess.neighbours:
        raise DatasetError(
            f"preprocess.neighbours is {config.preprocess.neighbours}, but pictures have no slices beside them.",
            "Set it to 0.",
        )


def odd_scales(statistics: Sequence[CaseStatistics], config: Config) -> Iterator[str]:
    """A sentence about each channel whose values are not those that `scale` of its intensity rule is for."""
    rules, names = config.preprocess.intensity, config.data.modality
    for channel, (name, rule) in enumerate(zip(names, rules * (len(names) if len(rules) == 1 else 1), strict=True)):
        if not isinstance(rule, IntensityImageNet):
            continue
        brightest = max(entry.maximum[channel] for entry in statistics)
        if brightest > rule.scale or (brightest <= 1 < rule.scale):
            yield (
                f"The brightest value of {name} is {brightest:g}, but white is {rule.scale:g} by "
                "preprocess.intensity.scale: 255 is for pictures of 8 bits per channel, 65535 for 16, 1 for values "
                "up to 1."
            )


def preprocessed(
    cases: Sequence[Case],
    statistics: Sequence[CaseStatistics],
    config: Config,
    run: Path,
    observer: Observer,
    ranks: Ranks,
) -> Sequence[CachedCase]:
    """Preprocess the cases that are not in the cache yet, with weight maps if the loss needs them.

    Args:
        cases: labelled.
        statistics: what the checks saw in each.
        config: the whole configuration.
        run: run folder, which holds the cache if the config names none.
        observer: told how far it is.
        ranks: the processes that share the work.

    Raises:
        DataError: a case cannot be read.
        OutputError: the disk has not enough room, or cannot be written.
    """
    cache = Path(config.data.cache) if config.data.cache else run / "cache"
    ranks.lead(lambda: _check_room(cases, statistics, config, cache))
    cached = ranks.prepared(cases, partial(_prepare, config, cache, observer))
    return ranks.prepared(cached, partial(_weigh, config, observer))


def _check_room(cases: Sequence[Case], statistics: Sequence[CaseStatistics], config: Config, cache: Path) -> None:
    labels = LabelMap.from_mapping(config.labels)
    folder, channels = make_folder(cache), len(config.data.modality)
    new = set(lacking(cases, folder, config.preprocess, labels, channels, flat=config.network.dims == 2))
    check_room([entry for entry in statistics if entry.id in new], config, folder)


def _prepare(config: Config, cache: Path, observer: Observer, cases: Sequence[Case]) -> Sequence[CachedCase]:
    return prepare_cases(
        cases,
        make_folder(cache),
        config.preprocess,
        LabelMap.from_mapping(config.labels),
        channels=len(config.data.modality),
        flat=config.network.dims == 2,
        progress=lambda done, total: observer.stage("preprocess", done, total),
    )


def _weigh(config: Config, observer: Observer, cases: Sequence[CachedCase]) -> Sequence[CachedCase]:
    """Add weight maps to the cases if the loss needs them."""
    term = weight_term(config.loss)
    if term is None:
        return cases
    labels = LabelMap.from_mapping(config.labels)
    return prepare_weights(cases, labels, term, progress=lambda done, total: observer.stage("weigh", done, total))


def median_spacing(cases: Sequence[CachedCase]) -> tuple[float, ...]:
    """Median spacing of the network's grid in mm."""
    median = np.median([case.record.network.spacing for case in cases], axis=0)
    return tuple(float(value) for value in median)


def seen_by(cases: Sequence[Case], statistics: Sequence[CaseStatistics], config: Config) -> Seen:
    """What training saw, so that prediction can tell when an image is outside of it.

    Args:
        cases: that are trained on.
        statistics: what the checks saw, in these cases and maybe others.
        config: the whole configuration.
    """
    ids = {case.id for case in cases}
    return seen_in(
        [entry for entry in statistics if entry.id in ids],
        labels=LabelMap.from_mapping(config.labels),
        modality=config.data.modality,
        orientation=config.preprocess.orientation,
        annotated=config.data.annotated,
    )
