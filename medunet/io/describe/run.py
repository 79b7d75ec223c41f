"""What a run folder holds: the config, how far training came, the best score, the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medunet.config.load import load_config
from medunet.config.schema import Config
from medunet.errors import ConfigError
from medunet.io.describe.description import Description
from medunet.io.describe.model import SPEC_FILE, describe_model

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"
RUN_FILE = "run.json"


def looks_like_run(path: Path) -> bool:
    """Whether a folder was written by `medunet train`."""
    return (path / CONFIG_FILE).is_file() and any(
        (path / name).exists() for name in (METRICS_FILE, "checkpoints", "train.log", "splits.json")
    )


def describe_run(path: Path) -> Description:
    """Describe a run folder; an unfinished run is healthy, a damaged one is not."""
    result = Description("run", path)
    config = add_config(result)
    if config is not None:
        result.facts["fold"] = f"{config.data.fold} of {config.data.folds}"
    _add_metrics(result, path / METRICS_FILE, None if config is None else config.train.epochs)
    checkpoints = [name for name in ("last.pt", "best.pt") if (path / "checkpoints" / name).is_file()]
    result.facts["checkpoints"] = checkpoints or None
    _add_start(result, path / RUN_FILE)
    add_model(result, path / "model")
    return result


def add_config(result: Description) -> Config | None:
    """Add what the configuration in the folder says; None, and its problems, if it is damaged."""
    try:
        config = load_config(result.path / CONFIG_FILE)
    except ConfigError as error:
        result.blame(error)
        return None
    result.facts |= {"name": config.name, "labels": dict(config.labels), "network": config.network.name}
    return config


def _add_start(result: Description, file: Path) -> None:
    """When, where and with what the run was started last; nothing for runs that do not say."""
    try:
        starts = json.loads(file.read_bytes())["starts"]
        last, git = starts[-1], starts[-1].get("git") or {}
        commit = f", commit {git['commit'][:12]}{' with changes' if git['changed'] else ''}" if git else ""
        hardware, data = last["hardware"], last["data"]
        again = {1: "", 2: ", resumed once"}.get(len(starts), f", resumed {len(starts) - 1} times")
        result.facts["started"] = f"{starts[0]['started']}{again}"
        result.facts["trained_with"] = (
            f"medunet {last['versions']['medunet']}{commit}, torch {last['versions']['torch']}, {last['precision']} on "
            f"{hardware.get('gpu') if last['device'].startswith('cuda') else hardware['processor']}"
        )
        result.facts["data"] = f"{data['cases']} cases, SHA-256 {data['sha256'][:12]}..., {data['root']}"
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        result.notes.append(f"{file.name} is damaged: it does not say what the run was made with.")


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


def add_model(result: Description, folder: Path) -> None:
    """Add whether there is a model, and what is wrong with it."""
    if not (folder / SPEC_FILE).is_file():
        result.notes.append("There is no model yet; it is written when training ends.")
        return
    model = describe_model(folder)
    result.facts["model"] = "model, verified" if model.healthy else "model, damaged"
    result.problems += [f"model: {problem}" for problem in model.problems]
