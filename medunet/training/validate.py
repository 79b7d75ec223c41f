"""Scores the held-out cases as prediction would: whole volumes, on their original grid, after post-processing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator
from numpy.typing import NDArray

from medunet.atomic import write_text
from medunet.config.derived import annotated_labels, mirror_axes
from medunet.config.schema import Config
from medunet.engines.torch import TorchEngine
from medunet.export.nifti import write_nifti
from medunet.io.volume import Segmentation, Source
from medunet.labels import LabelMap
from medunet.metrics import StructureScore, dice_per_label, score_case
from medunet.postprocess import postprocess
from medunet.sliding_window import network_logits
from medunet.training.cache import CachedCase
from medunet.training.parts import Parts
from medunet.transforms.preprocess import restore


@dataclass(frozen=True)
class Validation:
    """Dice per label (mean over the cases where it is defined) and their mean; None where no case defines it."""

    dice: dict[str, float | None]
    mean: float | None


class Validator:
    """Segments and scores preprocessed cases with the network as it is.

    Args:
        parts: the network under training.
        config: the whole configuration.
        labels: names and indices.
        interrupted: asked between cases; True stops early.
    """

    def __init__(
        self, parts: Parts, config: Config, labels: LabelMap, interrupted: Callable[[], bool] = lambda: False
    ) -> None:
        self.parts = parts
        self.config = config
        self.labels = labels
        self.interrupted = interrupted

    def _engine(self) -> TorchEngine:
        """The network as it is, put into evaluation mode."""
        return TorchEngine(self.parts.network, self.config.network.dims, self.parts.device, self.parts.precision)

    def segment(self, case: CachedCase, engine: TorchEngine, *, tta: bool) -> NDArray[np.generic]:
        """Indices (*spatial) on the original grid of a case."""
        image = torch.from_numpy(np.array(case.image()))
        logits = network_logits(
            image,
            engine,
            self.config.train.patch_size,
            overlap=self.config.inference.overlap,
            batch_size=self.config.inference.batch_size,
            mirror_axes=mirror_axes(self.config.augment, self.config.network.dims) if tta else (),
            network=self.config.network,
        )
        indices = restore(logits, case.record, self.labels)
        voxel_ml = case.record.original.voxel_volume_ml
        return postprocess(indices, self.config.postprocess, self.labels, voxel_ml)

    def _annotated(self, case: CachedCase) -> tuple[bool, ...]:
        """By label index, whether the reference of a case tells anything about it."""
        return annotated_labels(case.id, self.config.data.annotated, self.labels)

    def _only_annotated(self, case: CachedCase, dice: Sequence[float | None]) -> list[float | None]:
        """Dice by label index, None where the case was not annotated for the label."""
        return [value if known else None for value, known in zip(dice, self._annotated(case), strict=True)]

    def run(self, cases: Sequence[CachedCase], *, tta: bool = False) -> Validation:
        """Dice per label over `cases`, through MONAI's SupervisedEvaluator."""
        rows: list[list[float | None]] = []
        network = self._engine()

        def score(engine: Any, case: CachedCase) -> None:
            if self.interrupted():
                engine.terminate()
                return
            prediction = self.segment(case, network, tta=tta)
            rows.append(self._only_annotated(case, dice_per_label(prediction, case.reference(), self.labels)))

        evaluator = SupervisedEvaluator(
            device=self.parts.device,
            val_data_loader=list(cases),
            epoch_length=len(cases),
            network=self.parts.network,
            iteration_update=score,
            decollate=False,
        )
        evaluator.logger.setLevel("CRITICAL")  # what goes wrong is raised; ignite would log it as well
        evaluator.run()
        return summarise(rows, self.labels)

    def report(
        self, cases: Sequence[CachedCase], folder: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> Validation:
        """Score with all metrics and the config's test-time augmentation; masks and per_case.csv go to `folder`.

        The masks lie on the original grids. Structures that a case was not annotated for have no row.
        """
        rows: list[dict[str, Any]] = []
        dice: list[list[float | None]] = []
        engine = self._engine()
        for done, case in enumerate(cases, start=1):
            prediction = self.segment(case, engine, tta=self.config.inference.tta)
            geometry = case.record.original
            source = Source(Path(case.id), "array")
            write_nifti(Segmentation(prediction, geometry, self.labels, source), folder / f"{case.id}_seg.nii.gz")
            scores = score_case(prediction, case.reference(), self.labels, geometry.spacing)
            known = self._annotated(case)
            for label in self.labels.foreground:
                if known[label.index]:
                    rows.append({"case": case.id, "label": label.name, **asdict(scores[label.name])})
            found = [None, *(scores[label.name].dice for label in self.labels.foreground)]
            dice.append(self._only_annotated(case, found))
            if progress is not None:
                progress(done, len(cases))
        write_text(folder / "per_case.csv", _csv(rows))
        return summarise(dice, self.labels)


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


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """CSV text; undefined values are empty cells."""
    buffer = io.StringIO()
    names = ["case", "label", *(field.name for field in fields(StructureScore))]
    writer = csv.DictWriter(buffer, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    return buffer.getvalue()
