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

logger = logging.getLogger("medunet")

CONFIG_FILE = "config.yaml"
LAST = Path("checkpoints") / "last.pt"

_MAY_CHANGE = (
    *("name", "data.root", "data.format", "data.cache", "validate", "inference", "postprocess", "logging"),
    *("train.epochs", "train.budget", "train.workers", "train.precision", "train.clip_norm", "train.optimizer.lr"),
)
"""Keys that may differ when a run is resumed; `validate`, `inference` and so on with all that is below them."""


def claim(folder: Path, config: Config, *, resume: bool) -> None:
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


def remove_empty(folder: Path) -> None:
    """Take back what `claim` made, as far as nothing is in it."""
    for path in (folder / LAST.parent, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def record(config: Config, folder: Path, manifest: Manifest, statistics: Sequence[CaseStatistics]) -> None:
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
