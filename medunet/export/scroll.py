"""A mask to scroll through: pages of one size with slices and contours, the first one with all three planes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from medunet.export.picture import (
    CAPTION,
    PAPER,
    Scene,
    Tile,
    Window,
    legend,
    montage,
    spread,
    tile,
    weights_along,
    with_legend,
)
from medunet.io.volume import Segmentation, Volume

_SIDE, _GAP = 512, 6


def draw_scroll(
    volume: Volume, segmentation: Segmentation, *, window: Window | None = None, most: int = 23
) -> list[Image.Image]:
    """Draw pages.

    Args:
        volume: any orientation, slices along the last axis.
        segmentation: on the same grid; outlined in the labels' colours, so that what lies below stays visible.
        window: lowest and highest value shown; None as in `picture.draw_overlay`.
        most: slices at most: of as many equal bands of the segmented height those that show most.

    Returns:
        RGB pictures of one size: axial, coronal and sagittal slice with the most of the structures, unless the volume
        is a single slice; then slices as they were acquired, rising towards the head, front or right. A legend with
        volumes is below each.
    """
    scene = Scene.of(volume, segmentation, None, window)
    across = volume.geometry.reorientation("RAS").axes.index(2)
    sheets = []
    if volume.geometry.shape[2] > 1:
        half = (_SIDE - _GAP) // 2
        tiles = [tile(scene, axis, _fullest(scene, axis), longest=half, fill=0.0) for axis in (2, 1, 0)]
        sheets.append(montage(tiles, columns=2))
    slices = spread(weights_along(scene, across), most)
    sheets += [_page(tile(scene, across, index, longest=_SIDE, fill=0.0)) for index in slices]
    entries = legend(segmentation, None)
    return [with_legend(sheet, entries) for sheet in _of_one_size(sheets)]


def _fullest(scene: Scene, axis: int) -> int:
    weights = weights_along(scene, axis)
    return int(weights.argmax()) if weights.any() else len(weights) // 2


def _page(drawn: Tile) -> Image.Image:
    return montage([drawn])


def _of_one_size(sheets: Sequence[Image.Image]) -> list[Image.Image]:
    """Centred on pages that hold the largest, at least as wide as a legend needs."""
    width, height = (int(side) for side in np.max([sheet.size for sheet in sheets], axis=0))
    width, height = max(width, _SIDE), max(height, CAPTION + 1)
    result = []
    for sheet in sheets:
        page = Image.new("RGB", (width, height), PAPER)
        page.paste(sheet, ((width - sheet.width) // 2, (height - sheet.height) // 2))
        result.append(page)
    return result
