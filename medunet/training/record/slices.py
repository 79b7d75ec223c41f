"""Pictures of held-out cases: one slice of each, plain, with the truth and with what the network says.

The slice goes through the middle of the truth's foreground, on the network's grid; the prediction is taken from the
logits of the validation as they pass by, so that it costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from medunet.export.panels import draw_panels
from medunet.labels import LabelMap
from medunet.training.blocks import BlockedArray
from medunet.training.cache import IMAGE, KNOWN, LABEL, CachedCase
from medunet.transforms.resample import Line
from medunet.transforms.restore import label_indices


class Slices:
    """Watches some of the held-out cases.

    Args:
        cases: which ones.
        labels: names, indices and colours.
        every: how many validations there are to a picture.
        least: by output, the probability without which its label is not chosen.
    """

    def __init__(
        self, cases: Sequence[CachedCase], labels: LabelMap, every: int = 1, least: Sequence[float] | None = None
    ) -> None:
        self._planes = {case.id: (case, _Plane.through(case)) for case in cases}
        self._labels = labels
        self._every = every
        self._least = least
        self._seen: dict[str, tuple[NDArray[np.generic], NDArray[np.generic]]] = {}  # image and truth, read once
        self.predictions: dict[str, NDArray[np.generic]] = {}
        """The last ones seen, by case id."""

    def see(self, case: CachedCase, logits: Tensor) -> None:
        """Keep the slice of a case that is watched.

        Args:
            case: any held-out case.
            logits: (C, *S) on the network's grid.
        """
        if case.id in self._planes:
            cut = self._planes[case.id][1].cut(logits)
            self.predictions[case.id] = _indices(cut, self._labels, self._least)

    def wanted(self, validations: int) -> bool:
        """Whether the last of so many validations is to be drawn: the first, and every so often after it."""
        return bool(self.predictions) and (validations - 1) % self._every == 0

    def draw(self) -> dict[str, Image.Image]:
        """Image, truth and prediction side by side, by case id."""
        result = {}
        for name, prediction in self.predictions.items():
            case, plane = self._planes[name]
            if name not in self._seen:
                self._seen[name] = plane.read(case.blocks(IMAGE)), plane.read(case.blocks(LABEL))
            image, *masks = (plane.upright(array) for array in (*self._seen[name], prediction))
            result[name] = draw_panels(image, masks, self._labels.foreground, plane.spacing)
        return result


@dataclass(frozen=True)
class _Plane:
    """A slice of a grid: the axis across it (counted from the last, 0: the grid is a picture) and its place there.

    `turned`: whether its first axis becomes the columns. `flips` and `spacing` belong to rows and columns.
    """

    axis: int
    index: int
    turned: bool
    flips: tuple[bool, bool]
    spacing: tuple[float, float]

    @classmethod
    def through(cls, case: CachedCase) -> _Plane:
        """The axial slice that half of the truth's foreground lies below."""
        grid = case.record.network
        if len(grid.shape) == 2:
            return cls(0, 0, True, (False, False), (grid.spacing[1], grid.spacing[0]))
        codes = grid.axcodes
        axis = next(number for number, letter in enumerate(codes) if letter in "SI")
        found = [voxels for label, voxels in case.locations().items() if label != KNOWN]
        places = np.sort(np.concatenate(found)[:, axis]) if found else np.array([grid.shape[axis] // 2])
        across, down = (number for letters in ("RL", "AP") for number in range(3) if codes[number] in letters)
        return cls(
            axis - 3,
            int(places[len(places) // 2]),
            across < down,
            (codes[down] == "A", codes[across] == "R"),  # front of the body up, its right side on the left
            (grid.spacing[down], grid.spacing[across]),
        )

    def read(self, blocks: BlockedArray) -> NDArray[np.generic]:
        """The first channel of (C, *S) as (*two axes); only the blocks that the slice meets are read."""
        box = [slice(0, 1), *[slice(None)] * (len(blocks.shape) - 1)]
        if self.axis:
            box[self.axis] = slice(self.index, self.index + 1)
        part: NDArray[np.generic] = blocks[tuple(box)][0]
        return part.squeeze(self.axis) if self.axis else part

    def cut(self, array: Any) -> Any:
        """A tensor or an array (..., *S) to (..., *two axes)."""
        if not self.axis:
            return array
        place = (..., self.index, *(slice(None),) * (-1 - self.axis))
        return array[place]

    def upright(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """(*two axes) to (rows, columns)."""
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return (array.T if self.turned else array)[rows, columns]


def _indices(logits: Tensor, labels: LabelMap, least: Sequence[float] | None) -> NDArray[np.generic]:
    """Of the labels that logits (C, *S) mean, as prediction takes them."""
    return label_indices(logits, [Line(())] * (logits.ndim - 1), labels, least)
