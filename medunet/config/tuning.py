"""The `tune:` section: which keys `medunet tune` varies, and between what. Knows nothing of how it searches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from medunet.config.section import Finite, PositiveFloat, Section

_MOST_TRIED = 64


class SpaceConfig(Section):
    """What a key may be: numbers from `low` to `high`, or one of `choices`."""

    low: Finite | None = None
    """Least value; of a key that takes whole numbers, a whole number."""
    high: Finite | None = None
    """Greatest value."""
    log: bool = False
    """Draw as many values from 0.001 to 0.01 as from 0.01 to 0.1; for learning rates."""
    step: PositiveFloat | None = None
    """Only `low`, `low + step`, and so on up to `high`; null: every number between."""
    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Values of any kind: words, lists, whole sections."""

    def tried(self, whole: bool) -> Iterator[Any]:
        """Values that show whether a key takes the space: all choices, some whole numbers, or the ends of a range.

        Args:
            whole: whether the key takes whole numbers only.
        """
        if self.choices is not None:
            yield from self.choices
            return
        for end in (self.low, self.high):
            if end is not None:
                yield as_number(end, whole)
        if whole and self.low is not None and self.high is not None:
            step = self.step or 1
            yield from itertools.islice(_between(self.low, self.high, step), _MOST_TRIED)


def _between(low: float, high: float, step: float) -> Iterator[int]:
    for number in range(1, max(1, math.ceil((high - low) / step))):
        value = low + number * step
        if value.is_integer():
            yield int(value)


def as_number(value: float, whole: bool) -> int | float:
    """2.0 as 2 where a key takes whole numbers; 2.5 as it is, for the message."""
    return int(value) if whole and value.is_integer() else value


Spaces = Mapping[str, SpaceConfig]
"""Key paths such as `train.optimizer.lr` to what they may be."""

FIXED = ("extends", "name", "data", "labels", "validate", "logging", "tune")
"""What a trial cannot change: trials that learned or were scored by something else could not be compared."""
