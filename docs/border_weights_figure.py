"""Draws explanation/border-weights.png: a generated picture of cells, their mask, and the weight map of the 2015 U-Net.

`python docs/border_weights_figure.py`, after a change of the weight map.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medunet.config.losses import BoundaryWeightedConfig
from medunet.labels import LabelMap
from medunet.transforms.border_weights import border_weights

FIGURE = Path(__file__).with_name("explanation") / "border-weights.png"
_SIDE, _CELLS, _GAP, _SMALLEST = 320, 26, 1.3, 300


def draw_cells(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A picture (rows, columns) of cells that touch, and the number of the cell at each pixel, 0 between them."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(0.08, 0.92, (_CELLS, 2)) * _SIDE
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    wobble = ndimage.gaussian_filter(rng.normal(0, 1, (2, _SIDE, _SIDE)), (0, 12, 12)) * 160
    place = np.stack([rows, columns]) + wobble
    distance = np.sqrt(((place[None] - points[:, :, None, None]) ** 2).sum(axis=1))
    nearest, second = np.sort(distance, axis=0)[:2]
    cells = np.where((second - nearest > 2 * _GAP) & (nearest < 42), distance.argmin(axis=0) + 1, 0)
    cells = np.where(ndimage.binary_opening(cells > 0, iterations=3), cells, 0)
    pieces, _ = ndimage.label(cells > 0)
    cells[np.bincount(pieces.ravel())[pieces] < _SMALLEST] = 0
    inside = ndimage.distance_transform_edt(cells > 0)
    picture = 0.35 + 0.25 * np.exp(-inside / 4) * (cells > 0) + 0.15 * (cells > 0)
    picture += ndimage.gaussian_filter(rng.normal(0, 1, picture.shape), 1.2) * 0.12
    return picture, cells


def main() -> None:
    """Write the figure."""
    picture, cells = draw_cells()
    labels = LabelMap.from_mapping({"background": 0, "cell": 1})
    weights = border_weights((cells > 0).astype(np.uint8), labels, BoundaryWeightedConfig(name="boundary_weighted_ce"))
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained")
    shades = np.random.default_rng(3).permutation(_CELLS) + 1.0
    coloured = np.ma.masked_equal(np.where(cells > 0, shades[cells - 1], 0), 0)
    axes[0].imshow(picture, cmap="gray")
    axes[1].imshow(picture, cmap="gray")
    axes[1].imshow(coloured, cmap="turbo", alpha=0.7, interpolation="nearest")
    axes[2].imshow(cells > 0, cmap="gray", interpolation="nearest")
    shown = axes[3].imshow(weights, cmap="jet", interpolation="nearest")
    figure.colorbar(shown, ax=axes[3])
    for axis, title in zip(axes, ("a  picture", "b  cells", "c  mask", "d  weight map"), strict=True):
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_axis_off()
    figure.savefig(FIGURE, dpi=80)
    with Image.open(FIGURE) as drawn:
        drawn.convert("RGB").quantize(96).save(FIGURE)


if __name__ == "__main__":
    main()
