"""Training patches: which case, where, and how it is changed; all from (seed, sample number) alone.

Sample `n` is the same whoever computes it and whatever came before: thread, worker process, resumed run. So
training order is exact without saving the state of any random generator. Cases come in shuffled passes, each
seen equally often (nnU-Net draws with replacement).

A network without padding (`network.margin`) reads more than it segments. There it is the inner part of the patch that
lies inside of the image, so that every voxel of it is learned from, and what the margin sees beyond the border is the
image mirrored (Ronneberger 2015, figure 2). Other networks see 0 where the image is smaller than the patch, or what
`augment.outside` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from medunet.config.derived import annotated_labels, beyond_is_mirrored
from medunet.config.schema import Config
from medunet.labels import LabelMap
from medunet.mirror import mirrored
from medunet.training.blocks import BlockedArray
from medunet.training.cache import IMAGE, KNOWN, LABEL, CachedCase
from medunet.transforms.appearance import Appearance
from medunet.transforms.augment import apply_spatial, cut_size, draw_spatial, spatial_settings

Batch = dict[str, torch.Tensor]
Pixels = BlockedArray | NDArray[Any]

_PASS, _SAMPLE = 1, 2


def patch_shape(config: Config, rank: int) -> tuple[int, ...]:
    """The patch in the data's rank: a 2D network on volumes takes patches one voxel deep on the last axis."""
    return config.train.patch_size + (1,) * (rank - config.network.dims)


class PatchDataset(Dataset[Batch]):
    """Map from sample number to a patch.

    Items are `image` (C, *patch) float32 and `label` (1, *patch) uint8 or int16, patch of `network.dims` axes. Where
    the config has `data.annotated` there is `annotated` (L,) bool, and where the cases have weight maps `weight`
    (1, *patch) float32: interpolated as the image is, and 0 where the image is padded with 0.

    Args:
        cases: preprocessed cases of one rank, all with weight maps if the loss needs them.
        config: the whole configuration.
        spacing: of the network's grid in mm, one per axis.
    """

    def __init__(self, cases: Sequence[CachedCase], config: Config, spacing: Sequence[float]) -> None:
        self.cases = list(cases)
        self.config = config
        self.patch = patch_shape(config, len(spacing))
        dims = config.network.dims
        self.flat = len(spacing) > dims
        margin = config.network.margin + (0,) * (len(self.patch) - dims)
        self.inner = tuple(size - 2 * side for size, side in zip(self.patch, margin, strict=True))
        self.settings = spatial_settings(config.augment, config.train.patch_size, tuple(spacing)[:dims])
        self.appearance = Appearance(config.augment, config.train.patch_size)
        self.collages = config.augment.collage_probability or 0.0
        self.pastes = config.augment.paste_probability or 0.0
        self._not_pasted = [0, *_unknown(config)]
        self.annotated = _annotated(self.cases, config)
        self._alike = _alike(self.annotated, len(self.cases))
        self.weighted = all(case.weights is not None for case in self.cases)
        self._cut = cut_mirrored if any(margin) or beyond_is_mirrored(config.augment) else cut_padded
        self._locations: dict[int, dict[int, NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, _SAMPLE, index])
        number = self._number_of(index)
        pixels, indices = self._patch(number, rng, forced=self._forced(index))
        if self.collages and rng.random() < self.collages:
            self._collage(number, pixels, indices, rng)
        if self.pastes and rng.random() < self.pastes:
            self._paste(number, pixels, indices, rng)
        item = {"label": indices[None].contiguous()}
        if self.weighted:
            pixels, item["weight"] = pixels[:-1], pixels[-1:].contiguous()
        if self.annotated is not None:
            item["annotated"] = self.annotated[number]
        return {"image": self.appearance(pixels, rng).contiguous(), **item}

    def _patch(self, number: int, rng: np.random.Generator, *, forced: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (C, *patch), the weight map as one channel more, and labels (*patch) of a case, bent and turned."""
        case = self.cases[number]
        centre = self._centre(number, case.record.network.shape, rng, forced=forced)
        draw = draw_spatial(self.settings, rng)
        cut = cut_size(self.config.train.patch_size, draw) + (1,) * (len(self.patch) - self.config.network.dims)
        start = [c - n // 2 for c, n in zip(centre, cut, strict=True)]
        pixels, indices = self._pixels(case, start, cut), _signed(self._cut(case.blocks(LABEL), start, cut)[0])
        if self.flat:
            pixels, indices = pixels.squeeze(-1), indices.squeeze(-1)
        return apply_spatial(pixels, indices, self.config.train.patch_size, draw)

    def _collage(self, number: int, pixels: torch.Tensor, indices: torch.Tensor, rng: np.random.Generator) -> None:
        """Cover three of the four parts of a patch, around a random point of its first two axes, with other cases.

        They were annotated for the same labels as the case of the patch.
        """
        row, column = (int(rng.uniform(0.3, 0.7) * size) for size in indices.shape[:2])
        for rows, columns in (
            (slice(row, None), slice(None, column)),
            (slice(None, row), slice(column, None)),
            (slice(row, None), slice(column, None)),
        ):
            other, labels = self._patch(self._other(number, rng), rng, forced=False)
            pixels[:, rows, columns] = other[:, rows, columns]
            indices[rows, columns] = labels[rows, columns]

    def _paste(self, number: int, pixels: torch.Tensor, indices: torch.Tensor, rng: np.random.Generator) -> None:
        """Cover a patch with all structures of a patch of another case, bent and turned for itself (Ghiasi 2021).

        So figures are seen before backgrounds that they were not taken before. Edges are left hard, as in the paper.
        """
        other, labels = self._patch(self._other(number, rng), rng, forced=True)
        pasted = ~torch.isin(labels, torch.tensor(self._not_pasted, dtype=labels.dtype))
        torch.where(pasted, other, pixels, out=pixels)
        torch.where(pasted, labels, indices, out=indices)

    def _other(self, number: int, rng: np.random.Generator) -> int:
        """Any case that was annotated for the same labels."""
        others = self._alike[number]
        return others[int(rng.integers(len(others)))]

    def cases_of(self, iteration: int) -> list[str]:
        """Ids of the cases that the patches of a step (from 1) come from."""
        size = self.config.train.batch_size
        return [self.case_of(index).id for index in range((iteration - 1) * size, iteration * size)]

    def case_of(self, index: int) -> CachedCase:
        """The case of a sample."""
        return self.cases[self._number_of(index)]

    def _pixels(self, case: CachedCase, start: Sequence[int], cut: Sequence[int]) -> torch.Tensor:
        """A cut (C, *cut) of the image; the weight map, which is interpolated alike, is one channel more.

        Neighbours of a slice are channels, those of one channel of the image together.
        """
        blocks, neighbours = case.blocks(IMAGE), self.config.preprocess.neighbours
        if neighbours:
            seen = mirrored(start[-1] - neighbours, start[-1] + neighbours + 1, blocks.shape[-1])
            low, depth = int(seen.min()), int(np.ptp(seen)) + 1
            slab = self._cut(blocks, (*start[:-1], low), (*cut[:-1], depth))[..., seen - low]
            pixels = np.moveaxis(slab, -1, 1).reshape(-1, *slab.shape[1:-1], 1)
        else:
            pixels = self._cut(blocks, start, cut)
        if self.weighted and case.weights is not None:
            pixels = np.concatenate([pixels, self._cut(case.blocks(case.weights), start, cut)])
        return torch.from_numpy(pixels)

    def _number_of(self, index: int) -> int:
        """Cases in shuffled passes."""
        round_, position = divmod(index, len(self.cases))
        order = np.random.default_rng([self.config.seed, _PASS, round_]).permutation(len(self.cases))
        return int(order[position])

    def _forced(self, index: int) -> bool:
        """Whether this position of the batch is centred on a labelled voxel: the last ones are (nnU-Net).

        That rule would never choose the only position of a batch of one; there the share is spread over batches.
        """
        batch, share = self.config.train.batch_size, self.config.train.foreground
        if batch == 1:
            return int((index + 1) * share) > int(index * share)
        return index % batch >= round(batch * (1 - share))

    def _centre(self, number: int, shape: Sequence[int], rng: np.random.Generator, *, forced: bool) -> list[int]:
        """Centre voxel of the patch, its inner part inside of the image: on the chosen voxel, or anywhere."""
        chosen = self._chosen(number, rng, forced=forced)
        centre = []
        for axis, (size, inner) in enumerate(zip(shape, self.inner, strict=True)):
            low, high = inner // 2, size - (inner - inner // 2)
            if high <= low:
                centre.append(size // 2)
            elif chosen is not None:
                centre.append(int(np.clip(chosen[axis], low, high)))
            else:
                centre.append(int(rng.integers(low, high + 1)))
        return centre

    def _chosen(self, number: int, rng: np.random.Generator, *, forced: bool) -> NDArray[np.int32] | None:
        """The voxel (rank,) to look at: one of a random structure if forced; else None, for any.

        In a case with voxels to ignore it is at least one that is known (as in nnU-Net): of a scribble, patches cut
        anywhere would hold next to nothing.
        """
        locations = self._locations.get(number)
        if locations is None:
            locations = self._locations[number] = self.cases[number].locations()
        structures = sorted(locations.keys() - {KNOWN})
        if forced and structures:
            voxels = locations[structures[int(rng.integers(len(structures)))]]
        elif KNOWN in locations:
            voxels = locations[KNOWN]
        else:
            return None
        chosen: NDArray[np.int32] = voxels[int(rng.integers(len(voxels)))]
        return chosen


def _annotated(cases: Sequence[CachedCase], config: Config) -> list[torch.Tensor] | None:
    """Per case, which labels it was annotated for (L,) bool; None where the config names no such cases."""
    if not config.data.annotated:
        return None
    labels = LabelMap.from_mapping(config.labels)
    return [torch.tensor(annotated_labels(case.id, config.data.annotated, labels)) for case in cases]


def _unknown(config: Config) -> list[int]:
    """The index of voxels whose truth is unknown, if there are any."""
    ignored = LabelMap.from_mapping(config.labels).ignore_index
    return [] if ignored is None else [ignored]


def _alike(annotated: Sequence[torch.Tensor] | None, count: int) -> list[list[int]]:
    """Per case, the cases that were annotated for the same labels."""
    keys = [tuple(known.tolist()) for known in annotated] if annotated is not None else [()] * count
    groups: dict[tuple[bool, ...], list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    return [groups[key] for key in keys]


def _signed(indices: NDArray[Any]) -> torch.Tensor:
    """Label indices as a tensor; int16 instead of uint16, for which torch has few operations."""
    return torch.from_numpy(indices.view(np.int16) if indices.dtype == np.uint16 else indices)


def cut_padded(array: Pixels, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """A box of (C, *spatial) that may reach outside, where it is 0."""
    result = np.zeros((array.shape[0], *size), dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for begin, length, limit in zip(start, size, array.shape[1:], strict=True):
        low, high = max(begin, 0), min(begin + length, limit)
        if low >= high:
            return result
        source.append(slice(low, high))
        target.append(slice(low - begin, high - begin))
    result[tuple(target)] = array[tuple(source)]
    return result


def cut_mirrored(array: Pixels, start: Sequence[int], size: Sequence[int]) -> NDArray[Any]:
    """A box of (C, *spatial) that may reach outside, where the array is mirrored as often as it takes."""
    axes = [
        mirrored(begin, begin + length, limit)
        for begin, length, limit in zip(start, size, array.shape[1:], strict=True)
    ]
    lowest = [int(seen.min()) for seen in axes]
    box = tuple(slice(low, int(seen.max()) + 1) for low, seen in zip(lowest, axes, strict=True))
    result = np.array(array[(slice(None),) + box])  # noqa: RUF005 - Python 3.10; only what is seen is read from the disk
    for axis, (low, seen, begin) in enumerate(zip(lowest, axes, start, strict=True), start=1):
        if begin < 0 or begin + len(seen) > array.shape[axis]:
            result = result.take(seen - low, axis)
    return result
