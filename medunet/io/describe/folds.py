"""What the folder of a run over folds holds: each fold, how far it came, the scores of all cases, the ensemble."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from medunet.io.describe.description import Description
from medunet.io.describe.run import CONFIG_FILE, add_config, add_model, describe_run, looks_like_run

FOLDS_FILE = "folds.json"
SUMMARY_FILE = "summary.json"


def looks_like_folds(path: Path) -> bool:
    """Whether a folder was written by `medunet train --fold all`."""
    return (path / FOLDS_FILE).is_file() and (path / CONFIG_FILE).is_file()


def describe_folds(path: Path) -> Description:
    """Describe a run over folds; an unfinished one is healthy, one with a damaged fold or ensemble is not."""
    result = Description("run over folds", path)
    config = add_config(result)
    count = config.data.folds if config is not None else len(list(path.glob("fold_*")))
    rows = [_fold(result, path / f"fold_{number}", number) for number in range(count)]
    finished = sum(row["state"] == "finished" for row in rows)
    result.facts["finished"] = f"{finished} of {count} folds"
    result.facts["folds"] = rows
    if finished < count:
        result.notes.append(f"{count - finished} folds are to be trained: medunet train --fold all --resume.")
    _add_summary(result, path)
    add_model(result, path / "model")
    return result


def _fold(result: Description, folder: Path, number: int) -> dict[str, Any]:
    """A row for one fold; its problems go to `result`."""
    row: dict[str, Any] = {"fold": number, "state": "not started", "epoch": None, "best_dice": None, "model": None}
    if not looks_like_run(folder):
        return row
    found = describe_run(folder)
    result.problems += [f"{folder.name}: {problem}" for problem in found.problems]
    model = found.facts.get("model")
    best = found.facts.get("best") or {}
    state = "not finished" if model is None else "finished" if found.healthy else "damaged"
    return row | {"state": state, "epoch": found.facts.get("epoch"), "best_dice": best.get("dice_mean"), "model": model}


def _add_summary(result: Description, path: Path) -> None:
    """Scores of all held-out cases; a damaged summary, or masks that are gone, are problems."""
    file, table = path / SUMMARY_FILE, path / "validation" / "per_case.csv"
    if not file.is_file():
        return
    try:
        summary = json.loads(file.read_bytes())
        result.facts |= {"cases": summary["cases"], "dice_mean": summary["dice_mean"], "dice": summary["dice"]}
        with open(table, encoding="utf-8", newline="") as handle:
            cases = {row["case"] for row in csv.DictReader(handle)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        result.problems.append(f"{SUMMARY_FILE} or validation/{table.name} cannot be read: {error}.")
        return
    gone = [case for case in sorted(cases) if not (table.parent / f"{case}_seg.nii.gz").is_file()]
    if gone:
        result.problems.append(f"validation/ lacks the masks of {len(gone)} cases, the first is {gone[0]}.")
