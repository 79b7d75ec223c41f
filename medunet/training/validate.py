"""Scores the held-out cases as prediction would: whole volumes, on their original grid, after post-processing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from numpy.typing import NDArray
from torch.utils.data import default_collate

from medunet.atomic import write_text
from medunet.config.derived import annotated_labels, mirror_axes
from medunet.config.schema import AugmentConfig, Config
from medunet.engines.torch import TorchEngine
from medunet.export.nifti import write_nifti
from medunet.io.volume import Segmentation, Source
from medunet.labels import LabelMap
from medunet.metrics import StructureScore, dice_per_label, score_case
from medunet.postprocess import least_probabilities, needed_heights, postprocess
from medunet.sliding_window.network import Way, network_logits
from medunet.training.cache import CachedCase
from medunet.training.parts import Parts
from medunet.training.patches import PatchDataset
from medunet.training.step import truth_of
from medunet.transforms.restore import restore, restore_heights

_LOSS_PATCHES = 64


@dataclass(frozen=True)
class Validation:
    """Dice per label (mean over the cases where it is defined) and their mean; None where no case defines it.

    `loss` is that of the training, over patches of the held-out cases; None where it was not computed.
    """

    dice: dict[str, float | None]
    mean: float | None
    loss: float | None = None

    def metrics(self) -> dict[str, float | None]:
        """By the names that a config watches: dice, dice/LABEL, validation_loss."""
        each = {f"dice/{name}": value for name, value in self.dice.items()}
        return {"dice": self.mean, **each, "validation_loss": self.loss}

    def line(self) -> str:
        """The Dice as part of a sentence for people."""
        each = ", ".join(f"{name} {_number(value)}" for name, value in self.dice.items())
        return f"mean Dice {_number(self.mean)} ({each})"


@dataclass(frozen=True)
class _Scored:
    """A case after the training: indices (*spatial), rows of per_case.csv, Dice by label index."""

    prediction: NDArray[np.generic]
    rows: list[dict[str, Any]]
    dice: list[float | None]


class Validator:
    """Segments and scores the held-out cases with the network as it is.

    Args:
        parts: the network under training.
        config: the whole configuration.
        labels: names and indices.
        cases: held-out cases, preprocessed.
        interrupted: asked between cases; True stops early.

    Attributes:
        seen: told the logits (C, *S) of every case that is segmented, on the network's grid.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        labels: LabelMap,
        cases: Sequence[CachedCase],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.parts = parts
        self.config = config
        self.labels = labels
        self.cases = list(cases)
        self.interrupted = interrupted
        self.seen: Callable[[CachedCase, torch.Tensor], None] | None = None

    def _engine(self) -> TorchEngine:
        """The network as it is, put into evaluation mode."""
        return TorchEngine(self.parts.judged, self.config.network.dims, self.parts.device, self.parts.precision)

    def segment(self, case: CachedCase, engine: TorchEngine, *, tta: bool) -> NDArray[np.generic]:
        """Indices (*spatial) on the original grid of a case."""
        image = torch.from_numpy(case.image())
        way = Way(
            self.config.train.patch_size,
            overlap=self.config.inference.overlap,
            batch_size=self.config.inference.batch_size,
            mirror_axes=mirror_axes(self.config.augment, self.config.network.dims) if tta else (),
            network=self.config.network,
            neighbours=self.config.preprocess.neighbours,
        )
        logits = network_logits(image, engine, way)
        if self.seen is not None:
            self.seen(case, logits)
        steps = self.config.postprocess
        indices = restore(logits, case.record, self.labels, least_probabilities(steps, self.labels))
        heights = restore_heights(logits, case.record, self.labels, needed_heights(steps, self.labels))
        postprocess(indices, steps, self.labels, case.record.original.spacing, heights)
        return indices

    def _annotated(self, case: CachedCase) -> tuple[bool, ...]:
        """By label index, whether the reference of a case tells anything about it."""
        return annotated_labels(case.id, self.config.data.annotated, self.labels)

    def _only_annotated(self, case: CachedCase, dice: Sequence[float | None]) -> list[float | None]:
        """Dice by label index, None where the case was not annotated for the label."""
        return [value if known else None for value, known in zip(dice, self._annotated(case), strict=True)]

    def run(self) -> Validation:
        """Dice per label over the first `validate.cases` cases, and the loss; several processes share the cases."""
        cases, ranks = self.cases[: self.config.validation.cases], self.parts.ranks
        self.parts.align(dict(self.parts.judged.named_buffers()))
        found = ranks.each(lambda: self._rows(ranks.share(cases)))
        most = max(len(rows) for rows in found)
        in_order = [rows[place] for place in range(most) for rows in found if place < len(rows)]
        return replace(summarise(in_order, self.labels), loss=self.loss(cases))

    def _rows(self, cases: Sequence[CachedCase]) -> list[list[float | None]]:
        """Dice by label index of each case, through MONAI's SupervisedEvaluator; fewer if interrupted."""
        rows: list[list[float | None]] = []
        if not cases:
            return rows
        network = self._engine()

        def score(engine: Any, case: CachedCase) -> None:
            if self.interrupted():
                engine.terminate()
                return
            prediction = self.segment(case, network, tta=False)
            rows.append(self._only_annotated(case, dice_per_label(prediction, case.reference(), self.labels)))

        evaluator = SupervisedEvaluator(
            device=self.parts.device,
            val_data_loader=list(cases),
            epoch_length=len(cases),
            network=self.parts.judged,
            iteration_update=score,
            decollate=False,
        )
        evaluator.logger.setLevel("CRITICAL")  # what goes wrong is raised; ignite would log it as well
        evaluator.run()
        return rows

    def loss(self, cases: Sequence[CachedCase]) -> float | None:
        """Mean over patches of `cases` as they are (no augmentation), the same ones every time: two of each, up to 64.

        The network is in evaluation mode, so deep supervision plays no part. None if interrupted.
        """
        size, number = self.config.train.batch_size, min(2 * len(cases), _LOSS_PATCHES)
        batches, ranks = [range(first, min(first + size, number)) for first in range(0, number, size)], self.parts.ranks
        found = ranks.each(lambda: None if self.interrupted() else self._losses(cases, ranks.share(batches)))
        total = 0.0
        for place, samples in enumerate(batches):
            losses = found[place % ranks.size]
            if losses is None:
                return None
            total += losses[place // ranks.size] * len(samples)
        return total / number

    def _losses(self, cases: Sequence[CachedCase], batches: Sequence[range]) -> list[float]:
        """Of batches of sample numbers; the network sees no more patches at a time than in training."""
        config = self.config.model_copy(update={"augment": AugmentConfig(preset="none")})
        dataset = PatchDataset(cases, config, cases[0].record.network.spacing)
        engine, most = self._engine(), config.train.batch_size // self.parts.ranks.size
        losses = []
        for samples in batches:
            batch = default_collate([dataset[index] for index in samples])
            with torch.inference_mode():
                outputs = [engine(part) for part in batch["image"].split(most)]
                output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
                losses.append(float(self.parts.loss(output, truth_of(batch, self.parts.device))))
        return losses

    def report(self, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> Validation:
        """Score with all metrics and the config's test-time augmentation; masks and per_case.csv go to `folder`.

        The masks lie on the original grids. Structures that a case was not annotated for have no row. Several
        processes share the cases; the first one writes.
        """
        rows: list[dict[str, Any]] = []
        dice: list[list[float | None]] = []
        engine, ranks = self._engine(), self.parts.ranks
        for first in range(0, len(self.cases), ranks.size):
            cases = self.cases[first : first + ranks.size]
            mine = ranks.agree(partial(self._scored, ranks.share(cases), engine))
            found = [scored for part in ranks.collect(mine) for scored in part]  # in the first process, which writes
            ranks.lead(partial(self._write, folder, cases, found))
            rows += [row for scored in found for row in scored.rows]
            dice += [scored.dice for scored in found]
            if progress is not None:
                progress(first + len(cases), len(self.cases))
        ranks.lead(lambda: write_text(folder / "per_case.csv", _csv(rows)))
        return ranks.tell(lambda: summarise(dice, self.labels))

    def _scored(self, cases: Sequence[CachedCase], engine: TorchEngine) -> list[_Scored]:
        """Segment cases with the config's test-time augmentation, and measure the masks."""
        result = []
        for case in cases:
            prediction = self.segment(case, engine, tta=self.config.inference.tta)
            scores = score_case(prediction, case.reference(), self.labels, case.record.original.spacing)
            known = self._annotated(case)
            rows = [
                {"case": case.id, "label": label.name, **asdict(scores[label.name])}
                for label in self.labels.foreground
                if known[label.index]
            ]
            dice = [None, *(scores[label.name].dice for label in self.labels.foreground)]
            result.append(_Scored(prediction, rows, self._only_annotated(case, dice)))
        return result

    def _write(self, folder: Path, cases: Sequence[CachedCase], found: Sequence[_Scored]) -> None:
        """The masks of cases."""
        for case, scored in zip(cases, found, strict=True):
            source = Source(Path(case.id), "array")
            mask = Segmentation(scored.prediction, case.record.original, self.labels, source)
            write_nifti(mask, folder / f"{case.id}_seg.nii.gz")


def summarise(rows: Sequence[Sequence[float | None]], labels: LabelMap) -> Validation:
    """Mean Dice per foreground label and over labels.

    Args:
        rows: per case, Dice by label index (background included, not used); None where undefined.
        labels: names.
    """
    dice: dict[str, float | None] = {}
    for label in labels.foreground:
        values = [row[label.index] for row in rows]
        known = [value for value in values if value is not None]
        dice[label.name] = fmean(known) if known else None
    defined = [value for value in dice.values() if value is not None]
    return Validation(dice, fmean(defined) if defined else None)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """CSV text; undefined values are empty cells."""
    buffer = io.StringIO()
    names = ["case", "label", *(field.name for field in fields(StructureScore))]
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return buffer.getvalue()
