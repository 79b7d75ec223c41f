"""From a volume to what the network sees, and from the network's grid back: one chain for training and prediction.

    volume > orientation > crop > intensity > spacing > array (C, *S) float32 + Record
    logits on S > native spacing > labels > uncrop > original orientation

What was done stands in the `Record` and is undone by it. The chain is deterministic and starts by bringing
the voxels into one memory order, so the same patient stored as RAS, LPS or ASR gives bit-identical arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import (
    Intensity,
    IntensityCtWindow,
    IntensityNone,
    IntensityPercentile,
    PreprocessConfig,
)
from medunet.errors import DataError
from medunet.geometry import Geometry, Reorientation, bounding_box
from medunet.io.volume import Volume
from medunet.labels import LabelMap
from medunet.transforms.resample import resample, resample_argmax, resample_labels, resample_nested

PREPROCESS_VERSION = 1
"""Goes into the cache key; raise it when the chain gives other numbers."""

_SAME_SPACING = 1.04e-3  # 0.1 %, moved off the round number so that header rounding does not decide a tie
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Record:
    """What `preprocess` did to one volume.

    Attributes:
        original: grid of the volume as read.
        change: permutation and flips applied first.
        crop_start, crop_shape: box in the reoriented grid that was kept.
        network: grid of the result.
    """

    original: Geometry
    change: Reorientation
    crop_start: tuple[int, ...]
    crop_shape: tuple[int, ...]
    network: Geometry

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "original": _geometry_dict(self.original),
            "axes": list(self.change.axes),
            "flips": list(self.change.flips),
            "crop_start": list(self.crop_start),
            "crop_shape": list(self.crop_shape),
            "network": _geometry_dict(self.network),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """Inverse of `to_dict`."""
        return cls(
            original=_geometry_from(data["original"]),
            change=Reorientation(tuple(data["axes"]), tuple(data["flips"])),
            crop_start=tuple(data["crop_start"]),
            crop_shape=tuple(data["crop_shape"]),
            network=_geometry_from(data["network"]),
        )


def _geometry_dict(geometry: Geometry) -> dict[str, Any]:
    return {
        "shape": list(geometry.shape),
        "spacing": list(geometry.spacing),
        "origin": list(geometry.origin),
        "direction": [list(row) for row in geometry.direction],
    }


def _geometry_from(data: dict[str, Any]) -> Geometry:
    return Geometry(
        tuple(data["shape"]),
        tuple(data["spacing"]),
        tuple(data["origin"]),
        tuple(tuple(row) for row in data["direction"]),
    )


def preprocess(volume: Volume, config: PreprocessConfig) -> tuple[NDArray[np.float32], Record]:
    """Bring a volume to the network's orientation, field of view, intensity and spacing.

    Args:
        volume: (C, *spatial), any real dtype.
        config: the `preprocess:` section.

    Returns:
        Array (C, *S) float32, C-contiguous, and the record that undoes it.

    Raises:
        GeometryError: the orientation does not fit the rank.
        DataError: as many intensity rules as channels are needed, or one.
    """
    change = _orientation(volume.geometry, config.orientation)
    array = change.apply(volume.array)
    oriented = volume.geometry.reoriented(change)
    start, shape = _crop_box(array, config)
    array = array[_box((0, *start), (array.shape[0], *shape))]
    cropped = oriented.cropped(start, shape)
    target = network_shape(cropped, config)
    image = torch.empty((array.shape[0], *target), dtype=torch.float32)
    rules = _rules(config, array.shape[0])
    for channel, rule in enumerate(rules):
        values = _normalise(np.require(array[channel], np.float32, ["C", "W"]), rule)
        image[channel] = resample(torch.from_numpy(values), target, config.interpolation)
    record = Record(volume.geometry, change, start, shape, cropped.resampled(target))
    return image.numpy(), record


def preprocess_labels(indices: NDArray[np.generic], record: Record) -> NDArray[np.generic]:
    """Bring label indices (*spatial) on the original grid to the network's grid.

    Args:
        indices: internal indices, that of ignored voxels included, uint8 or uint16.
        record: of the image.
    """
    array = record.change.apply(indices)
    array = array[_box(record.crop_start, record.crop_shape)]
    labels = torch.from_numpy(np.ascontiguousarray(array).astype(np.int32))
    return resample_labels(labels, record.network.shape).numpy().astype(indices.dtype)


def restore(logits: Tensor, record: Record, labels: LabelMap) -> NDArray[np.generic]:
    """Label indices (*spatial) on the original grid from logits (C, *S) on the network's grid.

    Logits are interpolated linearly before a label is chosen, as nnU-Net does: the one with the largest, or, of nested
    structures, the innermost one whose logit is above 0 (see `resample_nested`). Outside the crop is background.

    Args:
        logits: `labels.outputs` channels.
        record: of the image.
        labels: what the channels mean.
    """
    dtype = torch.int32 if labels.index_dtype.itemsize > 1 else torch.uint8
    if labels.nested:
        indices = resample_nested(logits, record.crop_shape, labels.levels, labels.membership, dtype)
    else:
        indices = resample_argmax(logits, record.crop_shape, dtype)
    return restore_array(indices.numpy().astype(labels.index_dtype, copy=False), record)


def restore_probabilities(logits: Tensor, record: Record, labels: LabelMap) -> NDArray[np.float32]:
    """Probabilities (C, *spatial) on the original grid, from logits (C, *S) on the network's grid.

    By softmax, background first, which has 1 outside the crop; of nested structures by sigmoid, one channel per
    structure, 0 outside the crop.
    """
    probabilities = logits.sigmoid() if labels.nested else logits.softmax(0)
    result = np.empty((len(probabilities), *record.original.shape), dtype=np.float32)
    for index, channel in enumerate(probabilities):
        native = resample(channel, record.crop_shape, "linear").cpu().numpy()
        result[index] = restore_array(native, record, fill=0.0 if index or labels.nested else 1.0)
    return result


def restore_array(array: NDArray[np.generic], record: Record, fill: float = 0) -> NDArray[np.generic]:
    """Put a native-spacing array of the crop back into the original grid and orientation."""
    oriented_shape = [record.original.shape[axis] for axis in record.change.axes]
    if tuple(oriented_shape) != record.crop_shape:
        whole = np.full(oriented_shape, fill, dtype=array.dtype)
        whole[_box(record.crop_start, record.crop_shape)] = array
        array = whole
    return record.change.undo(array)


def network_shape(geometry: Geometry, config: PreprocessConfig) -> tuple[int, ...]:
    """Voxels per axis after resampling; an axis whose spacing already fits to 0.1 % keeps its size."""
    if config.spacing is None:
        return geometry.shape
    if len(config.spacing) != geometry.rank:
        raise DataError(
            f"preprocess.spacing has {len(config.spacing)} numbers, but the image has {geometry.rank} axes.",
            "Give one spacing per axis, or null.",
        )
    shape = []
    for size, here, wanted in zip(geometry.shape, geometry.spacing, config.spacing, strict=True):
        if abs(here - wanted) <= _SAME_SPACING * wanted:
            shape.append(size)
        else:
            # The slack keeps header rounding (DICOM text against NIfTI float32) from deciding a tie.
            shape.append(max(1, int(np.floor(size * here / wanted + 0.5 + 1e-3))))
    return tuple(shape)


def _orientation(geometry: Geometry, axcodes: str) -> Reorientation:
    if geometry.rank == 2:
        return Reorientation((0, 1), (False, False))
    return geometry.reorientation(axcodes)


def _box(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def _crop_box(array: NDArray[Any], config: PreprocessConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and size of what is kept: all of it without a crop, or where nothing is above the threshold."""
    shape = array.shape[1:]
    box = None if config.crop is None else bounding_box(np.any(array > config.crop.above, axis=0))
    if config.crop is None or box is None:
        return (0,) * len(shape), tuple(shape)
    margin = config.crop.margin
    start = tuple(max(0, side.start - margin) for side in box)
    stop = tuple(min(n, side.stop + margin) for side, n in zip(box, shape, strict=True))
    return start, tuple(high - low for low, high in zip(start, stop, strict=True))


def _rules(config: PreprocessConfig, channels: int) -> tuple[Intensity, ...]:
    if len(config.intensity) == 1:
        return config.intensity * channels
    if len(config.intensity) != channels:
        raise DataError(
            f"preprocess.intensity has {len(config.intensity)} entries, but the image has {channels} channels.",
            "Give one entry for all channels, or one per channel.",
        )
    return config.intensity


def _normalise(values: NDArray[np.float32], rule: Intensity) -> NDArray[np.float32]:
    """Normalise one channel (*spatial); a constant image becomes 0."""
    if isinstance(rule, IntensityNone):
        return values
    if isinstance(rule, IntensityCtWindow):
        low, high = np.float32(rule.low), np.float32(rule.high)
        scaled: NDArray[np.float32] = np.clip(values, low, high)
        scaled -= low
        scaled /= high - low
        return scaled
    if isinstance(rule, IntensityPercentile):
        low, high = (np.float32(value) for value in np.percentile(values, [rule.low, rule.high]))
        return _standardise(np.clip(values, low, high), None)
    return _standardise(values, values != 0 if rule.nonzero else None)


def _standardise(values: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    chosen = values if inside is None else values[inside]
    if chosen.size == 0:
        return np.zeros_like(values)
    mean, deviation = _moments(chosen.reshape(-1))
    result: NDArray[np.float32] = values - np.float32(mean)
    result /= np.float32(max(deviation, 1e-8))
    if inside is not None:
        result[~inside] = 0
    return result


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation in float64, without a float64 copy of the volume."""
    blocks = [values[start : start + _BLOCK] for start in range(0, values.size, _BLOCK)]
    mean = sum(float(block.sum(dtype=np.float64)) for block in blocks) / values.size
    variance = sum(float(np.square(block - mean, dtype=np.float64).sum()) for block in blocks) / values.size
    return mean, variance**0.5
