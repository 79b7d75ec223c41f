"""`Predictor`: a volume in, its segmentation on the same grid out; loaded once, used many times.

Holds one engine per network; several of them, of one ensemble or of several models, are averaged: their logits,
each network counted once. No child processes; one call at a time runs on the device, callers from several threads
wait for each other.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.series import SeriesRules
from medunet.engines.contract import Engine
from medunet.engines.device import free_bytes, resolve_device, resolve_precision
from medunet.engines.machine import available_bytes
from medunet.errors import DataError, ModelError, UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.formats import Making, write_mask
from medunet.inference.choice import Engines, Member
from medunet.inference.doubt import MAPS, Doubt
from medunet.inference.memory import bytes_of, resident_bytes
from medunet.inference.plan import Budget, Plan, looked_at, plan
from medunet.inference.quality import Flag, find_flags
from medunet.inference.scratch import Scratch
from medunet.inference.sources import as_volume
from medunet.io.large import LARGE
from medunet.io.pictures import about_channels
from medunet.io.selection import Selection
from medunet.io.volume import Segmentation, Volume
from medunet.labels import LabelMap
from medunet.model import Model, load_model
from medunet.model.seen import AIR, union
from medunet.postprocess import least_probabilities, needed_heights, postprocess
from medunet.sliding_window.blank import Air, Blanks
from medunet.sliding_window.network import Way
from medunet.sliding_window.stream import mean_of, rows_together
from medunet.transforms.preprocess import PreparedImage
from medunet.transforms.restore import (
    HeightRows,
    LabelRows,
    MapRows,
    ProbabilityRows,
    RestoredRows,
    Tile,
    empty_labels,
    empty_probabilities,
    same_labels,
)

logger = logging.getLogger("medunet")

_SHARE = 0.25  # of the memory, which probabilities and maps may take before they go to the disk


@dataclass(frozen=True)
class Prediction(Segmentation):
    """A segmentation that can save itself; see `Segmentation` for the array.

    Attributes:
        probabilities: (C, *spatial) float32 on the same grid, if they were asked for: one channel per label,
            background first; of nested labels one per structure, without the background.
        uncertainty: per structure, numbers from 0 (sure) to 1: `entropy`, if it was asked for, and `disagreement` of
            several networks; see `inference.doubt`.
        maps: (*spatial) float32 on the same grid by name, entropy and disagreement, if they were asked for.
        forecast_bytes: main memory that the process was expected to hold at most.
        engine: library that computed it.
        flags: reasons not to trust it, see `inference.quality`.
        algorithm: the model, as DICOM objects name it.
    """

    probabilities: NDArray[np.float32] | None = None
    uncertainty: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    forecast_bytes: int = 0
    engine: str = ""
    flags: tuple[Flag, ...] = ()
    algorithm: Algorithm = field(default_factory=Algorithm)

    def save(self, path: str | Path, *, wanted: str | None = None, together: tuple[str, ...] = ()) -> Path:
        """Write to .nii, .nii.gz, .png (of a picture), .nrrd, .mha or .dcm (SEG), by the ending or in a named format.

        Args:
            path: where to.
            wanted: of `medunet.export.formats.FORMATS`.
            together: formats that this is saved in as well; a DICOM report refers to a segmentation among them.

        Raises:
            UsageError: no format of that name or ending, DICOM for an image that did not come as DICOM, or
                `dicom-seg-fractional` without probabilities.
            OutputError: it cannot be written.
        """
        return write_mask(self, path, Making(self.algorithm, self.probabilities, together), wanted=wanted)


@dataclass(frozen=True)
class _Wanted:
    """What is kept of a prediction beside the labels, and where it goes if there is much of it; None: to memory."""

    probabilities: bool
    uncertainty: bool
    scratch: Path | None

    def maps(self, labels: LabelMap) -> int:
        """Arrays on the original grid."""
        return labels.outputs * self.probabilities + 2 * self.uncertainty


@dataclass(frozen=True)
class _Course:
    """An image on its way through the networks."""

    image: PreparedImage
    ways: Sequence[Way]
    engines: Sequence[Engine]
    plan: Plan

    def rows(self, tile: Tile, blanks: Sequence[Blanks | None]) -> Iterator[list[Tensor]]:
        """Logits of a tile, of each network."""
        self.image.look_at(looked_at(self.image, self.ways, tile))
        networks = zip(self.ways, self.engines, blanks, strict=True)
        axis = self.plan.axis
        return rows_together(
            [way.rows(self.image, engine, axis, tile.network, blank) for way, engine, blank in networks], axis
        )


class Predictor:
    """Applies one model, or the mean of several, to volumes.

    Args:
        models: a model, a path, or several of them that share labels, channels and preprocessing.
        device: auto, cpu, cuda, cuda:N or mps.
        tta: average over mirrored views; None takes the model's default.
        precision: auto, fp32, bf16 or fp16.
        engine: auto, torch, openvino or onnx; see `inference.choice`.
        memory_limit: main memory that the process may hold, such as "4GB"; None: as much as is free.

    Raises:
        UsageError, ModelError: the models cannot be loaded or do not belong together.
        DeviceError: the device is not there.
    """

    def __init__(
        self,
        models: Model | str | Path | Sequence[Model | str | Path],
        *,
        device: str = "auto",
        tta: bool | None = None,
        precision: str = "auto",
        engine: str = "auto",
        memory_limit: str | None = None,
    ) -> None:
        self.memory_limit = None if memory_limit is None else bytes_of(memory_limit)
        given = [models] if isinstance(models, Model | str | Path) else list(models)
        if not given:
            raise UsageError("At least one model is needed.")
        self.models = [model if isinstance(model, Model) else load_model(model) for model in given]
        check_together(self.models)
        self.spec = self.models[0].spec
        self.labels = self.models[0].labels
        self.seen = union(model.spec.seen for model in self.models)
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.tta = self.spec.inference.tta if tta is None else tta
        unmirrored = [str(model.path) for model in self.models if not model.spec.inference.mirror_axes]
        if self.tta and unmirrored:
            logger.warning("%s: trained without mirrored patches, so mirrored views are left out.", unmirrored[0])
        self._members = [Member(model, number) for model in self.models for number in range(model.size)]
        self.engines = Engines(self._members, engine, self.device, self.precision)
        self._lock = threading.Lock()

    def __call__(
        self,
        source: Any,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
        scratch: str | Path | None = None,
        **which: Any,
    ) -> Prediction:
        """Segment one image.

        Args:
            source: a path (image file or DICOM folder), several paths (one per channel), a `Volume`, a nibabel,
                SimpleITK or itk image.
            probabilities: keep them in the result (C times the memory of the image).
            uncertainty: keep maps of entropy and, of several networks, of disagreement.
            scratch: a folder on a disk that takes large pictures and masks, and probabilities and maps that would fill
                much of the memory.
            which: `series`, `volume`, `irregular` and `colour` of a `Selection`: which volume of a DICOM export, and
                how it is read. A series that is not named has to fit the rules of the model, if it has such.

        Raises:
            DataError: the image cannot be read, holds NaN, or has another number of channels than the model.
            OutOfMemoryError: it cannot be done in the memory that there is.
        """
        place = None if scratch is None else Path(scratch)
        volume = self._volume(source, which, place)
        with self._lock:
            prediction = self._predict(volume, _Wanted(probabilities, uncertainty, place))
        disagreement = {
            name: each["disagreement"] for name, each in prediction.uncertainty.items() if "disagreement" in each
        }
        return replace(prediction, flags=find_flags(volume, prediction, self.seen, disagreement))

    def _volume(self, source: Any, which: Mapping[str, Any], scratch: Path | None = None) -> Volume:
        selection = Selection(**which, rules=rules_of(self.models))
        return self._checked(as_volume(source, selection, channels=len(self.spec.modality), scratch=scratch))

    def _checked(self, volume: Volume) -> Volume:
        """The volume, if the networks take its axes and channels."""
        dims = max(model.spec.network.dims for model in self.models)
        if volume.geometry.rank < dims:
            raise DataError(f"The model takes volumes, but {volume.source.path} is a picture of two axes.")
        if volume.geometry.rank == 2 and self.spec.preprocess.neighbours:
            raise DataError(
                f"The model sees slices with their neighbours, but {volume.source.path} is a picture, which has none."
            )
        wanted = len(self.spec.modality)
        if volume.channels != wanted:
            raise DataError(
                f"The model takes {wanted} channel{'s' if wanted > 1 else ''} ({', '.join(self.spec.modality)}), but "
                f"{volume.source.path} has {volume.channels}.",
                "Save the picture in the colours, or the grey, of the training."
                if about_channels(volume, wanted)
                else "",
            )
        return volume

    def plan(self, source: Any, **which: Any) -> Plan:
        """How an image would be segmented, and in how much memory; the arguments are those of a call."""
        volume = self._volume(source, which)
        with self._lock:
            return self._course(volume).plan

    def _course(self, volume: Volume, **kept: Any) -> _Course:
        """`kept`: what the budget says of maps and labels."""
        image = PreparedImage(volume, self.spec.preprocess)
        engines = self.engines.ready(self._windows(image))
        ways = [self._way(member, engine.at_once) for member, engine in zip(self._members, engines, strict=True)]
        budget = replace(self._budget(image, ways, engines), **kept)
        return _Course(image, ways, engines, plan(image, ways, self.labels, budget))

    def _predict(self, volume: Volume, wanted: _Wanted) -> Prediction:
        maps_bytes = 4 * wanted.maps(self.labels) * math.prod(volume.geometry.shape)
        on_disk = wanted.scratch is not None and maps_bytes > _SHARE * (self.memory_limit or available_bytes())
        apart = wanted.scratch is not None and math.prod(volume.geometry.shape) >= LARGE  # the mask goes to the disk
        course = self._course(
            volume,
            maps=wanted.maps(self.labels),
            maps_held=not on_disk,
            labels_held=not apart or bool(self.spec.postprocess),  # which looks at all of it
        )
        record, name = course.image.record, volume.source.path.name
        logger.info("%s: %s, with %s.", name, course.plan.describe(), self.engines.name)
        scratch, ground = (Scratch(wanted.scratch if away else None) for away in (on_disk, apart))
        indices = empty_labels(record, self.labels, ground.zeros)
        kept = empty_probabilities(record, self.labels, scratch.zeros) if wanted.probabilities else None
        maps = scratch.zeros((2, *record.original.shape)) if wanted.uncertainty else None
        peaks = needed_heights(self.spec.postprocess, self.labels)
        heights = np.zeros((len(peaks), *record.original.shape), np.uint8)
        doubt = Doubt(self.labels, len(self._members), entropy=wanted.uncertainty)
        blanks = self._blanks(course.image)
        least = least_probabilities(self.spec.postprocess, self.labels)
        for tile in course.plan.tiles:
            place = (record, self.labels, course.plan.axis, tile)
            sinks: list[RestoredRows] = [LabelRows(indices, *place, least)]
            sinks += [ProbabilityRows(kept, *place)] if kept is not None else []
            sinks += [HeightRows(heights, *place, peaks)] if peaks else []
            doubts = MapRows(maps, *place) if maps is not None else None
            for parts in course.rows(tile, blanks):
                if doubts is not None:
                    doubts.add(doubt.add(parts))
                elif len(parts) > 1:
                    doubt.add(parts)
                logits = mean_of(parts)
                for sink in sinks:
                    sink.add(logits)
                scratch.let_go()
                ground.let_go()
                del parts, logits  # or the logits of this tile would be held beside those of the next
        _tell_of_air(name, [blank for blank in blanks if blank is not None])
        steps, spacing = self.spec.postprocess, volume.geometry.spacing
        postprocess(indices, steps, self.labels, spacing, dict(zip(peaks, heights, strict=True)))
        return Prediction(
            indices,
            volume.geometry,
            self.labels,
            volume.source,
            probabilities=kept,
            uncertainty=doubt.numbers(),
            maps={} if maps is None else dict(zip(MAPS[: min(2, len(self._members))], maps, strict=False)),
            forecast_bytes=course.plan.peak_bytes,
            engine=self.engines.name,
            algorithm=algorithm_of(self.models),
        )

    def _blanks(self, image: PreparedImage) -> list[Blanks | None]:
        """For each network, the answers for windows that hold nothing."""
        level = None if self.seen is None else self.seen.air
        air = None if level is None else Air(*image.as_seen(0, (level, AIR)))
        agree = partial(same_labels, self.labels)
        return [Blanks(air, agree) if member.model.spec.inference.skip_air else None for member in self._members]

    def _windows(self, image: PreparedImage) -> int:
        """Windows of the network that has the most of them, mirrored views counted."""
        return max(self._way(member).count(image.shape) for member in self._members)

    def _budget(self, image: PreparedImage, ways: Sequence[Way], engines: Sequence[Engine]) -> Budget:
        network = max(
            engine.working_bytes((way.batch_size, image.channels * way.slices, *way.patch))
            for way, engine in zip(ways, engines, strict=True)
        )
        held = resident_bytes()
        limit = held + available_bytes() if self.memory_limit is None else self.memory_limit
        peaks = len(needed_heights(self.spec.postprocess, self.labels))
        return Budget(held, limit, network, free_bytes(self.device), heights=peaks)

    def _way(self, member: Member, at_once: int = 1) -> Way:
        inference = member.model.spec.inference
        return Way(
            inference.patch_size,
            overlap=inference.overlap,
            batch_size=max(inference.batch_size, at_once),
            mirror_axes=inference.mirror_axes if self.tta else (),
            network=member.model.spec.network,
            neighbours=member.model.spec.preprocess.neighbours,
        )


def _tell_of_air(name: str, blanks: Sequence[Blanks]) -> None:
    skipped = sum(blank.skipped for blank in blanks)
    if skipped:
        logger.info("%s: %d windows held nothing, and were not computed.", name, skipped)
    if any(blank.refused for blank in blanks):
        logger.info("%s: the network sees something in the noise of air, so air was computed.", name)


def algorithm_of(models: Sequence[Model]) -> Algorithm:
    """Name and identity of models that are averaged."""
    names = " + ".join(dict.fromkeys(model.spec.name for model in models))
    digest = models[0].id if len(models) == 1 else sha256("".join(model.id for model in models).encode()).hexdigest()
    return Algorithm(names, digest)


def check_together(models: Sequence[Model]) -> None:
    """Refuse models of different tasks.

    Raises:
        ModelError: they differ in labels, channels or preprocessing.
    """
    first, *others = models
    rules_of(models)
    for model in others:
        for key, same in (
            ("labels", model.labels.labels == first.labels.labels),  # in order: it is that of the network's output
            ("modality", model.spec.modality == first.spec.modality),
            ("preprocess", model.spec.preprocess == first.spec.preprocess),
        ):
            if not same:
                raise ModelError(
                    f"{model.path} and {first.path} differ in {key}; an ensemble needs models of one task.",
                    "Predict with one of them, or train both from one config.",
                )


def rules_of(models: Sequence[Model]) -> SeriesRules | None:
    """Which series of a DICOM export the models want; None: they say nothing of it.

    Raises:
        ModelError: they want different ones.
    """
    stated = {model.spec.inference.series: model for model in models if model.spec.inference.series is not None}
    if len(stated) > 1:
        first, other, *_ = stated.values()
        raise ModelError(
            f"{first.path} and {other.path} want different series of a DICOM export (inference.series in model.yaml).",
            "Predict with one of them, or train both from one config.",
        )
    return next(iter(stated), None)
