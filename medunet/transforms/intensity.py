"""Intensities as the network sees them: a rule, fitted to one channel of one image, that is applied part by part.

Knows nothing of geometry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from medunet.config.schema import (
    Intensity,
    IntensityCtWindow,
    IntensityFixed,
    IntensityImageNet,
    IntensityNone,
    IntensityPercentile,
)

Values = NDArray[np.float32]
Change = Callable[[Values], Values]
"""Takes values of any shape; it may change them in place."""

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
"""Of red, green and blue over the training pictures of ImageNet, from 0 to 1: torchvision's figures."""


def fitted(rule: Intensity, parts: Callable[[], Iterator[Values]], channel: int = 0, channels: int = 1) -> Change:
    """The change that a rule means for one channel; a rule that looks at the image makes a constant one 0.

    Args:
        rule: an entry of `preprocess.intensity`.
        parts: gives all values of the channel, part by part; called as often as they are needed.
        channel: which one it is, from 0.
        channels: how many there are.
    """
    if isinstance(rule, IntensityNone):
        return lambda values: values
    if isinstance(rule, IntensityImageNet):
        rule = _imagenet(rule, channel, channels)
    if isinstance(rule, IntensityFixed):
        centre, unit = np.float32(rule.mean * rule.scale), np.float32(rule.std * rule.scale)
        return lambda values: (values - centre) / unit
    if isinstance(rule, IntensityCtWindow):
        low, high = np.float32(rule.low), np.float32(rule.high)
        return lambda values: (np.clip(values, low, high) - low) / (high - low)
    if isinstance(rule, IntensityPercentile):
        low, high = _percentiles(parts, rule.low, rule.high)
        scale = _standardised(lambda: (np.clip(part, low, high) for part in parts()))
        return lambda values: scale(np.clip(values, low, high))
    if not rule.nonzero:
        return _standardised(parts)
    inside = _standardised(lambda: (part[part != 0] for part in parts()))
    return lambda values: np.where(values != 0, inside(values), np.float32(0))


def _imagenet(rule: IntensityImageNet, channel: int, channels: int) -> IntensityFixed:
    """As kernels are adapted to the channels: one sees the mean colour, others the three in turn."""
    which = slice(None) if channels == 1 else slice(channel % 3, channel % 3 + 1)
    mean, std = (float(np.mean(figures[which])) for figures in (_MEAN, _STD))
    return IntensityFixed(name="fixed", scale=rule.scale, mean=mean, std=std)


def _standardised(parts: Callable[[], Iterator[Values]]) -> Change:
    """To mean 0 and deviation 1."""
    mean, deviation = _moments(parts)
    return lambda values: (values - np.float32(mean)) / np.float32(max(deviation, 1e-8))


def _moments(parts: Callable[[], Iterator[Values]]) -> tuple[float, float]:
    """Mean and standard deviation in float64, without a float64 copy of the volume; 0 and 0 of nothing."""
    size = mean = 0.0
    for part in parts():
        size += part.size
        mean += float(part.sum(dtype=np.float64))
    if not size:
        return 0.0, 0.0
    mean /= size
    variance = sum(float(np.square(part - mean, dtype=np.float64).sum()) for part in parts()) / size
    return mean, variance**0.5


def _percentiles(parts: Callable[[], Iterator[Values]], *shares: float) -> tuple[np.float32, ...]:
    """Percentiles (0 to 100) of all values.

    Of whole numbers, which CT and most MR are, they are counted, so that no copy of the volume is sorted.
    """
    counted = _counts(parts())
    if counted is None:
        values = np.concatenate([part.reshape(-1) for part in parts()])
        return tuple(np.float32(value) for value in np.percentile(values, shares, overwrite_input=True))
    numbers, counts = counted
    last = np.cumsum(counts) - 1
    found = []
    for share in shares:
        place = share / 100 * last[-1]
        below, above = (numbers[np.searchsorted(last, rank)] for rank in (np.floor(place), np.ceil(place)))
        found.append(np.float32(below + (above - below) * (place - np.floor(place))))
    return tuple(found)


def _counts(parts: Iterator[Values]) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """The numbers that occur and how often; None if they are no whole ones of two bytes."""
    counts = np.zeros(1 << 17, np.int64)
    middle = len(counts) // 2
    for part in parts:
        if np.abs(part).max(initial=0) >= middle or not np.array_equal(whole := part.astype(np.int32), part):
            return None
        counts += np.bincount(whole.reshape(-1) + middle, minlength=len(counts))
    (present,) = np.nonzero(counts)
    return (present - middle).astype(np.float64), counts[present]
