"""The run folder: whose it is, what is recorded in it before training, and what may differ when a run is resumed."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medunet.atomic import make_folder, write_json, write_text
from medunet.config.load import dump_config, load_config
from medunet.config.schema import Config
from medunet.errors import DatasetError, UsageError
from medunet.io.check import CaseStatistics
from medunet.io.folds import assign_folds, write_splits
from medunet.io.manifest import Manifest
from medunet.training.keeper import FOLDER as CHECKPOINTS
from medunet.training.keeper import Keeper

logger = logging.getLogger("medunet")

CONFIG_FILE = "config.yaml"
FOLDS_FILE = "folds.json"
"""Marks the folder of a run over all folds."""

_MAY_CHANGE = (
    *("name", "data.root", "data.format", "data.cache", "validate", "inference", "postprocess", "logging", "tune"),
    *("train.epochs", "train.budget", "train.workers", "train.precision", "train.clip_norm", "train.optimizer.lr"),
    *("train.compile", "train.activation_checkpointing", "train.save_every", "train.early_stop", "data.memory"),
)
"""Keys that may differ when a run is resumed; `validate`, `inference` and so on with all that is below them."""


def claim(folder: Path, config: Config, keeper: Keeper, *, resume: bool, force: bool) -> list[str]:
    """Make the run folder, or make sure that it belongs to this config.

    Args:
        folder: of the run.
        config: what is to be trained.
        keeper: of the run's checkpoints.
        resume: whether a run is expected.
        force: take a changed config, too.

    Returns:
        Keys that the run has had other values for so far.

    Raises:
        UsageError: there is a run though none was expected, none though one was, or one of another config.
    """
    recorded = folder / CONFIG_FILE
    if recorded.is_file() and (folder / FOLDS_FILE).is_file():
        raise UsageError(
            f"{folder} holds a run over folds.", "Go on with --fold all --resume, or choose another folder with --out."
        )
    if not resume and recorded.is_file():
        raise UsageError(f"{folder} holds a run already.", "Go on with --resume, or choose another folder with --out.")
    if resume and not recorded.is_file():
        raise UsageError(f"There is no run to resume in {folder}.", "Leave out --resume, or check --out.")
    changed = check_changes(load_config(recorded), config, folder, force=force) if resume and keeper.started else []
    make_folder(keeper.folder)
    keeper.tidy()
    return changed


def remove_empty(folder: Path) -> None:
    """Take back what `claim` made, as far as nothing is in it."""
    for path in (folder / CHECKPOINTS, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def record(
    config: Config,
    folder: Path,
    manifest: Manifest,
    statistics: Sequence[CaseStatistics],
    *,
    resumed: bool,
    with_config: bool = True,
) -> None:
    """Write splits.json, dataset.json and config.yaml; from here on the folder counts as a run.

    Args:
        config: as resolved.
        folder: of the run.
        manifest: the cases.
        statistics: what the checks saw.
        resumed: whether there are checkpoints already.
        with_config: False leaves config.yaml as it is, until the checkpoint was found to fit (`record_config`).

    Raises:
        DatasetError: the folder has checkpoints of a run with other folds: held-out cases could have been trained on.
    """
    assigned = assign_folds(manifest.cases, config.data.folds)
    splits = folder / "splits.json"
    if splits.is_file() and resumed:
        before = {case: n for n, part in enumerate(json.loads(splits.read_bytes())) for case in part["val"]}
        if before != assigned:
            raise DatasetError(
                f"The folds of the data set differ from those that the run in {folder} was trained with "
                "(cases were added, removed or renamed).",
                "Restore the data set, or start a new run with --out.",
            )
    write_splits(folder, assigned)
    write_json(folder / "dataset.json", {"cases": [entry.to_json() for entry in statistics]})
    if with_config:
        record_config(config, folder)


def record_config(config: Config, folder: Path) -> None:
    """Write config.yaml alone."""
    write_text(folder / CONFIG_FILE, dump_config(config))


def changed_keys(before: Config, now: Config) -> list[str]:
    """Dotted paths of the keys whose values differ."""
    old, new = flat(before), flat(now)
    return [key for key in {**old, **new} if old.get(key) != new.get(key)]


def check_same(before: Config, now: Config, folder: Path, *, force: bool) -> None:
    """As `check_changes`; what changed is told."""
    tell_changes(check_changes(before, now, folder, force=force))


def tell_changes(changed: Sequence[str]) -> None:
    """Write into the log which keys have other values than before."""
    if changed:
        logger.info("From here on the run has another %s.", ", ".join(changed))


def check_changes(before: Config, now: Config, folder: Path, *, force: bool) -> list[str]:
    """The keys whose values differ.

    A resumed run may last longer, lie elsewhere, or be rescued from a loss that exploded; else it is the same.

    Args:
        before: as recorded in the run folder.
        now: as asked for.
        folder: of the run.
        force: take any change.

    Raises:
        UsageError: something else differs.
    """
    old, new = flat(before), flat(now)
    changed = changed_keys(before, now)
    fixed = [key for key in changed if not any(key == free or key.startswith(f"{free}.") for free in _MAY_CHANGE)]
    if fixed and not force:
        told = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in fixed)
        raise UsageError(
            f"This config is not that of the run in {folder}: {told}.",
            f"Use --config {folder / CONFIG_FILE}, start a new run with --out, or go on all the same with --force.",
        )
    return changed


def flat(config: Config) -> dict[str, Any]:
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
