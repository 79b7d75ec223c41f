"""What a run folder holds: the config, how far training came, the best score, the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medunet.config.load import load_config
from medunet.errors import ConfigError
from medunet.io.describe.description import Description
from medunet.io.describe.model import SPEC_FILE, describe_model

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"


def looks_like_run(path: Path) -> bool:
    """Whether a folder was written by `medunet train`."""
    return (path / CONFIG_FILE).is_file() and any(
        (path / name).exists() for name in (METRICS_FILE, "checkpoints", "train.log", "splits.json")
    )


def describe_run(path: Path) -> Description:
    """Describe a run folder; an unfinished run is healthy, a damaged one is not."""
    result = Description("run", path)
    epochs: int | None = None
    try:
        config = load_config(path / CONFIG_FILE)
        epochs = config.train.epochs
        result.facts |= {
            "name": config.name,
            "labels": {name: value for name, value in config.labels.items()},
            "network": config.network.name,
            "fold": f"{config.data.fold} of {config.data.folds}",
        }
    except ConfigError as error:
        result.blame(error)
    _add_metrics(result, path / METRICS_FILE, epochs)
    checkpoints = [name for name in ("last.pt", "best.pt") if (path / "checkpoints" / name).is_file()]
    result.facts["checkpoints"] = checkpoints or None
    _add_model(result, path / "model")
    return result


def _add_metrics(result: Description, file: Path, epochs: int | None) -> None:
    rows = _read_rows(result, file)
    if not rows:
        result.notes.append("No epoch has been finished yet.")
        return
    last = rows[-1]
    result.facts["epoch"] = f"{last.get('epoch')} of {epochs}" if epochs is not None else last.get("epoch")
    result.facts["last"] = {key: value for key, value in last.items() if key != "epoch" and value not in (None, {})}
    scored = [row for row in rows if isinstance(row.get("dice_mean"), (int, float))]
    if scored:
        best = max(scored, key=lambda row: float(row["dice_mean"]))
        result.facts["best"] = {"epoch": best.get("epoch"), "dice_mean": best["dice_mean"], "dice": best.get("dice")}


def _read_rows(result: Description, file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a half line at the end is what a killed process leaves."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        result.problems.append(f"{file.name} cannot be read: {error}.")
        return []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number == len(lines):
            result.notes.append(f"The last line of {file.name} is incomplete; the run was killed while it was written.")
        else:
            result.problems.append(f"{file.name}:{number} is no JSON object; the file was damaged.")
    return rows


def _add_model(result: Description, folder: Path) -> None:
    if not (folder / SPEC_FILE).is_file():
        result.notes.append("There is no model yet; it is written when training ends.")
        return
    model = describe_model(folder)
    result.facts["model"] = "model, verified" if model.healthy else "model, damaged"
    result.problems += [f"model: {problem}" for problem in model.problems]
