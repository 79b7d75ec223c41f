"""From a volume to what the network sees, and from the network's grid back: one chain for training and prediction.

    volume > orientation > crop > intensity > spacing > array (C, *S) float32 + Record
    logits on S > native spacing > labels > uncrop > original orientation

What was done stands in the `Record` and is undone by it. The chain is deterministic and sees the voxels in one order,
so the same patient stored as RAS, LPS or ASR gives bit-identical arrays. It goes a few rows at a time, so that a volume
is never held in float32. The way back is `transforms.restore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medunet.config.schema import Intensity, PreprocessConfig
from medunet.errors import DataError
from medunet.geometry import Geometry, Reorientation, bounding_box
from medunet.io.mapped import blocks, let_go, outermost
from medunet.io.volume import Volume
from medunet.transforms.intensity import Change, fitted
from medunet.transforms.resample import Kind, along_lines, lines_over, resample_labels

PREPROCESS_VERSION = 3
"""Goes into the cache key; raise it when the chain gives other numbers."""

_SAME_SPACING = 1.04e-3  # 0.1 %, moved off the round number so that header rounding does not decide a tie
_SUMMED = 1 << 20
"""Pixels of a picture that are summed up at a time."""

READ = 1 << 22
"""Voxels of the volume, per channel, that are resampled at a time: 16 MB in float32."""


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


class PreparedImage:
    """A volume as the network sees it, a few rows at a time: no more of it is ever held in float32.

    Args:
        volume: (C, *spatial), any real dtype.
        config: the `preprocess:` section.

    Attributes:
        shape: voxels per axis of the network's grid.
        record: what undoes it.

    Raises:
        GeometryError: the orientation does not fit the rank.
        DataError: as many intensity rules as channels are needed, or one.
    """

    def __init__(self, volume: Volume, config: PreprocessConfig) -> None:
        change = _orientation(volume.geometry, config.orientation)
        oriented = change.view(volume.array)
        start, shape = _crop_box(oriented, config)
        self._native = oriented[box_of((0, *start), (len(oriented), *shape))]
        self._kind: Kind = "area" if config.size else config.interpolation
        cropped = volume.geometry.reoriented(change).cropped(start, shape)
        self.shape = network_shape(cropped, config)
        self.record = Record(volume.geometry, change, start, shape, cropped.resampled(self.shape))
        self._changes = [
            fitted(rule, partial(_parts, self._native[channel]), channel, len(self._native))
            for channel, rule in enumerate(_rules(config, len(self._native)))
        ]
        self._seen = tuple((0, size) for size in self.shape)
        self._last: tuple[int, int, Tensor] | None = None

    @property
    def channels(self) -> int:
        """Of the image."""
        return len(self._native)

    def as_seen(self, channel: int, values: Sequence[float]) -> list[float]:
        """Intensities of a channel as the network sees them."""
        return [float(value) for value in self._changes[channel](np.array(values, np.float32))]

    def look_at(self, box: Sequence[tuple[int, int]]) -> None:
        """From now on prepare only what lies in a box, its first voxel and last but one along each axis.

        The axis that rows are asked along is not bounded by it. What lies outside of it holds anything.
        """
        self._seen, self._last = tuple(box), None

    def rows(self, axis: int, low: int, high: int) -> Tensor:
        """(C, *shape) float32, of which only the rows `low` to `high` along the spatial `axis`.

        What the last call gave of the same axis is not computed again.
        """
        result = torch.empty((len(self._native), *self.shape[:axis], high - low, *self.shape[axis + 1 :]))
        begin = low
        if self._last is not None and self._last[0] == axis:
            _, first, held = self._last
            if first <= low < first + held.shape[axis + 1]:
                begin = min(high, first + held.shape[axis + 1])
                result.narrow(axis + 1, 0, begin - low).copy_(held.narrow(axis + 1, low - first, begin - low))
        per_row = math.prod(self._native_size(other) for other in range(len(self.shape)) if other != axis)
        step = max(1, int(READ / per_row * self.shape[axis] / self.record.crop_shape[axis]))
        for first in range(begin, high, step):
            length = min(step, high - first)
            self._compute(result.narrow(axis + 1, first - low, length), axis, first, first + length)
            let_go(self._native)
        self._last = (axis, low, result)
        return result

    def _native_size(self, axis: int) -> int:
        """Voxels of the volume that what is looked at covers."""
        low, high = self._seen[axis]
        return -(-(high - low) * self.record.crop_shape[axis] // self.shape[axis])

    def _compute(self, result: Tensor, axis: int, first: int, stop: int) -> None:
        """Fill the rows `first` to `stop`, of which `result` is all."""
        lines = lines_over(self.record.crop_shape, self.shape, self._kind)
        wanted = (*self._seen[:axis], (first, stop), *self._seen[axis + 1 :])
        parts = [line.part(*side) for line, side in zip(lines, wanted, strict=True)]
        box = tuple(slice(low, high) for low, high, _ in parts)
        seen = tuple(slice(None) if number == axis else slice(*side) for number, side in enumerate(self._seen))
        for channel, native, change in zip(result, self._native, self._changes, strict=True):
            channel[seen].copy_(along_lines(_changed(native[box], change), [line for *_, line in parts]))


def _parts(channel: NDArray[Any]) -> Iterator[NDArray[np.float32]]:
    """All values as they lie in memory: in planes across the axis whose neighbours are farthest apart, or some rows."""
    most = _SUMMED * channel.itemsize if channel.ndim == 2 else 1
    for part in blocks(channel, most):
        yield np.require(part, np.float32, ["C"])


def _changed(values: NDArray[Any], change: Change) -> Tensor:
    """Part of a channel with its intensities changed."""
    return torch.from_numpy(np.ascontiguousarray(change(np.require(values, np.float32, ["C", "W", "O"]))))


def preprocess(volume: Volume, config: PreprocessConfig) -> tuple[NDArray[np.float32], Record]:
    """Bring a whole volume to the network's orientation, field of view, intensity and spacing.

    Args:
        volume: (C, *spatial), any real dtype.
        config: the `preprocess:` section.

    Returns:
        Array (C, *S) float32, C-contiguous, and the record that undoes it.

    Raises:
        GeometryError, DataError: see `PreparedImage`.
    """
    image = PreparedImage(volume, config)
    return image.rows(0, 0, image.shape[0]).numpy(), image.record


def preprocess_labels(indices: NDArray[np.generic], record: Record) -> NDArray[np.generic]:
    """Bring label indices (*spatial) on the original grid to the network's grid.

    Args:
        indices: internal indices, that of ignored voxels included, uint8 or uint16.
        record: of the image.
    """
    array = record.change.apply(indices)
    array = array[box_of(record.crop_start, record.crop_shape)]
    labels = torch.from_numpy(np.ascontiguousarray(array).astype(np.int32))
    return resample_labels(labels, record.network.shape).numpy().astype(indices.dtype)


def network_shape(geometry: Geometry, config: PreprocessConfig) -> tuple[int, ...]:
    """Voxels per axis after resampling; an axis whose spacing already fits to 0.1 % keeps its size."""
    if config.size is not None:
        return (*config.size, *geometry.shape[len(config.size) :])
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


def box_of(start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """A box by its first voxel and size."""
    return tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))


def _crop_box(array: NDArray[Any], config: PreprocessConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First voxel and size of what is kept: all of it without a crop, or where nothing is above the threshold."""
    shape = array.shape[1:]
    box = None if config.crop is None else _box_above(array, config.crop.above)
    if config.crop is None or box is None:
        return (0,) * len(shape), tuple(shape)
    margin = config.crop.margin
    start = tuple(max(0, side.start - margin) for side in box)
    stop = tuple(min(n, side.stop + margin) for side, n in zip(box, shape, strict=True))
    return start, tuple(high - low for low, high in zip(start, stop, strict=True))


def _box_above(array: NDArray[Any], least: float) -> tuple[slice, ...] | None:
    """The box of the voxels that exceed a value in one of the channels (C, *spatial); None if there are none."""
    axis = outermost(array[0])
    rows = np.moveaxis(array, axis + 1, 1)
    found: list[tuple[slice, ...]] = []
    step = max(1, READ // rows[0, :1].size)
    for first in range(0, rows.shape[1], step):
        box = bounding_box(np.any(rows[:, first : first + step] > least, axis=0))
        let_go(array)
        if box is not None:
            found.append((slice(box[0].start + first, box[0].stop + first), *box[1:]))
    if not found:
        return None
    whole = [slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*found, strict=True)]
    whole.insert(axis, whole.pop(0))
    return tuple(whole)


def _rules(config: PreprocessConfig, channels: int) -> tuple[Intensity, ...]:
    if len(config.intensity) == 1:
        return config.intensity * channels
    if len(config.intensity) != channels:
        raise DataError(
            f"preprocess.intensity has {len(config.intensity)} entries, but the image has {channels} channels.",
            "Give one entry for all channels, or one per channel.",
        )
    return config.intensity
