"""Which cases engines are compared on: those a run held out, or what a data set or a folder of images holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medunet.config.derived import annotated_labels
from medunet.config.load import load_config
from medunet.config.schema import Config, DataConfig
from medunet.errors import DataError, DatasetError, UsageError
from medunet.inference.inputs import find_inputs
from medunet.io.case import Case
from medunet.io.labelled import read_case_image, read_case_label
from medunet.io.manifest import Manifest, survey, unusable
from medunet.io.selection import Selection
from medunet.io.volume import Volume
from medunet.labels import LabelMap
from medunet.model import Model

logger = logging.getLogger("medunet")

_CONFIG, _SPLITS, _FOLDS = "config.yaml", "splits.json", "folds.json"
_LISTS = (".json", ".csv", ".tsv")

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """An image, and its mask if there is one.

    Attributes:
        id: of the case.
        read: gives the image.
        case: that has the mask.
        known: by label index, whether the mask tells anything about it.
    """

    id: str
    read: Callable[[], Volume]
    case: Case | None = None
    known: tuple[bool, ...] = ()

    def truth(self, volume: Volume, labels: LabelMap) -> NDArray[np.generic] | None:
        """Label indices of the mask, on the grid of the image; None where there is no mask."""
        if self.case is None or self.case.label is None:
            return None
        return labels.to_indices(read_case_label(self.case, volume, labels).values)


@dataclass(frozen=True)
class Samples:
    """Cases to compare engines on.

    Attributes:
        chosen: at most as many as were asked for, spread evenly.
        origin: which cases these are, as a part of a sentence.
        run: run folder of one fold that made the model; None without one.
        root: its data set.
    """

    chosen: tuple[Sample, ...]
    origin: str
    run: Path | None = None
    root: Path | None = None

    @classmethod
    def of(cls, model: Model, given: Path, data: Path | None, most: int) -> Samples:
        """The held-out cases of a run, or all of `data`.

        Args:
            model: that is measured.
            given: the path it was loaded from: a run folder, or a model.
            data: data set or folder of images; None takes that of the run.
            most: of the cases.

        Raises:
            UsageError: there is no data.
            DataError: the data set has problems, or the folder holds nothing that can be read.
        """
        run = _run_of(given)
        config = None if run is None else load_config(run / _CONFIG, data=data)
        root = data if config is None else Path(config.data.root)
        if root is None:
            raise UsageError(f"{given} does not tell where its data set is.", "Give images with --data.")
        cases, problem = _cases(root, config, model)
        samples = _labelled(cases, config, model) if problem is None else _images(root, model, problem)
        if run is None or config is None:
            return cls(spread(samples, most), f"of {root}")
        held_out = set(json.loads((run / _SPLITS).read_bytes())[config.data.fold]["val"])
        chosen = [sample for sample in samples if sample.case is not None and sample.id in held_out]
        if len(chosen) < len(held_out):
            return cls(spread(samples, most), f"of {root}, which is not the data set of the run")
        return cls(spread(chosen, most), f"held out by the run, of {root}", run, root)


def _run_of(given: Path) -> Path | None:
    """The folder of a run of one fold that a model lies in."""
    for folder in (given, given.parent):
        if (folder / _CONFIG).is_file() and (folder / _SPLITS).is_file():
            return None if (folder / _FOLDS).is_file() else folder
    return None


def _cases(root: Path, config: Config | None, model: Model) -> tuple[tuple[Case, ...], DatasetError | None]:
    """Of a data set laid out as that of the run, or in another way that is known; none, and why, of what is neither.

    Raises:
        UsageError: there is nothing.
        DatasetError: it has one of these layouts, masks, and problems.
    """
    if not root.exists():
        raise UsageError(f"There is no data set {root}.", "Give its place with --data.")
    options = DataConfig() if config is None else config.data
    manifest, problem = _laid_out(root, options.format, options, model)
    if manifest is None and (options.format != "auto" or options.pairs is not None):
        manifest, _ = _laid_out(root, "auto", options.model_copy(update={"pairs": None}), model)
        if manifest is not None:
            logger.info("%s is not laid out as the data set of the run; it is read as %s.", root, manifest.format)
    return ((), problem) if manifest is None else (manifest.by_rules(model.spec.inference.series).cases, None)


def _laid_out(
    root: Path, layout: str, options: DataConfig, model: Model
) -> tuple[Manifest | None, DatasetError | None]:
    """The data set, or why it has another layout: it cannot be read so, or has problems and no mask.

    Raises:
        DatasetError: it has masks and problems.
    """
    try:
        manifest, problems = survey(
            root, layout, channels=len(model.spec.modality), require_labels=False, options=options
        )
    except DatasetError as error:
        return None, error
    if not problems:
        return manifest, None
    if any(case.label is not None for case in manifest.cases):
        raise unusable(root, manifest, problems)
    return None, unusable(root, manifest, problems)


def _labelled(cases: Sequence[Case], config: Config | None, model: Model) -> list[Sample]:
    annotated = {} if config is None else config.data.annotated
    channels = len(model.spec.modality)
    return [
        Sample(
            case.id,
            partial(read_case_image, case, channels=channels),
            case,
            annotated_labels(case.id, annotated, model.labels),
        )
        for case in cases
    ]


def _images(root: Path, model: Model, problem: DatasetError) -> list[Sample]:
    """What is no data set is a folder of images, or an image.

    Raises:
        DatasetError: there is no image either, with what `problem` says.
    """
    if root.suffix.lower() in _LISTS:
        raise problem
    channels, selection = len(model.spec.modality), Selection(rules=model.spec.inference.series)
    try:
        found = find_inputs(root, channels=channels)
    except DataError as error:
        raise DatasetError(f"{problem.message} {error.message}", error.hint, problem.problems) from error
    logger.info("%s Its images are taken as they are, without masks.", problem.message)
    return [Sample(entry.id, partial(entry.read, selection, channels=channels)) for entry in found]


def spread(samples: Sequence[T], most: int) -> tuple[T, ...]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(samples) - 1, min(most, len(samples))).round().astype(int)
    return tuple(samples[place] for place in places)
