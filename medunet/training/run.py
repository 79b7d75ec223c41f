"""`train`: from a config to a run folder.

    manifest > checks > folds > cache > session > best weights > model/ + validation/

A run folder holds config.yaml (as resolved), splits.json, dataset.json (what the checks saw), metrics.jsonl,
train.log, checkpoints/{last,best}.pt, model/ and validation/ (masks and per_case.csv of the held-out fold).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medunet.atomic import make_folder, write_json, write_text
from medunet.config.load import dump_config, load_config
from medunet.config.schema import Config
from medunet.engines.device import resolve_device
from medunet.errors import DatasetError, Interrupted, UsageError
from medunet.io.case import Case
from medunet.io.check import CaseStatistics, check_cases
from medunet.io.folds import assign_folds, split, write_splits
from medunet.io.manifest import Manifest, read_manifest
from medunet.labels import LabelMap
from medunet.model import save_model
from medunet.training.cache import CachedCase, prepare_cases
from medunet.training.checkpoint import load_checkpoint
from medunet.training.observe import Observer, log_to
from medunet.training.parts import Parts, build_parts, explain, out_of_memory
from medunet.training.patches import PatchDataset
from medunet.training.session import Progress, Session, automatic_workers
from medunet.training.validate import Validation, Validator

logger = logging.getLogger("medunet")

CONFIG_FILE = "config.yaml"
LAST = Path("checkpoints") / "last.pt"

_MAY_CHANGE = (
    *("name", "data.root", "data.format", "data.cache", "validate", "inference", "postprocess", "logging"),
    *("train.epochs", "train.budget", "train.workers", "train.precision", "train.clip_norm", "train.optimizer.lr"),
)
"""Keys that may differ when a run is resumed; `validate`, `inference` and so on with all that is below them."""


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
        TrainingError: the loss is not a number any more, or a checkpoint does not fit or is damaged.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        DeviceError: no such device, or out of memory.
    """
    folder = Path(out) if out is not None else Path("runs") / config.name
    where = resolve_device(device)
    _claim(folder, config, resume=resume)
    with log_to(folder / "train.log"):
        return _train(config, folder, where, observer or Observer())


def _train(config: Config, folder: Path, device: torch.device, observer: Observer) -> TrainingResult:
    labels = LabelMap.from_mapping(config.labels)
    manifest = read_manifest(Path(config.data.root), config.data.format, channels=len(config.data.modality))
    training, held_out = split(manifest.cases, config.data.fold, config.data.folds)
    statistics = check_cases(
        manifest.cases,
        labels,
        channels=len(config.data.modality),
        progress=lambda done, total: observer.stage("check", done, total),
    )
    _check_rank(statistics, config)
    _record(config, folder, manifest, statistics)
    logger.info(
        "%d cases: %d for training, %d held out (fold %d of %d).",
        len(manifest.cases),
        len(training),
        len(held_out),
        config.data.fold,
        config.data.folds,
    )
    cached = _prepare(config, folder, labels, [*training, *held_out], observer)
    cases, validation = cached[: len(training)], cached[len(training) :]
    with _arithmetic(config):
        parts = build_parts(config, device, labels=len(labels))
        session = Session(config, parts, Validator(parts, config, labels), folder, _restore(folder, parts), observer)
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


def _claim(folder: Path, config: Config, *, resume: bool) -> None:
    """Make the run folder, or make sure that it belongs to this config."""
    recorded = folder / CONFIG_FILE
    if not resume and recorded.is_file():
        raise UsageError(f"{folder} holds a run already.", "Go on with --resume, or choose another folder with --out.")
    if resume and not recorded.is_file():
        raise UsageError(f"There is no run to resume in {folder}.", "Leave out --resume, or check --out.")
    if resume and (folder / LAST).is_file():
        _check_same(load_config(recorded), config, folder)
    make_folder(folder / LAST.parent)
    for part in (folder / LAST.parent).glob(".*.part-*"):
        part.unlink()  # of a run that was killed while it saved


def _check_same(before: Config, now: Config, folder: Path) -> None:
    """A resumed run may last longer, lie elsewhere, or be rescued from a loss that exploded; else it is the same."""
    old, new = _flat(before), _flat(now)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    fixed = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)]
    if fixed:
        raise UsageError(
            f"{', '.join(fixed)} differ from the run in {folder}, so it cannot be resumed with this config.",
            f"Use --config {folder / CONFIG_FILE}, or start a new run with --out.",
        )
    if changed:
        logger.info("From here on the run has another %s.", ", ".join(changed))


def _flat(config: Config) -> dict[str, Any]:
    """Dotted key paths to values; labels as one value, because their order counts too."""
    result: dict[str, Any] = {}

    def visit(value: Any, path: str) -> None:
        if isinstance(value, dict) and path != "labels":
            for key, item in value.items():
                visit(item, f"{path}.{key}" if path else key)
        else:
            result[path] = list(value.items()) if isinstance(value, dict) else value

    visit(config.model_dump(mode="json", by_alias=True), "")
    return result


def _check_rank(statistics: Sequence[CaseStatistics], config: Config) -> None:
    """A 3D network needs volumes; a 2D network takes both, volumes slice by slice. All cases have one rank."""
    rank = len(statistics[0].shape)
    if rank < config.network.dims:
        raise DatasetError(
            f"network.dims is {config.network.dims}, but the images have {rank} axes.", f"Set network.dims to {rank}."
        )


def _record(config: Config, folder: Path, manifest: Manifest, statistics: Sequence[CaseStatistics]) -> None:
    """Write config.yaml, splits.json and dataset.json; from here on the folder counts as a run.

    Raises:
        DatasetError: the folder has checkpoints of a run with other folds: held-out cases could have been trained on.
    """
    assigned = assign_folds(manifest.cases, config.data.folds)
    splits = folder / "splits.json"
    if splits.is_file() and (folder / LAST).is_file():
        before = {case: n for n, part in enumerate(json.loads(splits.read_bytes())) for case in part["val"]}
        if before != assigned:
            raise DatasetError(
                f"The folds of the data set differ from those that the run in {folder} was trained with "
                "(cases were added, removed or renamed).",
                "Restore the data set, or start a new run with --out.",
            )
    write_splits(folder, assigned)
    write_json(folder / "dataset.json", {"cases": [entry.to_json() for entry in statistics]})
    write_text(folder / CONFIG_FILE, dump_config(config))


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


def _restore(folder: Path, parts: Parts) -> Progress:
    """State of `checkpoints/last.pt`, or a fresh start where a run was stopped before its first checkpoint."""
    last = folder / LAST
    if not last.is_file():
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
