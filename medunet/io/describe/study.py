"""What the folder of `medunet tune` holds: how many trials came to what, and the best of them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from medunet.config.load import load_config
from medunet.errors import ConfigError
from medunet.io.describe.description import Description

STUDY_FILE, DATABASE, TRIALS_FILE, BEST_FILE = "study.yaml", "tune.db", "trials.csv", "best.yaml"


def looks_like_study(path: Path) -> bool:
    """Whether a folder was written by `medunet tune`."""
    return (path / STUDY_FILE).is_file() and (path / DATABASE).is_file()


def describe_study(path: Path) -> Description:
    """Describe a study; an unfinished one is healthy, one whose files cannot be read is not."""
    result = Description("study", path)
    try:
        config = load_config(path / STUDY_FILE)
        result.facts |= {"name": config.name, "tuned": list(config.tune)}
    except ConfigError as error:
        result.blame(error)
    table = path / TRIALS_FILE
    if not table.is_file():
        result.notes.append("No trial was begun.")
        return result
    try:
        with open(table, encoding="utf-8", newline="") as handle:
            rows = list(csv.reader(handle))
        metric, trials = rows[0][2], [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
        result.facts |= {"metric": metric, "trials": dict(Counter(row["state"] for row in trials))}
    except (OSError, ValueError, KeyError, IndexError) as error:
        result.problems.append(f"{TRIALS_FILE} cannot be read: {error}.")
        return result
    scored = [row for row in trials if row["state"] == "done"]
    if scored and (path / BEST_FILE).is_file():
        pick = min if metric == "validation_loss" else max
        best = pick(scored, key=lambda row: float(row[metric]))
        result.facts["best"] = {
            "trial": best["trial"],
            metric: float(best[metric]),
            "values": [f"{key} {best[key]}" for key in rows[0][4:-1]],
        }
    return result
