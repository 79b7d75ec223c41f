"""One slice several times side by side: plain, and with each of several masks on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medunet.export.picture import Window, coloured, resized, to_bytes
from medunet.labels import Label

_SMALLEST, _LARGEST, _GAP = 192, 512, 4


def draw_panels(
    image: NDArray[np.generic],
    masks: Sequence[NDArray[np.generic]],
    labels: Sequence[Label],
    spacing: tuple[float, float] = (1.0, 1.0),
    window: Window | None = None,
) -> Image.Image:
    """Draw a slice and, beside it, the same with each mask.

    Args:
        image: (rows, columns).
        masks: label indices (rows, columns); what is none of `labels` is not drawn.
        labels: foreground structures, which give the colours.
        spacing: millimetres between rows, and between columns; pixels of the picture are square.
        window: values shown black and white; None takes the percentiles 1 and 99 of the slice.

    Returns:
        RGB picture.
    """
    height, width = (size * step for size, step in zip(image.shape, spacing, strict=True))
    longest = min(max(*image.shape, _SMALLEST), _LARGEST) / max(height, width)
    size = (max(1, round(width * longest)), max(1, round(height * longest)))
    grey = to_bytes(image, window or percentile_window(image))
    plain = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB"))
    panels = [plain]
    known = [label.index for label in labels]
    for mask in masks:
        drawn = resized(np.where(np.isin(mask, known), mask, 0), size)
        panels.append(coloured(plain, drawn, None, labels))
    sheet = Image.new("RGB", (len(panels) * (size[0] + _GAP) - _GAP, size[1]))
    for number, panel in enumerate(panels):
        sheet.paste(Image.fromarray(panel), (number * (size[0] + _GAP), 0))
    return sheet


def percentile_window(image: NDArray[np.generic]) -> Window:
    """Percentiles 1 and 99; a constant image becomes black."""
    low, high = np.percentile(image.astype(np.float64), (1.0, 99.0)).tolist()
    return (low, high) if high > low else (low, low + 1.0)
