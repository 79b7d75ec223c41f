"""`train`: from a config to a run folder.

    manifest > checks > folds > cache > session > best weights > model/ + validation/

A run folder holds config.yaml (as resolved), splits.json, dataset.json (what the checks saw), metrics.jsonl,
train.log, checkpoints/{last,best}.pt, model/ and validation/ (masks and per_case.csv of the held-out fold).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medunet.atomic import make_folder
from medunet.config.schema import Config
from medunet.engines.device import resolve_device
from medunet.errors import DatasetError, Interrupted
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases
from medunet.io.folds import split
from medunet.io.manifest import Manifest, survey, unusable
from medunet.labels import LabelMap
from medunet.model import save_model
from medunet.training.cache import CachedCase, prepare_cases, prepare_weights
from medunet.training.checkpoint import load_checkpoint
from medunet.training.costs import costs_in_words
from medunet.training.folder import LAST, claim, record, remove_empty
from medunet.training.observe import Observer, log_to
from medunet.training.parts import Parts, build_parts, explain, out_of_memory
from medunet.training.patches import PatchDataset
from medunet.training.session import Progress, Session, automatic_workers
from medunet.training.transfer import check_encoder, load_encoder
from medunet.training.validate import Validation, Validator
from medunet.transforms.border_weights import weight_term

logger = logging.getLogger("medunet")


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run reached.

    Attributes:
        run: run folder.
        model: model folder in it.
        validation: Dice of the held-out fold, with the config's inference settings; None without held-out cases.
        best_epoch: epoch whose weights the model has.
    """

    run: Path
    model: Path
    validation: Validation | None
    best_epoch: int


def train(
    config: Config,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
) -> TrainingResult:
    """Train on one fold and export the best model.

    Args:
        config: from `load_config`.
        out: run folder; null takes `runs/NAME`.
        resume: go on from `checkpoints/last.pt` of that folder.
        device: auto, cpu, cuda, cuda:N or mps.
        observer: receives events, for progress bars.

    Raises:
        UsageError: the folder holds a run already and `resume` is off, or holds none and it is on.
        DatasetError: problems of the data, all at once.
        ModelError: the encoder weights are not what they must be.
        TrainingError: the loss is not a number any more, or a checkpoint does not fit or is damaged.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        DeviceError: no such device, or out of memory.
    """
    folder = Path(out) if out is not None else Path("runs") / config.name
    observer = observer or Observer()
    where = resolve_device(device)
    claim(folder, config, resume=resume)
    try:
        if not (folder / LAST).is_file():
            check_encoder(config)
        manifest, statistics = _examine(config, observer)
    except BaseException:
        remove_empty(folder)
        raise
    with log_to(folder / "train.log"):
        return _train(config, folder, where, observer, manifest, statistics)


def _examine(config: Config, observer: Observer) -> tuple[Manifest, list[CaseStatistics]]:
    """List the cases and read each once.

    Raises:
        DatasetError: with every problem of the listing and of the files.
    """
    root, channels = Path(config.data.root), len(config.data.modality)
    manifest, problems = survey(root, config.data.format, channels=channels)
    if not problems:
        split(manifest.cases, config.data.fold, config.data.folds)  # a fold that does not exist is told at once
    there = [case for case in manifest.cases if all(path.exists() for path in (*case.images, case.label) if path)]
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


def _train(
    config: Config,
    folder: Path,
    device: torch.device,
    observer: Observer,
    manifest: Manifest,
    statistics: Sequence[CaseStatistics],
) -> TrainingResult:
    for note in manifest.notes:
        logger.warning("%s", note)
    labels = LabelMap.from_mapping(config.labels)
    training, held_out = split(manifest.cases, config.data.fold, config.data.folds)
    record(config, folder, manifest, statistics)
    logger.info(
        "%d cases: %d for training, %d held out (fold %d of %d).",
        len(manifest.cases),
        len(training),
        len(held_out),
        config.data.fold,
        config.data.folds,
    )
    cached = _prepare(config, folder, labels, [*training, *held_out], observer)
    cases, validation = _weigh(config, labels, cached[: len(training)], observer), cached[len(training) :]
    logger.info("%s", costs_in_words(config, device))  # before seeds are set and memory is taken
    with _arithmetic(config):
        parts = build_parts(config, device, labels=labels)
        progress = _restore(folder, parts, config)
        session = Session(config, parts, Validator(parts, config, labels), folder, progress, observer)
        precision = str(parts.precision).removeprefix("torch.")
        logger.info("Training %s on %s in %s.", config.network.name, device, precision)
        if not session.finished:
            _run(session, PatchDataset(cases, config, _spacing(cases)), validation)
        return _finish(session, manifest, training, statistics, validation)


def _run(session: Session, dataset: PatchDataset, validation: Sequence[CachedCase]) -> None:
    device, config = session.parts.device, session.config
    workers = automatic_workers(config.train.workers, device, lambda: os.cpu_count() or 1)
    try:
        session.run(dataset, validation, workers=workers)
    except RuntimeError as error:
        known = explain(error, config, device)
        if known is None:
            raise
        raise known from error
    except MemoryError as error:
        raise out_of_memory(config, torch.device("cpu")) from error
    if session.stop:
        raise Interrupted(
            f"Stopped after step {session.progress.iteration} of {session.clock.total}; everything is saved.",
            f"Go on with --resume --out {session.folder}.",
        )


@contextmanager
def _arithmetic(config: Config) -> Iterator[None]:
    """Seed torch and choose between repeatable and fast arithmetic; torch's switches go back afterwards.

    Not MONAI's set_determinism: that also turns cuDNN's search for the fastest algorithm off, asked for or not.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.manual_seed(config.seed)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with it
    if config.deterministic != before[0]:  # a slow call: torch imports its compiler first
        torch.use_deterministic_algorithms(config.deterministic)
    cudnn.deterministic, cudnn.benchmark = config.deterministic, not config.deterministic
    try:
        yield
    finally:
        if config.deterministic != before[0]:
            torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def _finish(
    session: Session,
    manifest: Manifest,
    training: Sequence[Case],
    statistics: Sequence[CaseStatistics],
    validation: Sequence[CachedCase],
) -> TrainingResult:
    """Load the best weights, score the held-out cases with them, write model/ and validation/."""
    folder, parts, observer = session.folder, session.parts, session.observer
    best = folder / "checkpoints" / "best.pt"
    best_epoch = session.progress.epoch
    if best.is_file():
        state = load_checkpoint(best, parts.device)
        parts.network.load_state_dict(state["network"])
        best_epoch = state["progress"]["best_epoch"]
    result = None
    if validation:
        result = session.validator.report(
            validation, folder / "validation", progress=lambda done, total: observer.stage("validate", done, total)
        )
        logger.info("Held-out fold: mean Dice %s (%s).", _number(result.mean), _per_label(result))
    ids = {case.id for case in training}
    summary = {
        "cases": len(training),
        "dataset": manifest.root.name,
        "fold": session.config.data.fold,
        "epochs": -(-session.progress.iteration // session.config.train.iterations_per_epoch),
        "iterations": session.progress.iteration,
        "seconds": round(session.progress.elapsed, 1),
        "best_epoch": best_epoch,
        "validation_dice": result.dice if result else {},
        **_ranges([entry for entry in statistics if entry.id in ids]),
    }
    model = save_model(folder / "model", session.config, parts.network.state_dict(), summary)
    logger.info("Model: %s", model)
    return TrainingResult(folder, model, result, best_epoch)


def _check_rank(statistics: Sequence[CaseStatistics], config: Config) -> None:
    """A 3D network needs volumes; a 2D network takes both, volumes slice by slice. All cases have one rank."""
    rank = len(statistics[0].shape)
    if rank < config.network.dims:
        raise DatasetError(
            f"network.dims is {config.network.dims}, but the images have {rank} axes.", f"Set network.dims to {rank}."
        )


def _prepare(
    config: Config, folder: Path, labels: LabelMap, cases: Sequence[Case], observer: Observer
) -> list[CachedCase]:
    cache = Path(config.data.cache) if config.data.cache else folder / "cache"
    return prepare_cases(
        cases,
        make_folder(cache),
        config.preprocess,
        labels,
        channels=len(config.data.modality),
        progress=lambda done, total: observer.stage("preprocess", done, total),
    )


def _weigh(config: Config, labels: LabelMap, cases: Sequence[CachedCase], observer: Observer) -> Sequence[CachedCase]:
    """Add weight maps to the training cases if the loss needs them."""
    term = weight_term(config.loss)
    if term is None:
        return cases
    return prepare_weights(cases, labels, term, progress=lambda done, total: observer.stage("weigh", done, total))


def _restore(folder: Path, parts: Parts, config: Config) -> Progress:
    """State of `checkpoints/last.pt`, or a fresh start where a run was stopped before its first checkpoint."""
    last = folder / LAST
    if not last.is_file():
        load_encoder(parts.network, config)
        return Progress()
    state = load_checkpoint(last, torch.device("cpu"))
    parts.load(state)
    progress = Progress(**state["progress"])
    logger.info("Going on after step %d.", progress.iteration)
    return progress


def _spacing(cases: Sequence[CachedCase]) -> tuple[float, ...]:
    """Median spacing of the network's grid in mm."""
    median = np.median([case.record.network.spacing for case in cases], axis=0)
    return tuple(float(value) for value in median)


def _ranges(statistics: Sequence[CaseStatistics]) -> dict[str, Any]:
    """What training saw, so that prediction can tell when an image is outside of it."""
    spacing = np.asarray([entry.spacing for entry in statistics])
    shape = np.asarray([entry.shape for entry in statistics])
    return {
        "spacing_min": spacing.min(axis=0).tolist(),
        "spacing_max": spacing.max(axis=0).tolist(),
        "shape_min": shape.min(axis=0).tolist(),
        "shape_max": shape.max(axis=0).tolist(),
        "orientations": sorted({entry.axcodes for entry in statistics}),
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _per_label(result: Validation) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in result.dice.items())
