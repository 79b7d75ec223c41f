"""Scores of many cases: the rows, their statistics per label, and the two files that hold them.

Reads no image and computes no metric.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from medunet.atomic import write_json, write_text
from medunet.metrics import PartitionScore, StructureScore

METRICS: tuple[str, ...] = tuple(field.name for field in fields(StructureScore))
"""Columns of per_case.csv and keys of summary.json, in order; units are in the names."""

OBJECTS: tuple[str, ...] = tuple(field.name for field in fields(PartitionScore))
"""The same for structures whose objects are told apart; there only where that was asked for."""

MISSING = "missing prediction"
FAILED = "failed"

DEFINITIONS: dict[str, str] = {
    "border": "mask minus its 6-connected erosion; voxels outside the volume count as object",
    "dice": "2 |P and R| / (|P| + |R|)",
    "iou": "|P and R| / |P or R|",
    "precision": "|P and R| / |P|",
    "recall": "|P and R| / |R|",
    "surface_dice": "share of border voxels of both masks within tolerance_mm of the other border, not area-weighted",
    "hd95_mm": "larger of the two directed 95th percentiles of border distances",
    "hd_mm": "largest border distance in either direction",
    "assd_mm": "mean of the border distances of both directions, pooled",
    "prediction_ml": "volume of P",
    "reference_ml": "volume of R",
    "volume_difference_ml": "volume of P minus volume of R",
    "ravd_percent": "absolute volume difference in percent of the volume of R",
    "rand_split": "of the pairs of voxels within one object of R, the share within one object of P, borders thinned",
    "rand_merge": "of the pairs of voxels of R's objects within one object of P, the share within one object of R",
    "rand_f": "harmonic mean of rand_split and rand_merge (ISBI 2012, foreground-restricted)",
    "pixel_error": "share of all voxels that are structure in one mask and not in the other",
    "null": "undefined; missed: P is empty, R is not; false positive: R is empty, P is not; both empty: no score",
    "statistics": "over the cases where a metric is defined (n); std with n - 1, null for a single case",
    "mean_foreground_dice": "mean over labels of the mean over cases",
}


@dataclass(frozen=True)
class Row:
    """One structure of one case, or a whole case that could not be scored.

    Attributes:
        case: case id.
        label: name of the structure; empty where the case could not be scored.
        status: "ok", "missed", "false positive", "both empty", "missing prediction" or "failed".
        score: None where the case could not be scored.
        message: why it could not.
        partition: how well its objects are told apart; None unless that was asked for.
    """

    case: str
    label: str
    status: str
    score: StructureScore | None = None
    message: str = ""
    partition: PartitionScore | None = None

    def numbers(self) -> dict[str, float | None]:
        """All scores by name."""
        parts = [asdict(part) for part in (self.score, self.partition) if part is not None]
        return {name: value for part in parts for name, value in part.items()}


@dataclass(frozen=True)
class Evaluation:
    """The result: one row per case and structure, and what `summary.json` holds."""

    rows: tuple[Row, ...]
    summary: dict[str, Any]

    @property
    def problems(self) -> tuple[Row, ...]:
        """The cases that could not be scored: failed, or without a prediction."""
        return tuple(row for row in self.rows if row.score is None)

    @property
    def scored(self) -> int:
        """Number of cases that were scored."""
        return len({row.case for row in self.rows if row.score is not None})

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write `per_case.csv` and `summary.json` into `folder`, each whole or not at all.

        Raises:
            OutputError: they cannot be written.
        """
        table, summary = folder / "per_case.csv", folder / "summary.json"
        write_text(table, _csv(self.rows))
        write_json(summary, self.summary)
        return table, summary


def summarise(
    rows: Sequence[Row], values: Mapping[str, Sequence[int]], settings: Mapping[str, Any], notes: Sequence[str]
) -> dict[str, Any]:
    """What `summary.json` holds: plain JSON values, null where nothing is defined.

    Args:
        rows: of all cases.
        values: structures and their values in files.
        settings: what was asked for.
        notes: sentences that a reader of the scores should know.
    """
    labels = {name: _label_summary([row for row in rows if row.label == name], values[name]) for name in values}
    means = [label["metrics"]["dice"]["mean"] for label in labels.values()]
    defined = [mean for mean in means if mean is not None]
    return {
        "mean_foreground_dice": float(np.mean(defined)) if defined else None,
        "labels": labels,
        "cases": {
            "scored": len({row.case for row in rows if row.score is not None}),
            "failed": [{"case": row.case, "message": row.message} for row in rows if row.status == FAILED],
            "missing_prediction": [row.case for row in rows if row.status == MISSING],
        },
        "notes": list(notes),
        "settings": dict(settings),
        "definitions": DEFINITIONS,
    }


def _label_summary(rows: Sequence[Row], values: Sequence[int]) -> dict[str, Any]:
    scores = [row.numbers() for row in rows if row.score is not None]
    statuses = [row.status for row in rows]
    return {
        "values": list(values),
        "n_cases": len(scores),
        "n_missed": statuses.count("missed"),
        "n_false_positive": statuses.count("false positive"),
        "n_both_empty": statuses.count("both empty"),
        "metrics": {metric: _statistics([score.get(metric) for score in scores]) for metric in _metrics(rows)},
    }


def _statistics(values: Sequence[float | None]) -> dict[str, float | int | None]:
    defined = np.asarray([value for value in values if value is not None], dtype=float)
    if not defined.size:
        return {"n": 0, "mean": None, "std": None, "median": None, "min": None, "max": None}
    return {
        "n": int(defined.size),
        "mean": float(defined.mean()),
        "std": float(defined.std(ddof=1)) if defined.size > 1 else None,
        "median": float(np.median(defined)),
        "min": float(defined.min()),
        "max": float(defined.max()),
    }


def _metrics(rows: Sequence[Row]) -> tuple[str, ...]:
    """Names of the scores that rows have."""
    return METRICS + (OBJECTS if any(row.partition is not None for row in rows) else ())


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics = _metrics(rows)
    writer.writerow(["case", "label", "status", *metrics, "message"])
    for row in rows:
        scores = row.numbers()
        numbers = ["" if (score := scores.get(metric)) is None else f"{score:.6g}" for metric in metrics]
        writer.writerow([row.case, row.label, row.status, *numbers, row.message])
    return text.getvalue()
