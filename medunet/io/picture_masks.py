"""Masks that are pictures: colours that stand for labels, edges that were smoothed, sizes that differ.

A mask is never bent in silence: what is done is counted and told, and a value or a colour that no label has is an
error unless it can only be a smoothed edge between the two values of the mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medunet.errors import DataError, GeometryError
from medunet.geometry import Geometry, format_shape
from medunet.io.case import Reading
from medunet.io.files import image_ending, read_mask
from medunet.io.pictures import PICTURES
from medunet.io.read import read_volume
from medunet.labels import IGNORE, LabelMap

MOST_ODD = 0.2
"""Share of the pixels that may lie between the two values of a mask: small pictures are mostly edges, and a gradient or
a photograph has more."""

RESIZE = "If it is the same picture at another size, set data.resize_label: true."
"""What to do about a mask of another size."""

TURN = "One of the two was turned (EXIF); turn the mask as the picture is shown."
"""What to do about a mask whose width and height are those of its picture, exchanged."""

SAME_PROPORTIONS = 0.02
"""By which width : height may differ and still count as the same."""

_SMALLEST_STEP = 64
_LOSSY = (".jpg", ".jpeg", ".webp")
_SHOWN = 4

T = TypeVar("T", bound=np.generic)


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name."""
    return image_ending(path) in PICTURES


def read_picture_mask(path: Path, reading: Reading, labels: LabelMap) -> tuple[NDArray[np.generic], Geometry, float]:
    """Values of labels (*spatial) of a mask, its grid, and the share of pixels that were on smoothed edges.

    Raises:
        ReadError, DataError: as `read_mask`; colours that no label has; too many values between those of labels.
    """
    if reading.colours:
        return (*_coloured(path, reading, labels), 0.0)
    array, geometry = read_mask(path)
    pair = _two_values(labels)
    if not reading.grey_edges or pair is None:
        return array, geometry, 0.0
    return _told(path, array, geometry, *pair)


def read_binary(path: Path) -> tuple[NDArray[np.bool_], float]:
    """Where a mask of one structure (*spatial) is not 0, and the share of pixels that were on smoothed edges.

    Raises:
        ReadError, DataError: as `read_picture_mask`.
    """
    array, geometry = read_mask(path)
    array, _, share = _told(path, array, geometry, 0, int(array.max(initial=0)))
    values = np.unique(array)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(map(str, values[:_SHOWN].tolist()))
        raise DataError(
            f"{path} holds {len(values)} values ({shown}, ...); the mask of one structure has 0 and another."
        )
    return array != 0, share


def _two_values(labels: LabelMap) -> tuple[int, int] | None:
    """The values of background and structure, if there are no others and something fits between them."""
    values = sorted(value for label in labels.labels for value in label.values)
    if len(values) != 2 or any(values[0] < value < values[1] for value in labels.ignore):
        return None
    return (values[0], values[1]) if values[1] - values[0] >= _SMALLEST_STEP else None


def _told(
    path: Path, array: NDArray[np.generic], geometry: Geometry, low: int, high: int
) -> tuple[NDArray[np.generic], Geometry, float]:
    """The mask with each value between the two at the nearer one.

    What lies far outside of the two is left as it is, and so an unknown value.

    Raises:
        DataError: too many such pixels, or areas of one such value, which then is a structure of its own.
    """
    odd = (array != low) & (array != high)
    if high - low < _SMALLEST_STEP or not odd.any():
        return array, geometry, 0.0
    numbers, margin = array.astype(np.int64), (high - low) / 8
    if (numbers < low - margin).any() or (numbers > high + margin).any():
        return array, geometry, 0.0
    doubtful = odd
    if image_ending(path) in _LOSSY:  # flat areas of such a file may be some steps off
        doubtful = odd & (numbers > low + margin) & (numbers < high - margin)
    solid = doubtful & (ndimage.minimum_filter(numbers, 3) == ndimage.maximum_filter(numbers, 3))
    if solid.any():
        raise DataError(
            f"{path} holds areas of the value {numbers[solid].flat[0]}, which no label names and no edge explains.",
            f"Name it under `labels`, or make it {low} or {high}.",
        )
    share = float(doubtful.mean())
    if share > MOST_ODD:
        raise DataError(
            f"{path} holds values between {low} and {high} in {share:.1%} of its pixels; up to {MOST_ODD:.0%} are "
            "taken for smoothed edges.",
            "Name the values under `labels`, or threshold the mask.",
        )
    straight = np.where(2 * numbers > low + high, high, low).astype(array.dtype)
    return straight, geometry, float(odd.mean())


def _coloured(path: Path, reading: Reading, labels: LabelMap) -> tuple[NDArray[np.generic], Geometry]:
    volume = read_volume(path, channels=3)
    colours = volume.array
    if len(colours) != 3 or colours.dtype != np.uint8:
        raise DataError(
            f"{path} has {volume.channels} channels of {colours.dtype}; data.colours is for RGB with 8 bits each."
        )
    codes = (colours[0].astype(np.int32) << 16) | (colours[1].astype(np.int32) << 8) | colours[2]
    known = {int(word[1:], 16): _value(name, labels) for name, words in reading.colours for word in words}
    there, counts = np.unique(codes, return_counts=True)
    strange = [(count, code) for code, count in zip(there.tolist(), counts.tolist(), strict=True) if code not in known]
    if strange:
        raise DataError(f"{path} holds {_listed(strange)}; no label has such a colour in data.colours.")
    keys = np.asarray(sorted(known))
    values = np.asarray([known[key] for key in sorted(known)], dtype=np.int32)
    return values[np.searchsorted(keys, codes)], volume.geometry


def _value(name: str, labels: LabelMap) -> int:
    """That is written for a label, `ignore` included."""
    return labels.ignore[0] if name == IGNORE else labels.written[labels.names.index(name)]


def _listed(strange: Iterable[tuple[int, int]]) -> str:
    """`#ff0000 (12 pixels), #00ff00 (1 pixel)`, the most frequent first."""
    ordered = sorted(strange, reverse=True)
    words = [f"#{code:06x} ({count} pixel{'s' if count > 1 else ''})" for count, code in ordered[:_SHOWN]]
    return ", ".join(words) + (f" and {len(ordered) - _SHOWN} more colours" if len(ordered) > _SHOWN else "")


def resized(array: NDArray[T], shape: tuple[int, ...], path: Path) -> tuple[NDArray[T], str]:
    """A mask (width, height) at the size of its picture: each pixel takes the value at its place.

    Also its path and both sizes in words where the proportions differ; "" where they are the same.

    Raises:
        GeometryError: it is no mask of a picture, or width and height are exchanged.
    """
    if array.ndim != 2 or len(shape) != 2:
        raise GeometryError(f"{path} has {format_shape(array.shape)} voxels; only masks of pictures can be resized.")
    if array.shape == shape[::-1] != shape:
        raise GeometryError(
            f"{path} has {format_shape(array.shape)} pixels and its picture {format_shape(shape)}: width and height "
            "are exchanged.",
            TURN,
        )
    odd = abs(array.shape[0] * shape[1] / (array.shape[1] * shape[0]) - 1) > SAME_PROPORTIONS
    words = f"{path} ({format_shape(array.shape)} pixels, its picture {format_shape(shape)})" if odd else ""
    places = [(np.arange(new) * 2 + 1) * old // (2 * new) for new, old in zip(shape, array.shape, strict=True)]
    return array[np.ix_(*places)], words
