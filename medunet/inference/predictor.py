"""`Predictor`: a volume in, its segmentation on the same grid out; loaded once, used many times.

Holds one engine per network; several of them, of one ensemble or of several models, are averaged: their logits,
each network counted once. No child processes; one call at a time runs on the device, callers from several threads
wait for each other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medunet.engines.device import resolve_device, resolve_precision
from medunet.engines.torch import TorchEngine
from medunet.errors import DataError, ModelError, UsageError
from medunet.export.itk import write_itk
from medunet.export.nifti import write_nifti
from medunet.geometry import Geometry
from medunet.io.files import NIFTI, check_finite, from_itk, from_simpleitk, image_ending
from medunet.io.read import read_volume
from medunet.io.volume import Segmentation, Source, Volume
from medunet.model import Model, ModelSpec, load_model
from medunet.postprocess import postprocess
from medunet.sliding_window.network import Way, best_axis
from medunet.sliding_window.stream import mean_rows
from medunet.transforms.preprocess import PreparedImage
from medunet.transforms.restore import LabelRows, ProbabilityRows, RestoredRows, empty_labels, empty_probabilities

logger = logging.getLogger("medunet")

_MEMORY = Path("image")

MASKS = (*NIFTI, ".nrrd", ".mha")
"""Endings of files that a mask can be written to."""


@dataclass(frozen=True)
class Prediction(Segmentation):
    """A segmentation that can save itself; see `Segmentation` for the array.

    Attributes:
        probabilities: (C, *spatial) float32 on the same grid, if they were asked for: one channel per label,
            background first; of nested labels one per structure, without the background.
    """

    probabilities: NDArray[np.float32] | None = None

    def save(self, path: str | Path) -> Path:
        """Write to .nii, .nii.gz, .nrrd or .mha, by the ending.

        Raises:
            UsageError: another ending.
            OutputError: it cannot be written.
        """
        path = Path(path)
        ending = image_ending(path)
        if ending not in MASKS:
            raise UsageError(f"{path} has no ending that a mask can be written to.", f"Use {', '.join(MASKS)}.")
        return write_nifti(self, path) if ending in NIFTI else write_itk(self, path)


class Predictor:
    """Applies one model, or the mean of several, to volumes.

    Args:
        models: a model, a path, or several of them that share labels, channels and preprocessing.
        device: auto, cpu, cuda, cuda:N or mps.
        tta: average over mirrored views; None takes the model's default.
        precision: auto, fp32, bf16 or fp16.

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
    ) -> None:
        given = [models] if isinstance(models, Model | str | Path) else list(models)
        if not given:
            raise UsageError("At least one model is needed.")
        self.models = [model if isinstance(model, Model) else load_model(model) for model in given]
        check_together(self.models)
        self.spec = self.models[0].spec
        self.labels = self.models[0].labels
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.tta = self.spec.inference.tta if tta is None else tta
        unmirrored = [str(model.path) for model in self.models if not model.spec.inference.mirror_axes]
        if self.tta and unmirrored:
            logger.warning("%s: trained without mirrored patches, so mirrored views are left out.", unmirrored[0])
        self._networks = [
            (model.spec, TorchEngine(model.build(number), model.spec.network.dims, self.device, self.precision))
            for model in self.models
            for number in range(model.size)
        ]
        self._lock = threading.Lock()

    def __call__(self, source: Any, *, series: str | None = None, probabilities: bool = False) -> Prediction:
        """Segment one image.

        Args:
            source: a path (image file or DICOM folder), several paths (one per channel), a `Volume`, a nibabel,
                SimpleITK or itk image.
            series: which DICOM series: UID, text of its description, or "largest".
            probabilities: keep them in the result (C times the memory of the image).

        Raises:
            DataError: the image cannot be read, holds NaN, or has another number of channels than the model.
        """
        volume = as_volume(source, series, channels=len(self.spec.modality))
        dims = max(model.spec.network.dims for model in self.models)
        if volume.geometry.rank < dims:
            raise DataError(f"The model takes volumes, but {volume.source.path} is a picture of two axes.")
        if volume.channels != len(self.spec.modality):
            raise DataError(
                f"The model takes {len(self.spec.modality)} channels ({', '.join(self.spec.modality)}), but "
                f"{volume.source.path} has {volume.channels}."
            )
        with self._lock:
            return self._predict(volume, probabilities=probabilities)

    def _predict(self, volume: Volume, *, probabilities: bool) -> Prediction:
        image = PreparedImage(volume, self.spec.preprocess)
        ways = [self._way(spec) for spec, _ in self._networks]
        axis = best_axis(ways, image.shape)
        indices = empty_labels(image.record, self.labels)
        sinks: list[RestoredRows] = [LabelRows(indices, image.record, self.labels, axis)]
        kept = empty_probabilities(image.record, self.labels) if probabilities else None
        if kept is not None:
            sinks.append(ProbabilityRows(kept, image.record, self.labels, axis))
        streams = [way.rows(image, engine, axis) for way, (_, engine) in zip(ways, self._networks, strict=True)]
        for logits in mean_rows(streams, axis):
            for sink in sinks:
                sink.add(logits)
        voxel_ml = volume.geometry.voxel_volume_ml
        indices = postprocess(indices, self.spec.postprocess, self.labels, voxel_ml)
        return Prediction(indices, volume.geometry, self.labels, volume.source, kept)

    def _way(self, spec: ModelSpec) -> Way:
        inference = spec.inference
        return Way(
            inference.patch_size,
            overlap=inference.overlap,
            batch_size=inference.batch_size,
            mirror_axes=inference.mirror_axes if self.tta else (),
            network=spec.network,
        )


def as_volume(source: Any, series: str | None = None, *, channels: int | None = None) -> Volume:
    """Turn what a caller has into a `Volume`.

    Args:
        source: as `Predictor` takes it.
        series: which DICOM series.
        channels: channels that are expected, for pictures that may be stored grey or in colour.

    Raises:
        UsageError: a type that is not understood.
        DataError: an image that cannot be read or holds NaN.
    """
    if isinstance(source, str | Path):
        return read_volume(Path(source), select=series, channels=channels)
    if isinstance(source, list | tuple) and all(isinstance(item, str | Path) for item in source):
        return read_volume(tuple(Path(item) for item in source), select=series, channels=channels)
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, Volume):
        volume = source
    elif module == "nibabel":
        volume = _from_nibabel(source)
    elif module == "SimpleITK":
        volume = from_simpleitk(source, Source(_MEMORY, "nrrd"))
    elif module == "itk":
        volume = from_itk(source, Source(_MEMORY, "nrrd"))
    else:
        raise UsageError(
            f"A {type(source).__name__} cannot be segmented.",
            "Give a path, a Volume, a nibabel, SimpleITK or itk image.",
        )
    check_finite(volume.array, volume.source.path)
    return volume


def _from_nibabel(image: Any) -> Volume:
    """A nibabel image as it would be read from a file: float32 where its header scales, else as stored."""
    from nibabel import Nifti1Image

    stored = image.dataobj
    scaled = (getattr(stored, "slope", 1.0), getattr(stored, "inter", 0.0)) != (1.0, 0.0)
    array = np.asarray(stored, dtype=np.float32) if scaled else np.asarray(stored)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim != 3 or array.dtype.kind not in "biuf" or image.affine is None:
        affine = "no affine" if image.affine is None else "an affine"
        raise DataError(
            f"A nibabel image of {array.ndim} axes, {array.dtype} voxels and {affine} is no volume.",
            "Give one 3D image of real numbers.",
        )
    geometry = Geometry.from_affine(image.affine, array.shape)
    known = isinstance(image, Nifti1Image)
    source = Source(_MEMORY, "nifti", header=image.header) if known else Source(_MEMORY, "array")
    return Volume(array[None], geometry, source)


def check_together(models: Sequence[Model]) -> None:
    """Refuse models of different tasks.

    Raises:
        ModelError: they differ in labels, channels or preprocessing.
    """
    first, *others = models
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
