"""A network in whole numbers of 8 bits: made from windows of its training cases, kept if it segments as well.

OpenVINO computes such convolutions faster than others where the processor has instructions for them (VNNI, AMX). What
that costs is measured on the held-out cases of the run, on the original grid, before post-processing; a form that loses
`BOUND` of Dice or more is thrown away. Nothing takes it unless it is asked for (`--engine openvino-int8`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.derived import annotated_labels
from medunet.config.load import load_config
from medunet.config.schema import Config
from medunet.engines.contract import Engine
from medunet.engines.device import resolve_precision
from medunet.engines.forms import new_form
from medunet.engines.openvino import OpenVinoEngine, write_int8
from medunet.errors import DatasetError, UsageError
from medunet.inference.choice import INT8, Member, build, converted, int8_facts, measured_working, window_seconds
from medunet.inference.samples import spread
from medunet.io.case import Case
from medunet.io.labelled import read_case_image, read_case_label
from medunet.io.manifest import read_manifest
from medunet.io.volume import Volume
from medunet.metrics import dice_per_label
from medunet.model import Model, load_model
from medunet.sliding_window.network import Way, network_logits
from medunet.transforms.preprocess import preprocess
from medunet.transforms.restore import restore

BOUND = 0.001
"""Loss of mean Dice from which on a form is not kept."""

_WINDOWS = 128
_CASES = 32  # training cases that the windows come from
_CPU = torch.device("cpu")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Trial:
    """What an int8 form costs and gains, over the held-out cases of a run.

    Attributes:
        kept: whether it lost less than `BOUND` of Dice.
        cases: held-out ones.
        dice: mean over structures of the mean over cases, by engine: openvino and openvino-int8.
        changed: share of the voxels that got another label.
        window_seconds: by engine.
        precision: of openvino, and of what int8 leaves as it is.
        model: folder.
    """

    kept: bool
    cases: int
    dice: dict[str, float]
    changed: float
    window_seconds: dict[str, float]
    precision: str
    model: str

    @property
    def lost(self) -> float:
        """Dice."""
        return self.dice["openvino"] - self.dice[INT8]


class _Refused(Exception):
    """Carries the trial of a form out of the folder that is thrown away."""

    def __init__(self, trial: Trial) -> None:
        super().__init__()
        self.trial = trial


def quantize(run: str | Path, data: str | Path | None = None, *, progress: Progress | None = None) -> Trial:
    """Make an int8 form of the model of a run, and keep it beside the weights if it segments as well.

    Args:
        run: folder of one fold's training.
        data: data set, where it does not lie where the run had it.
        progress: called with the number of cases done and of all.

    Raises:
        UsageError: the folder is no run of one fold.
        DatasetError: cases of the run are missing.
        DeviceError: OpenVINO or NNCF is not installed, or does not understand the network.
        OutputError: the form cannot be kept anywhere.
    """
    run = Path(run)
    config = _config(run, data)
    member = Member(load_model(run), 0)
    training, held_out = _cases(run, config)
    precision = resolve_precision("auto", _CPU)
    plain = build("openvino", member, _CPU, precision)
    steps = len(training) + len(held_out)

    def told(done: int) -> None:
        if progress is not None:
            progress(done, steps)

    def make(folder: Path) -> dict[str, Any]:
        windows = _windows(training, member, told)
        form, _ = converted("openvino", member, precision)
        write_int8(form, windows, folder)
        small = OpenVinoEngine(folder, precision, name=INT8)
        working = measured_working(small, member)
        trial = _tried(plain, small, member, held_out, config, lambda done: told(len(training) + done))
        if not trial.kept:
            raise _Refused(trial)
        return {"working_bytes": working, "trial": asdict(trial)}

    try:
        _, notes = new_form(member.places(), INT8, int8_facts(member), make)
    except _Refused as refused:
        return refused.trial
    return Trial(**notes["trial"])


def _config(run: Path, data: str | Path | None) -> Config:
    if not (run / "config.yaml").is_file() or not (run / "splits.json").is_file():
        raise UsageError(
            f"{run} is no run of one fold: config.yaml or splits.json is missing.",
            "Give the folder that `medunet train --out` wrote to; of a run over all folds, that of one of them.",
        )
    return load_config(run / "config.yaml", data=data)


def _cases(run: Path, config: Config) -> tuple[list[Case], list[Case]]:
    """Up to `_CASES` of those that were trained on, and all that were held out."""
    there = {case.id: case for case in read_manifest(
        Path(config.data.root), config.data.format, channels=len(config.data.modality), log_notes=False,
        options=config.data,
    ).by_rules(config.data.series)}  # fmt: skip
    split = json.loads((run / "splits.json").read_bytes())[config.data.fold]
    missing = [name for name in (*split["train"], *split["val"]) if name not in there]
    if missing:
        raise DatasetError(
            f"{len(missing)} cases of the run are not in {config.data.root}, the first is {missing[0]}.",
            "Give the data set of the training with --data.",
        )
    return [there[name] for name in spread(split["train"], _CASES)], [there[name] for name in split["val"]]


def _way(model: Model) -> Way:
    inference = model.spec.inference
    return Way(
        inference.patch_size,
        overlap=inference.overlap,
        network=model.spec.network,
        neighbours=model.spec.preprocess.neighbours,
    )


def _array(case: Case, model: Model) -> tuple[Tensor, Any]:
    return _prepared(read_case_image(case, channels=len(model.spec.modality)), model)


def _prepared(volume: Volume, model: Model) -> tuple[Tensor, Any]:
    array, record = preprocess(volume, model.spec.preprocess)
    return torch.from_numpy(array), record


def _windows(cases: Sequence[Case], member: Member, told: Callable[[int], None]) -> list[Tensor]:
    """Windows of training cases as prediction cuts them, evenly spaced in each."""
    found: list[Tensor] = []
    per_case = -(-_WINDOWS // len(cases))
    for done, case in enumerate(cases, start=1):
        array, _ = _array(case, member.model)
        found += _windows_of(array, member.model, per_case)
        told(done)
    return found


def _windows_of(array: Tensor, model: Model, wanted: int) -> list[Tensor]:
    way, margin = _way(model), model.spec.network.margin
    numbers = itertools.count()
    chosen = set(np.linspace(0, way.count(array.shape[1:]) - 1, wanted).round().astype(int))
    found: list[Tensor] = []

    def note(patches: Tensor) -> Tensor:
        found.extend(patch[None].clone() for patch in patches if next(numbers) in chosen)
        inner = [size - 2 * side for size, side in zip(patches.shape[2:], margin, strict=True)]
        return torch.zeros((len(patches), model.labels.outputs, *inner))

    network_logits(array, note, way)
    return found


def _tried(
    plain: Engine,
    small: Engine,
    member: Member,
    cases: Sequence[Case],
    config: Config,
    told: Callable[[int], None],
) -> Trial:
    """Both engines over the held-out cases."""
    engines, labels = {"openvino": plain, INT8: small}, member.model.labels
    dice: dict[str, list[list[float | None]]] = {name: [] for name in engines}
    changed = voxels = 0
    for done, case in enumerate(cases, start=1):
        if case.label is None:
            continue
        volume = read_case_image(case, channels=len(member.model.spec.modality))
        array, record = _prepared(volume, member.model)
        reference = labels.to_indices(read_case_label(case, volume, labels).values)
        known = annotated_labels(case.id, config.data.annotated, labels)
        masks: dict[str, NDArray[np.generic]] = {}
        for name, engine in engines.items():
            masks[name] = restore(network_logits(array, engine, _way(member.model)), record, labels)
            found = dice_per_label(masks[name], reference, labels)
            dice[name].append([value if it else None for value, it in zip(found, known, strict=True)])
        changed += int(np.count_nonzero(masks["openvino"] != masks[INT8]))
        voxels += reference.size
        told(done)
    means = {name: _mean(rows) for name, rows in dice.items()}
    return Trial(
        kept=means["openvino"] - means[INT8] < BOUND,
        cases=len(dice[INT8]),
        dice=means,
        changed=changed / max(1, voxels),
        window_seconds={name: window_seconds(engine, member) for name, engine in engines.items()},
        precision=str(plain.precision).removeprefix("torch."),
        model=str(member.model.path),
    )


def _mean(rows: Sequence[Sequence[float | None]]) -> float:
    """Over structures, of the mean over the cases that have them; background left out."""
    columns = ([value for value in column if value is not None] for column in list(zip(*rows, strict=True))[1:])
    return fmean(fmean(column) for column in columns if column)
