"""The engines side by side on real cases: speed, memory, room on the disk, Dice, and agreement with torch in float32.

Each segments the same cases as `medunet predict` would. Converted networks stay beside the weights, and which of torch
and OpenVINO is faster is remembered, so that `--engine auto` takes it from then on.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medunet.engines.device import cpu_has_bf16, resolve_precision
from medunet.engines.forms import found_form
from medunet.errors import DataError, DeviceError, OutputError, UsageError
from medunet.inference.choice import INT8, Engines, Member, converted, int8_facts, window_seconds
from medunet.inference.int8 import BOUND, quantize
from medunet.inference.memory import PeakMeter
from medunet.inference.predictor import Predictor
from medunet.inference.samples import Sample, Samples
from medunet.metrics import dice_per_label
from medunet.model import Model, load_model

logger = logging.getLogger("medunet")

KINDS = (
    ("torch", "fp32"),
    ("torch", "bf16"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    (INT8, "int8"),
    ("onnx", "fp32"),
)
"""Engines and the arithmetic of their convolutions, in the order of the table. The first is what others agree with."""

_CPU = torch.device("cpu")

Progress = Callable[[int, int], None]
Masks = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Row:
    """What an engine takes and gives.

    Attributes:
        engine: as after `--engine`.
        precision: fp32, bf16 or int8.
        note: why it was not measured, or what is to be known; may be empty.
        window_seconds: of all networks of the model for one window, if as many are given as are computed side by side.
        case_seconds: mean over the cases, from the image in memory to the mask.
        peak_bytes: most main memory that the process held meanwhile.
        disk_bytes: of the weights, or of the converted networks.
        dice: by structure, mean over the cases that have it; empty without masks.
        dice_mean: over structures.
        agreement: share of the voxels that have the label which torch gives in float32.
    """

    engine: str
    precision: str
    note: str = ""
    window_seconds: float | None = None
    case_seconds: float | None = None
    peak_bytes: int | None = None
    disk_bytes: int | None = None
    dice: Mapping[str, float | None] = field(default_factory=dict)
    dice_mean: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class Comparison:
    """All engines on the same cases.

    Attributes:
        model: folder.
        cases: ids.
        origin: which cases these are, as a part of a sentence.
        rows: in the order of `KINDS`.
        auto: the engine that `auto` takes on this machine's CPU; None where OpenVINO was not measured.
        reason: why, as a sentence.
    """

    model: str
    cases: tuple[str, ...]
    origin: str
    rows: tuple[Row, ...]
    auto: str | None
    reason: str


def compare(
    model: str | Path,
    data: str | Path | None = None,
    *,
    cases: int = 5,
    engines: Sequence[str] = (),
    progress: Progress | None = None,
) -> Comparison:
    """Measure engines on a CPU; makes the converted networks that are not there yet.

    Args:
        model: a run folder, a model folder or a zip of one.
        data: data set, or a folder of images; None takes that of the run. Of a run its held-out cases are taken.
        cases: at most so many of them, spread evenly.
        engines: of `inference.choice.ENGINES` without auto; empty: all. torch is always measured.
        progress: called with the number of steps done and of all.

    Raises:
        UsageError: no such engine, or there is no data.
        DataError: an image or mask cannot be read, or does not fit.
        ModelError: the model cannot be loaded.
    """
    known = list(dict.fromkeys(name for name, _ in KINDS))
    strange = [name for name in engines if name not in known]
    if strange:
        raise UsageError(f'"{strange[0]}" is no engine.', f"Use {', '.join(known)}.")
    if cases < 1:
        raise UsageError(f"At least one case is needed, not {cases}.")
    loaded = load_model(model)
    samples = Samples.of(loaded, Path(model), None if data is None else Path(data), cases)
    kinds = [kind for kind in KINDS if not engines or kind[0] in engines or kind[0] == "torch"]
    bench = _Bench(loaded, samples, len(kinds) * len(samples.chosen), progress)
    rows = tuple(bench.row(*kind) for kind in kinds)
    auto, reason = _choice(loaded, rows)
    return Comparison(str(loaded.path), tuple(each.id for each in samples.chosen), samples.origin, rows, auto, reason)


class _Bench:
    """Measures one engine after the other.

    Args:
        model: whose networks are run.
        samples: the cases.
        steps: cases of all engines.
        progress: told of each.
    """

    def __init__(self, model: Model, samples: Samples, steps: int, progress: Progress | None) -> None:
        self.model = model
        self.samples = samples
        self.reference: Masks = {}
        self._steps = steps
        self._done = 0
        self._progress = progress

    def row(self, engine: str, precision: str) -> Row:
        """A row of the table; an engine that cannot be had gets one that says why."""
        if precision == "bf16" and not cpu_has_bf16():
            return self._left_out(engine, precision, "This processor does not compute in bfloat16.")
        try:
            note = self._made() if engine == INT8 else ""
            return self._left_out(engine, precision, note) if note else self._measured(engine, precision)
        except (DeviceError, OutputError) as error:
            if not self.reference:
                raise
            return self._left_out(engine, precision, error.message)
        finally:
            gc.collect()  # networks that others refer to are let go before the next engine is measured

    def _left_out(self, engine: str, precision: str, note: str) -> Row:
        self._step(len(self.samples.chosen))
        return Row(engine, precision, note)

    def _step(self, steps: int = 1) -> None:
        self._done += steps
        if self._progress is not None:
            self._progress(min(self._done, self._steps), self._steps)

    def _made(self) -> str:
        """Make the int8 form if it is not there; returns why there is none, or nothing."""
        members = _members(self.model)
        if all(found_form(member.places(), INT8, int8_facts(member)) for member in members):
            return ""
        if self.samples.run is None:
            return "It is made from the training cases, which only the run folder of one fold tells."
        logger.info("Making the int8 form from windows of the training cases.")
        trial = quantize(self.samples.run, self.samples.root)
        return "" if trial.kept else f"Not kept: it loses {trial.lost:.4f} of Dice, less than {BOUND:g} is allowed."

    def _measured(self, engine: str, precision: str) -> Row:
        wish = "auto" if engine == INT8 else precision
        predictor = Predictor(self.model, device="cpu", precision=wish, engine=engine)
        networks = zip(predictor.engines.ready(0), predictor.engines.members, strict=True)
        per_window = sum(window_seconds(ready, member) for ready, member in networks)
        meter, seconds, masks, dice = PeakMeter(), [], {}, []
        meter.begin(engine)
        for sample in self.samples.chosen:
            volume = sample.read()
            start = time.perf_counter()
            masks[sample.id] = predictor(volume).array
            seconds.append(time.perf_counter() - start)
            truth = sample.truth(volume, self.model.labels)
            if truth is not None:
                dice.append(self._dice(sample, masks[sample.id], truth))
            self._step()
        peak = meter.end(engine)
        self.reference = self.reference or masks
        means = self._means(dice)
        known = [value for value in means.values() if value is not None]
        return Row(
            engine,
            precision,
            window_seconds=per_window,
            case_seconds=fmean(seconds),
            peak_bytes=peak,
            disk_bytes=_on_disk(self.model, engine, predictor.precision),
            dice=means,
            dice_mean=fmean(known) if known else None,
            agreement=_agreement(masks, self.reference),
        )

    def _dice(self, sample: Sample, mask: NDArray[np.generic], truth: NDArray[np.generic]) -> list[float | None]:
        """By label index; None where the case was not annotated for the label."""
        if truth.shape != mask.shape:
            raise DataError(f"The mask of {sample.id} has the shape {truth.shape}, its image {mask.shape}.")
        found = dice_per_label(mask, truth, self.model.labels)
        return [value if it else None for value, it in zip(found, sample.known, strict=True)]

    def _means(self, rows: Sequence[Sequence[float | None]]) -> dict[str, float | None]:
        """By structure, over the cases that have it."""
        result: dict[str, float | None] = {}
        for label in self.model.labels.foreground if rows else ():
            values = [row[label.index] for row in rows]
            known = [value for value in values if value is not None]
            result[label.name] = fmean(known) if known else None
        return result


def _members(model: Model) -> list[Member]:
    return [Member(model, number) for number in range(model.size)]


def _agreement(masks: Masks, reference: Masks) -> float:
    same = sum(int(np.count_nonzero(masks[name] == reference[name])) for name in reference)
    return same / sum(mask.size for mask in reference.values())


def _on_disk(model: Model, engine: str, precision: torch.dtype) -> int | None:
    """Bytes of the files that the engine reads; None where the weights lie in a zip."""
    if engine == "torch":
        files = [model.path / name for name in model.spec.weights]
        return sum(file.stat().st_size for file in files) if model.path.is_dir() else None
    return sum(file.stat().st_size for member in _members(model) for file in _form(member, engine, precision).iterdir())


def _form(member: Member, engine: str, precision: torch.dtype) -> Path:
    found: tuple[Path, Any] | None
    found = found_form(member.places(), INT8, int8_facts(member)) if engine == INT8 else None
    return found[0] if found is not None else converted(engine, member, precision)[0]


def _choice(model: Model, rows: Sequence[Row]) -> tuple[str | None, str]:
    """What `auto` takes on this CPU and why; written down if both were measured."""
    precision = resolve_precision("auto", _CPU)
    name = "bf16" if precision == torch.bfloat16 else "fp32"
    seconds = {row.engine: row.window_seconds for row in rows if row.precision == name}
    with_torch, with_openvino = seconds.get("torch"), seconds.get("openvino")
    if with_torch is None or with_openvino is None:
        return None, "OpenVINO was not measured; predict does that when there is enough to do."
    engines = Engines(_members(model), "torch", _CPU, precision)
    return engines.settle(with_openvino, with_torch), engines.reason
