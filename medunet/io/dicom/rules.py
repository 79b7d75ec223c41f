"""Whether a series is of the kind that a configuration wants. Knows nothing of files.

Patterns know two wildcards and become expressions that never look back, so that none takes long.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from functools import lru_cache

from medunet.config.series import SeriesRules
from medunet.io.dicom.series import Series


def failing(series: Series, rules: SeriesRules) -> list[str]:
    """The rules that a series breaks, as parts of a sentence; none: it fits.

    The spacing of slices that form no grid is unknown and breaks no rule: such a series is told to be irregular, and
    not passed over for another one.
    """
    return list(_failing(series, rules))


def _failing(series: Series, rules: SeriesRules) -> Iterator[str]:
    modality, description = series.modality, series.slices[0].description
    if rules.modality is not None and modality.casefold() not in map(str.casefold, rules.modality):
        yield f"its modality is {modality or 'not stated'}, not {' or '.join(rules.modality)}"
    if rules.description is not None and not occurs(rules.description, description):
        yield f'its description has nothing of "{rules.description}"'
    if rules.slices is not None and not rules.slices[0] <= series.shape[2] <= rules.slices[1]:
        yield f"{series.shape[2]} slices are not {rules.slices[0]} to {rules.slices[1]}"
    if rules.spacing is not None and series.spacing:
        low, high = rules.spacing
        if not low - 1e-3 <= series.spacing[2] <= high + 1e-3:
            yield f"slices {series.spacing[2]:.4g} mm apart are not {low:g} to {high:g} mm apart"
    if rules.kernel is not None and not is_kernel(rules.kernel, series.kernel):
        stated = f'"{series.kernel}"' if series.kernel else "not stated"
        yield f'its kernel is {stated}, not "{rules.kernel}"'
    if rules.contrast is not None and rules.contrast != series.contrast:
        yield f"{'a' if series.contrast else 'no'} contrast agent is stated"


def occurs(pattern: str, text: str) -> bool:
    """Whether one of the alternatives of a pattern occurs in a text."""
    return any(_expression(f"*{part}*").match(text.casefold()) for part in _alternatives(pattern))


def is_kernel(pattern: str, kernel: str) -> bool:
    """Whether a kernel, or one of the parts it is stated in (`Br40d\\3`), is one of the alternatives of a pattern."""
    stated = [kernel.casefold(), *(part.strip() for part in kernel.casefold().split("\\"))]
    return any(_expression(part).match(each) for part in _alternatives(pattern) for each in stated)


def _alternatives(pattern: str) -> list[str]:
    return [part.strip() for part in pattern.casefold().split("|") if part.strip()]


@lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
