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

import torch

from medunet.config.advice import advice
from medunet.config.derived import seconds_of
from medunet.config.schema import Config
from medunet.engines.machine import available_bytes
from medunet.errors import Interrupted
from medunet.io.case import Case
from medunet.io.check import CaseStatistics
from medunet.io.folds import split
from medunet.io.manifest import Manifest
from medunet.labels import LabelMap
from medunet.model import save_model
from medunet.training.cache import CachedCase, resident
from medunet.training.costs import costs_in_words
from medunet.training.folder import CONFIG_FILE, claim, record, record_config, remove_empty, tell_changes
from medunet.training.freeze import check_frozen
from medunet.training.keeper import Keeper
from medunet.training.material import Examined, examine, median_spacing, odd_scales, preprocessed, seen_by
from medunet.training.observe import Observer, log_to
from medunet.training.parts import Parts, build_parts, explain, out_of_memory
from medunet.training.patches import PatchDataset
from medunet.training.progress import Progress
from medunet.training.randomness import seed_python
from medunet.training.ranks import ALONE, Ranks, check_batch
from medunet.training.rates import check_rates
from medunet.training.record.recording import recording, watch
from medunet.training.record.runlog import NoLog, RunLog
from medunet.training.record.tracking import check_tracking
from medunet.training.session import Session
from medunet.training.start import check_start, start
from medunet.training.torchrun import began_here, joined, own_device
from medunet.training.transfer import check_encoder, load_encoder
from medunet.training.validate import Validation, Validator
from medunet.training.workers import automatic_workers, shares_memory

logger = logging.getLogger("medunet")


@dataclass(frozen=True)
class Place:
    """Where a process computes, and who it is."""

    device: torch.device
    ranks: Ranks = ALONE


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
    force: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
    examined: Examined | None = None,
) -> TrainingResult:
    """Train on one fold and export the best model.

    Args:
        config: from `load_config`.
        out: run folder; null takes `runs/NAME`.
        resume: go on from the last checkpoint of that folder.
        force: resume with a changed configuration, too.
        device: auto, cpu, cuda, cuda:N or mps.
        observer: receives events, for progress bars.
        examined: what `examine` found in the same data; null looks now.

    Raises:
        UsageError: the folder holds a run already and `resume` is off, or holds none and it is on.
        DatasetError: problems of the data, all at once.
        ModelError: the weights to start from are not what they must be.
        TrainingError: the loss is not a number any more, or a checkpoint does not fit or is damaged.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        DeviceError: no such device, or out of memory.
    """
    folder = Path(out) if out is not None else Path("runs") / config.name
    where = own_device(device)
    with joined(where) as ranks:
        observer = observer if observer is not None and ranks.first else Observer()
        keeper = Keeper(folder, seconds_of(config.train.save_every))
        check_batch(config.train.batch_size, config.train.accumulate, ranks)
        again = began_here(folder / CONFIG_FILE)
        changed = ranks.tell(lambda: claim(folder, config, keeper, resume=resume or again, force=force))
        manifest, statistics = ranks.tell(lambda: _begin(config, keeper, observer, examined))
        with ranks.inside(lambda: log_to(folder / "train.log"), None):
            tell_changes(changed)
            return _train(config, keeper, Place(where, ranks), observer, manifest, statistics)


def _begin(config: Config, keeper: Keeper, observer: Observer, examined: Examined | None) -> Examined:
    """Look at all that can be wrong before anything is computed; nothing is left behind if it is."""
    try:
        if not keeper.started:
            check_encoder(config)
            check_start(config)
            check_frozen(config)
            check_rates(config)
        check_tracking(config)
        return examined or examine(config, observer)
    except BaseException:
        remove_empty(keeper.folder.parent)
        raise


def _train(
    config: Config,
    keeper: Keeper,
    place: Place,
    observer: Observer,
    manifest: Manifest,
    statistics: Sequence[CaseStatistics],
) -> TrainingResult:
    device, ranks = place.device, place.ranks
    for note in (*manifest.notes, *advice(config), *odd_scales(statistics, config)):
        logger.warning("%s", note)
    labels = LabelMap.from_mapping(config.labels)
    training, held_out = split(manifest.cases, config.data.fold, config.data.folds)
    folder = keeper.folder.parent
    begun = keeper.started
    ranks.lead(lambda: record(config, folder, manifest, statistics, resumed=begun, with_config=not begun))
    logger.info(
        "%d cases: %d for training, %d held out (fold %d of %d).",
        len(manifest.cases),
        len(training),
        len(held_out),
        config.data.fold,
        config.data.folds,
    )
    silent: RunLog = NoLog()
    with ranks.inside(lambda: recording(config, folder, device, statistics), silent) as log:
        cached = preprocessed([*training, *held_out], statistics, config, folder, observer, ranks)
        cases, validation = cached[: len(training)], cached[len(training) :]
        logger.info("%s", costs_in_words(_own(config, ranks), device))  # before seeds are set and memory is taken
        with _arithmetic(config):
            parts = build_parts(config, device, labels=labels, ranks=ranks)
            parts.draw_apart(config.seed)
            progress = _restore(keeper, parts, config)
            ranks.lead(lambda: record_config(config, folder))
            validator = Validator(parts, config, labels, validation)
            watch(log, validator, config)
            session = Session(config, parts, validator, keeper, progress, log, observer)
            precision = str(parts.precision).removeprefix("torch.")
            where = f"{ranks.size} x {device.type}" if ranks.size > 1 else str(device)
            logger.info("Training %s on %s in %s.", config.network.name, where, precision)
            if not ranks.tell(lambda: session.finished):
                _run(session, cases)
            return _finish(session, manifest, training, statistics)


def _run(session: Session, cases: Sequence[CachedCase]) -> None:
    device, config, ranks = session.parts.device, session.config, session.parts.ranks
    workers = automatic_workers(config, device, ranks.local_size)
    if workers == 0 or shares_memory():
        cases = resident(cases, config.data.memory, available_bytes() // ranks.local_size)
    dataset = PatchDataset(cases, config, median_spacing(cases))
    try:
        session.run(dataset, workers=workers)
    except RuntimeError as error:
        known = explain(error, config, device, ranks.size)
        if known is None:
            raise
        raise known from error
    except MemoryError as error:
        raise out_of_memory(config, torch.device("cpu"), ranks.size) from error
    if session.stop:
        raise ranks.alike(
            Interrupted(
                f"Stopped after step {session.progress.iteration} of {session.clock.total}; everything is saved.",
                f"Go on with --resume --out {session.keeper.folder.parent}.",
            )
        )


@contextmanager
def _arithmetic(config: Config) -> Iterator[None]:
    """Seed all generators, and choose between repeatable and fast arithmetic; torch's switches go back afterwards.

    Not MONAI's set_determinism: that also turns cuDNN's search for the fastest algorithm off, asked for or not.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    torch.manual_seed(config.seed)
    seed_python(config.seed)
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
) -> TrainingResult:
    """Load the best weights, score the held-out cases with them, write model/ and validation/."""
    folder, parts, observer = session.keeper.folder.parent, session.parts, session.observer
    best = parts.ranks.tell(lambda: session.keeper.load_best(torch.device("cpu")))
    best_epoch = session.progress.epoch
    if best is not None:
        parts.judged.load_state_dict(best["network"])
        best_epoch = best["progress"]["best_epoch"]
    result = None
    if session.validator.cases:
        result = session.validator.report(
            folder / "validation", progress=lambda done, total: observer.stage("validate", done, total)
        )
        logger.info("Held-out fold: %s.", result.line())
    summary = {
        "cases": len(training),
        "dataset": manifest.root.name,
        "fold": session.config.data.fold,
        "epochs": -(-session.progress.iteration // session.config.train.iterations_per_epoch),
        "iterations": session.progress.iteration,
        "seconds": round(session.progress.elapsed, 1),
        "best_epoch": best_epoch,
        "validation_dice": result.dice if result else {},
    }
    seen = seen_by(training, statistics, session.config)
    weights = parts.judged.state_dict()
    model = parts.ranks.tell(lambda: save_model(folder / "model", session.config, weights, summary, seen))
    logger.info("Model: %s", model)
    return TrainingResult(folder, model, result, best_epoch)


def _own(config: Config, ranks: Ranks) -> Config:
    """As it is for each of several processes: with its part of the batch."""
    train = config.train.model_copy(update={"batch_size": config.train.batch_size // ranks.size})
    return config.model_copy(update={"train": train})


def _restore(keeper: Keeper, parts: Parts, config: Config) -> Progress:
    """State of the last checkpoint, or a fresh start where a run was stopped before its first one."""
    state = parts.ranks.tell(keeper.load)
    if state is None:
        parts.ranks.lead(lambda: load_encoder(parts.network, config))
        parts.ranks.lead(lambda: start(parts.network, config))
        parts.align(parts.network.state_dict())
        parts.restart_average()
        return Progress()
    parts.ranks.agree(lambda: parts.load(state))
    progress = Progress.from_state(state["progress"])
    logger.info("Going on after step %d.", progress.iteration)
    return progress
