"""`train_folds`: every fold in turn, then one ensemble of their networks and the scores of all held-out cases.

    fold_0/ ... fold_N/ (ordinary run folders, one cache) > validation/ + summary.json > model/

A fold that is finished is left alone when the run is resumed; the one that was stopped goes on.
"""

from __future__ import annotations

import csv
import gc
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medunet.atomic import atomic_folder, link_or_copy, make_folder, write_json
from medunet.config.load import load_config
from medunet.config.schema import Config
from medunet.errors import Interrupted, UsageError
from medunet.io.folds import split
from medunet.labels import LabelMap
from medunet.model import SPEC_FILE, Model, join_models, load_model
from medunet.training.folder import CONFIG_FILE, FOLDS_FILE, changed_keys, check_same, record, remove_empty
from medunet.training.freeze import check_frozen
from medunet.training.keeper import Keeper
from medunet.training.material import Examined, examine
from medunet.training.observe import Observer, log_to
from medunet.training.ranks import check_batch
from medunet.training.record.tracking import check_tracking
from medunet.training.run import train
from medunet.training.start import check_start
from medunet.training.torchrun import began_here, joined, own_device
from medunet.training.transfer import check_encoder
from medunet.training.validate import Validation, summarise

logger = logging.getLogger("medunet")

SCORES_FILE = "per_case.csv"
SUMMARY_FILE = "summary.json"

_RESULT_STAYS = (
    *("name", "data.root", "data.format", "data.cache", "data.memory", "logging", "tune", "train.workers"),
    *("train.save_every", "train.compile", "train.activation_checkpointing"),
)
"""Keys that a finished fold does not care about; with any other change it goes on, or is validated again."""


@dataclass(frozen=True)
class FoldsResult:
    """What a finished run over folds reached.

    Attributes:
        run: run folder.
        model: model folder in it, the ensemble of all folds.
        validation: Dice over all cases, each scored by the network that did not see it.
        folds: the same per fold.
    """

    run: Path
    model: Path
    validation: Validation
    folds: tuple[Validation, ...]


@dataclass(frozen=True)
class _Fold:
    """A finished fold: its run folder and number, its held-out cases, its model, and a row per case and label."""

    folder: Path
    number: int
    cases: tuple[str, ...]
    model: Model
    rows: tuple[Mapping[str, str], ...]


def train_folds(
    config: Config,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    observer: Observer | None = None,
) -> FoldsResult:
    """Train on each of `data.folds` folds (`data.fold` plays no part) and join the models to an ensemble.

    Args:
        config: from `load_config`; `train.budget` counts for each fold.
        out: run folder; null takes `runs/NAME`.
        resume: go on where that run stopped.
        force: resume with a changed configuration, too.
        device: auto, cpu, cuda, cuda:N or mps.
        observer: receives events, for progress bars.

    Raises:
        UsageError: the folder holds a run already and `resume` is off, or holds none and it is on, or one of one fold.
        DatasetError: problems of the data, all at once.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        MedunetError: as `train`.
    """
    folder = Path(out) if out is not None else Path("runs") / config.name
    config = config.model_copy(update={"data": config.data.model_copy(update={"fold": 0})})
    with joined(own_device(device)) as ranks:
        observer = observer if observer is not None and ranks.first else Observer()
        check_batch(config.train.batch_size, config.train.accumulate, ranks)
        again = began_here(folder / CONFIG_FILE)
        ranks.lead(lambda: _claim(folder, config, resume=resume or again, force=force))
        numbers = range(config.data.folds)
        left = ranks.tell(lambda: [number for number in numbers if not _is_finished(folder, config, number)])
        examined = ranks.tell(lambda: _begin(folder, config, observer) if left else None)
        with ranks.inside(lambda: log_to(folder / "train.log"), None):
            for number in left:
                logger.info("Fold %d, the last is %d.", number, numbers[-1])
                own = _folder_of(folder, number)
                try:
                    train(
                        _config_of(config, folder, number),
                        own,
                        resume=(own / CONFIG_FILE).is_file(),
                        force=force,
                        device=device,
                        observer=observer,
                        examined=examined,
                    )
                except Interrupted as error:
                    hint = f"Go on with --fold all --resume --out {folder}."
                    raise ranks.alike(Interrupted(f"Fold {number}: {error.message}", hint)) from error
                gc.collect()  # the network and its trainer refer to each other
            return ranks.tell(lambda: _gather(folder, config))


def _folder_of(run: Path, number: int) -> Path:
    return run / f"fold_{number}"


def _config_of(config: Config, run: Path, number: int) -> Config:
    """The configuration of one fold: the cache is shared, and MLflow tells the folds of a run apart."""
    cache = config.data.cache or str((run / "cache").absolute())
    data = config.data.model_copy(update={"fold": number, "cache": cache})
    mlflow = config.logging.mlflow
    if mlflow is not None:
        mlflow = mlflow.model_copy(update={"run": f"{mlflow.run or run.absolute().name}/fold_{number}"})
    return config.model_copy(update={"data": data, "logging": config.logging.model_copy(update={"mlflow": mlflow})})


def _started(run: Path, config: Config) -> bool:
    """Whether any fold has a checkpoint."""
    return any(Keeper(_folder_of(run, number)).started for number in range(config.data.folds))


def _claim(run: Path, config: Config, *, resume: bool, force: bool) -> None:
    """Make the run folder, or make sure that it holds a run over folds of this config.

    Raises:
        UsageError: it does not.
    """
    recorded = run / CONFIG_FILE
    if recorded.is_file() and not (run / FOLDS_FILE).is_file():
        raise UsageError(
            f"{run} holds a run of one fold.",
            "Go on with it without --fold all, or choose another folder with --out.",
        )
    if recorded.is_file() and not resume:
        raise UsageError(
            f"{run} holds a run over folds already.",
            "Go on with --fold all --resume, or choose another folder with --out.",
        )
    if resume and not recorded.is_file():
        raise UsageError(f"There is no run to resume in {run}.", "Leave out --resume, or check --out.")
    if resume and _started(run, config):
        check_same(load_config(recorded), config, run, force=force)
    make_folder(run)


def _begin(run: Path, config: Config, observer: Observer) -> Examined:
    """Look at all cases once, make sure that every fold can be trained, and record the run.

    Raises:
        DatasetError: problems of the data, a fold without cases, or other folds than those of the run so far.
    """
    started = _started(run, config)
    try:
        if not started:
            check_encoder(config)
            check_start(config)
            check_frozen(config)
        check_tracking(config)
        manifest, statistics = examine(config, observer)
        for number in range(config.data.folds):
            split(manifest.cases, number, config.data.folds)
    except BaseException:
        remove_empty(run)
        raise
    write_json(run / FOLDS_FILE, {"folds": config.data.folds})
    record(config, run, manifest, statistics, resumed=started)
    return manifest, statistics


def _held_out(run: Path, number: int) -> tuple[str, ...]:
    """Ids of the cases that a fold does not train on."""
    return tuple(json.loads((run / "splits.json").read_bytes())[number]["val"])


def _mask(folder: Path, case: str) -> Path:
    return folder / "validation" / f"{case}_seg.nii.gz"


def _is_finished(run: Path, config: Config, number: int) -> bool:
    """Whether a fold's model, masks and scores are there, and training it again would change nothing."""
    own = _folder_of(run, number)
    needed = (run / "splits.json", own / CONFIG_FILE, own / "model" / SPEC_FILE, own / "validation" / SCORES_FILE)
    if not all(path.is_file() for path in needed):
        return False
    if not all(_mask(own, case).is_file() for case in _held_out(run, number)):
        return False
    changed = changed_keys(load_config(own / CONFIG_FILE), _config_of(config, run, number))
    return all(any(key == free or key.startswith(f"{free}.") for free in _RESULT_STAYS) for key in changed)


def _gather(run: Path, config: Config) -> FoldsResult:
    """Put masks and scores of all folds together, and join their models."""
    labels = LabelMap.from_mapping(config.labels)
    folds = [_read_fold(run, number) for number in range(config.data.folds)]
    each = tuple(_scores([fold], labels) for fold in folds)
    together = _scores(folds, labels)
    with atomic_folder(run / "validation") as part:
        for fold in folds:
            for case in fold.cases:
                link_or_copy(_mask(fold.folder, case), part / f"{case}_seg.nii.gz")
        (part / SCORES_FILE).write_text(_table(folds), encoding="utf-8")
    write_json(run / SUMMARY_FILE, _summary(folds, each, together))
    for fold, scores in zip(folds, each, strict=True):
        logger.info("Fold %d, %d held-out cases: %s.", fold.number, len(fold.cases), scores.line())
    logger.info("All %d cases, held out once: %s.", sum(len(fold.cases) for fold in folds), together.line())
    models = {fold.folder.name: fold.model for fold in folds}
    model = join_models(run / "model", config, models, _training(folds, together))
    logger.info("Model of %d networks: %s", len(models), model)
    return FoldsResult(run, model, together, each)


def _read_fold(run: Path, number: int) -> _Fold:
    folder = _folder_of(run, number)
    with open(folder / "validation" / SCORES_FILE, encoding="utf-8", newline="") as handle:
        rows = tuple(csv.DictReader(handle))
    return _Fold(folder, number, _held_out(run, number), load_model(folder / "model"), rows)


def _scores(folds: Sequence[_Fold], labels: LabelMap) -> Validation:
    """Mean Dice per label over the cases of some folds."""
    index = {label.name: label.index for label in labels.foreground}
    dice: dict[str, list[float | None]] = {case: [None] * len(labels) for fold in folds for case in fold.cases}
    for row in (row for fold in folds for row in fold.rows if row["dice"]):
        dice[row["case"]][index[row["label"]]] = float(row["dice"])
    return summarise(list(dice.values()), labels)


def _table(folds: Sequence[_Fold]) -> str:
    """The scores of all folds as CSV, with the fold as the second column."""
    buffer = io.StringIO()
    columns = next((list(fold.rows[0]) for fold in folds if fold.rows), ["case", "label"])
    writer = csv.DictWriter(buffer, [columns[0], "fold", *columns[1:]], lineterminator="\n")
    writer.writeheader()
    for fold in folds:
        writer.writerows({**row, "fold": str(fold.number)} for row in fold.rows)
    return buffer.getvalue()


def _summary(folds: Sequence[_Fold], each: Sequence[Validation], together: Validation) -> dict[str, Any]:
    """Content of summary.json."""
    kept = ("best_epoch", "epochs", "iterations", "seconds")
    return {
        "cases": sum(len(fold.cases) for fold in folds),
        "dice_mean": together.mean,
        "dice": together.dice,
        "folds": [
            {
                "fold": fold.number,
                "cases": len(fold.cases),
                "dice_mean": scores.mean,
                "dice": scores.dice,
                **{key: fold.model.spec.training.get(key) for key in kept},
            }
            for fold, scores in zip(folds, each, strict=True)
        ],
    }


def _training(folds: Sequence[_Fold], together: Validation) -> dict[str, Any]:
    """What the networks of the ensemble took and reached, for model.yaml."""
    seen = [fold.model.spec.training for fold in folds]
    return {
        "cases": sum(len(fold.cases) for fold in folds),
        "dataset": seen[0].get("dataset"),
        "folds": len(folds),
        "epochs": [each.get("epochs") for each in seen],
        "iterations": [each.get("iterations") for each in seen],
        "seconds": round(sum(each.get("seconds", 0.0) for each in seen), 1),
        "best_epoch": [each.get("best_epoch") for each in seen],
        "validation_dice": together.dice,
    }
