"""Every loss once more, in plain NumPy with loops over cases, labels and voxels: what `medunet.losses` must give.

Written from the papers and `docs/explanation/losses.md`, sharing no code with the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Sample:
    """A batch: probabilities and truth per label, voxels in a flat list per case.

    Attributes:
        p, t: [case][channel][voxel], probability and truth (0 or 1).
        places: [voxel], the coordinates of each voxel.
        counted: [case][voxel], whether the truth is known.
        channels: [case], the channels that count.
        background: channel 0 is the background.
        names: of the channels.
        weight: [case][voxel], the weight map.
    """

    p: Array
    t: Array
    places: list[tuple[int, ...]]
    counted: Array
    channels: list[list[int]]
    background: bool
    names: Sequence[str]
    weight: Array

    def cases(self) -> range:
        return range(len(self.p))

    def voxels(self, case: int) -> list[int]:
        return [v for v in range(len(self.places)) if self.counted[case, v]]

    def structures(self, case: int, background: bool = False) -> list[int]:
        return [c for c in self.channels[case] if c > 0 or background or not self.background]


def sample(
    logits: Array, index: Array, names: Sequence[str], *, membership: Array, nested: bool, ignore: int,
    annotated: Array | None, weight: Array,
) -> Sample:  # fmt: skip
    """From what a loss is called with: logits (B, C, *S), index (B, 1, *S), annotated (B, L), names by label."""
    batch, channels = logits.shape[:2]
    places = list(itertools.product(*(range(n) for n in logits.shape[2:])))
    z, y = logits.reshape(batch, channels, -1), index.reshape(batch, -1)
    p, t = np.zeros(z.shape), np.zeros(z.shape)
    shift = 1 if nested else 0
    known = np.ones((batch, channels + shift), dtype=bool) if annotated is None else annotated
    for b, v in itertools.product(range(batch), range(len(places))):
        raw = np.exp(z[b, :, v])
        p[b, :, v] = raw / (1 + raw) if nested else raw / raw.sum()
        if not nested:
            foreign = [c for c in range(channels) if not known[b, c]]
            p[b, 0, v] += p[b, foreign, v].sum()
            p[b, foreign, v] = 0
        if y[b, v] == ignore:
            continue
        if nested:
            t[b, :, v] = membership[1:, y[b, v]]
        else:
            t[b, y[b, v] if known[b, y[b, v]] else 0, v] = 1
    columns = [[c for c in range(channels) if known[b, c + shift]] for b in range(batch)]
    return Sample(p, t, places, y != ignore, columns, not nested, names[shift:], weight.reshape(batch, -1))


def _entropies(s: Sample) -> Iterator[tuple[int, int, int, float]]:
    """Case, label, voxel and value: softmax once per voxel with the true label, sigmoid once per structure too."""
    for b in s.cases():
        for v in s.voxels(b):
            if s.background:
                c = int(s.t[b, :, v].argmax())
                yield b, c, v, -np.log(s.p[b, c, v])
            else:
                for c in s.channels[b]:
                    yield b, c, v, -np.log(s.p[b, c, v] if s.t[b, c, v] else 1 - s.p[b, c, v])


def cross_entropy(s: Sample, class_weights: dict[str, float] | None = None, label_smoothing: float = 0.0) -> float:
    w = [(class_weights or {}).get(name, 1.0) for name in s.names]
    above = below = 0.0
    for b, c, v, value in _entropies(s):
        if s.background:
            even = np.mean([-w[k] * np.log(s.p[b, k, v]) for k in s.channels[b]])
        else:
            even = -w[c] * (np.log(s.p[b, c, v]) + np.log(1 - s.p[b, c, v])) / 2
        above += (1 - label_smoothing) * w[c] * value + label_smoothing * even
        below += w[c]
    return above / below


def bce(
    s: Sample,
    class_weights: dict[str, float] | None = None,
    positive_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> float:
    above = below = 0.0
    for b in s.cases():
        for c, v in itertools.product(s.structures(b), s.voxels(b)):
            w = (class_weights or {}).get(s.names[c], 1.0)
            t = (1 - label_smoothing) * s.t[b, c, v] + label_smoothing / 2
            p = s.p[b, c, v]
            above += w * (-positive_weight * t * np.log(p) - (1 - t) * np.log(1 - p))
            below += w
    return above / below


def focal(s: Sample, gamma: float = 2.0, class_weights: dict[str, float] | None = None) -> float:
    above = below = 0.0
    for _, c, _, value in _entropies(s):
        w = (class_weights or {}).get(s.names[c], 1.0)
        above += w * (1 - np.exp(-value)) ** gamma * value
        below += w
    return above / below


def topk_ce(s: Sample, percent: float = 10.0) -> float:
    values = sorted((value for *_, value in _entropies(s)), reverse=True)
    count = max(1, round(len(values) * percent / 100))
    return float(np.mean(values[:count]))


def boundary_weighted_ce(s: Sample, **_: Any) -> float:
    return float(np.mean([s.weight[b, v] * value for b, _, v, value in _entropies(s)]))


def _overlap(s: Sample, ratio: Callable[[Array, Array], float], background: bool, batch: bool) -> float:
    """Mean over labels of `ratio(p, t, of the voxels that count)`, and over cases or over the pooled batch."""
    groups = [list(s.cases())] if batch else [[b] for b in s.cases()]
    values = []
    for group in groups:
        for c in sorted({c for b in group for c in s.structures(b, background)}):
            pairs = [(s.p[b, c, v], s.t[b, c, v]) for b in group if c in s.channels[b] for v in s.voxels(b)]
            p, t = np.array(pairs).T
            values.append(ratio(p, t))
    return float(np.mean(values))


def dice(
    s: Sample, background: bool = False, batch: bool = False, squared: bool = False, generalised: bool = False
) -> float:
    if generalised:
        return _generalised(s, background, batch, squared)

    def ratio(p: Array, t: Array) -> float:
        return 1 - (2 * (p * t).sum() + 1e-5) / ((p**2 if squared else p).sum() + t.sum() + 1e-5)

    return _overlap(s, ratio, background, batch)


def _generalised(s: Sample, background: bool, batch: bool, squared: bool) -> float:
    losses = []
    for group in [list(s.cases())] if batch else [[b] for b in s.cases()]:
        rows = []
        for c in sorted({c for b in group for c in s.structures(b, background)}):
            pairs = [(s.p[b, c, v], s.t[b, c, v]) for b in group if c in s.channels[b] for v in s.voxels(b)]
            p, t = np.array(pairs).T
            rows.append(((p * t).sum(), (p**2 if squared else p).sum() + t.sum(), t.sum()))
        present = [size for *_, size in rows if size > 0]
        weights = [(min(present) / size) ** 2 if size > 0 else 1 for *_, size in rows]
        above = sum(w * hit for w, (hit, _, _) in zip(weights, rows, strict=True))
        below = sum(w * both for w, (_, both, _) in zip(weights, rows, strict=True))
        losses.append(1 - (2 * above + 1e-5) / (below + 1e-5))
    return float(np.mean(losses))


def iou(s: Sample, background: bool = False, batch: bool = False) -> float:
    def ratio(p: Array, t: Array) -> float:
        hit = (p * t).sum()
        return 1 - (hit + 1e-5) / (p.sum() + t.sum() - hit + 1e-5)

    return _overlap(s, ratio, background, batch)


def tversky(
    s: Sample, background: bool = False, batch: bool = False, alpha: float = 0.3, beta: float = 0.7, power: float = 1.0
) -> float:
    def ratio(p: Array, t: Array) -> float:
        hit, too_much, too_little = (p * t).sum(), (p * (1 - t)).sum(), ((1 - p) * t).sum()
        return (1 - (hit + 1e-5) / (hit + alpha * too_much + beta * too_little + 1e-5)) ** power

    return _overlap(s, ratio, background, batch)


def focal_tversky(s: Sample, gamma: float = 4 / 3, **options: Any) -> float:
    return tversky(s, power=1 / gamma, **options)


def _distances(s: Sample, case: int, mask: Array) -> Array:
    """[voxel]: distance to the nearest known voxel where `mask` is the other; 0 without one anywhere."""
    voxels = s.voxels(case)
    result = np.zeros(len(s.places))
    if len({bool(mask[v]) for v in voxels}) == 2:
        for v in voxels:
            others = [u for u in voxels if mask[u] != mask[v]]
            result[v] = min(np.linalg.norm(np.subtract(s.places[u], s.places[v])) for u in others)
    return result


def hausdorff(s: Sample, alpha: float = 2.0) -> float:
    values = []
    for b in s.cases():
        for c in s.structures(b):
            true, predicted = _distances(s, b, s.t[b, c] > 0.5), _distances(s, b, s.p[b, c] > 0.5)
            values += [
                (s.p[b, c, v] - s.t[b, c, v]) ** 2 * (true[v] ** alpha + predicted[v] ** alpha) for v in s.voxels(b)
            ]
    return float(np.mean(values))


def surface(s: Sample) -> float:
    values = []
    for b in s.cases():
        for c in s.structures(b):
            distance = _distances(s, b, s.t[b, c] > 0.5)
            signed = np.where(distance == 0, 0, np.where(s.t[b, c] > 0.5, 0.5 - distance, distance - 0.5))
            values += [s.p[b, c, v] * signed[v] for v in s.voxels(b)]
    return float(np.mean(values))


Near = dict[int, list[int]]
"""By known voxel, its known neighbours and itself."""


def _neighbours(s: Sample, case: int, corners: bool) -> Near:
    """`corners`: diagonal ones too."""
    voxels, near = s.voxels(case), {}
    for v in voxels:
        steps = {u: np.abs(np.subtract(s.places[u], s.places[v])) for u in voxels}
        near[v] = [u for u, step in steps.items() if step.max() <= 1 and (corners or step.sum() <= 1)]
    return near


def _extremes(values: Array, near: Near, extreme: Callable[..., Any]) -> Array:
    """[voxel]: the extreme over the neighbours of each voxel."""
    result = np.zeros(len(values))
    for v, members in near.items():
        result[v] = extreme(values[members])
    return result


def _skeleton(values: Array, cross: Near, block: Near, iterations: int) -> Array:
    def ridge(image: Array) -> Array:
        opened = _extremes(_extremes(image, cross, np.min), block, np.max)
        return np.maximum(image - opened, 0)

    skeleton = ridge(values)
    for _ in range(iterations):
        values = _extremes(values, cross, np.min)
        skeleton = skeleton + (1 - skeleton) * ridge(values)
    return skeleton


def cldice(s: Sample, iterations: int = 5) -> float:
    values = []
    for b in s.cases():
        voxels, near = s.voxels(b), [_neighbours(s, b, corners) for corners in (False, True)]
        for c in s.structures(b):
            p, t = s.p[b, c], s.t[b, c]
            thin_p, thin_t = (_skeleton(image, *near, iterations) for image in (p, t))
            precision = ((thin_p * t)[voxels].sum() + 1) / (thin_p[voxels].sum() + 1)
            sensitivity = ((thin_t * p)[voxels].sum() + 1) / (thin_t[voxels].sum() + 1)
            values.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    return float(np.mean(values))


FORMULAS: dict[str, Callable[..., float]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "dice": dice,
    "iou": iou,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "focal": focal,
    "topk_ce": topk_ce,
    "boundary_weighted_ce": boundary_weighted_ce,
    "hausdorff": hausdorff,
    "cldice": cldice,
    "surface": surface,
}
