"""A network over an image: its windows, its mirrored views, and slices where it is flat."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medunet.config.network_options import NetworkOptions
from medunet.sliding_window.blank import Blanks
from medunet.sliding_window.spans import Spans, tile_spans, weighted_spans, within
from medunet.sliding_window.stream import Forward, HeldImage, Image, stream_logits, with_mirrors

Box = tuple[tuple[int, int], ...]
"""First voxel and last but one along each axis."""


_FLAT = 2


@dataclass(frozen=True)
class Way:
    """How a network goes over an image.

    Attributes:
        patch: window size; one axis fewer than the image means slice by slice along the last axis.
        overlap: share of the patch that neighbours have in common; means nothing where the network has a margin.
        batch_size: windows at a time.
        mirror_axes: average over all mirrored views of these axes; none: one view.
        network: its options, for margin and stride; none: no margin.
        neighbours: of a network that sees slices, how many more it sees on either side, as channels.
    """

    patch: tuple[int, ...]
    overlap: float = 0.5
    batch_size: int = 1
    mirror_axes: tuple[int, ...] = ()
    network: NetworkOptions | None = None
    neighbours: int = 0

    @property
    def slices(self) -> int:
        """That a network sees at a time, if it sees slices."""
        return 2 * self.neighbours + 1

    def windows(self, shape: Sequence[int], box: Box | None = None) -> tuple[Spans, ...]:
        """The windows along each axis of an image of `shape`, and what of them counts in a box of it.

        Raises:
            DataError: the patch is all margin.
        """
        spans = self._all_windows(shape)
        if box is None:
            return spans
        return tuple(within(axis, *side) for axis, side in zip(spans, box, strict=True))

    def _all_windows(self, shape: Sequence[int]) -> tuple[Spans, ...]:
        flat = len(shape) - len(self.patch)
        across = tuple(tile_spans(size, self.slices, self.neighbours, 1) for size in shape[len(shape) - flat :])
        plane = tuple(shape[: len(shape) - flat])
        if self.network is None or not any(self.network.margin):
            return (*(weighted_spans(n, p, self.overlap) for n, p in zip(plane, self.patch, strict=True)), *across)
        sides = zip(plane, self.patch, self.network.margin, self.network.stride, strict=True)
        return (*(tile_spans(*side) for side in sides), *across)

    def rows(
        self, image: Image, forward: Forward, axis: int, box: Box | None = None, blanks: Blanks | None = None
    ) -> Iterator[Tensor]:
        """Logits of the rows of an image along `axis`; see `stream_logits`.

        Args:
            image: what to segment.
            forward: the network.
            axis: the spatial axis to go along.
            box: part of the image whose logits are wanted, all of it along `axis`; None: all.
            blanks: answers for windows that hold nothing; None: the network sees all windows.
        """
        forward = with_mirrors(forward, self.mirror_axes, self.batch_size)
        if len(image.shape) > len(self.patch):
            forward = _slicewise(forward)
        return stream_logits(
            image, forward, self.windows(image.shape, box), axis, batch_size=self.batch_size, known=blanks
        )

    def count(self, shape: Sequence[int], box: Box | None = None) -> int:
        """Windows of an image, or of a box of it, mirrored views counted."""
        return math.prod(len(spans) for spans in self.windows(shape, box)) << len(self.mirror_axes)

    def held(self, shape: Sequence[int], axis: int, box: Box | None = None) -> int:
        """Voxels whose logits are held at a time if the stream goes along `axis`."""
        windows = self.windows(shape, box)
        sizes = [spans[-1].stop for spans in windows]
        depth = max(span.stop - span.first for span in windows[axis])
        return depth * math.prod(sizes) // sizes[axis]


def best_axis(ways: Sequence[Way], shape: Sequence[int]) -> int:
    """The axis along which the fewest logits are held: the longest, measured in windows.

    Pictures are done downwards unless that holds more than twice as much: their rows lie in files and in memory one
    after the other.
    """
    held = [sum(way.held(shape, axis) for way in ways) for axis in range(len(shape))]
    if len(held) == _FLAT and held[1] <= 2 * held[0]:
        return 1
    return held.index(min(held))


def network_logits(array: Tensor, forward: Forward, way: Way) -> Tensor:
    """Logits (C_out, *S) of an image (C_in, *S) float32, all of them at once."""
    image = HeldImage(array)
    axis = best_axis([way], image.shape)
    result: Tensor | None = None
    done = 0
    for rows in way.rows(image, forward, axis):
        if result is None:
            result = torch.empty((len(rows), *image.shape), device=array.device)
        result.narrow(axis + 1, done, rows.shape[axis + 1]).copy_(rows)
        done += rows.shape[axis + 1]
    if result is None:
        raise ValueError("An image has at least one row.")
    return result


def _slicewise(forward: Forward) -> Forward:
    """For patches (B, C, *patch, slices): the slices become channels, those of one channel of the image together."""

    def run(patches: Tensor) -> Tensor:
        return forward(patches.movedim(-1, 2).flatten(1, 2)).unsqueeze(-1)

    return run
