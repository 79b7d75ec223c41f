"""Which slices form a volume together.

Slices of one series are parted by what no volume mixes (orientation, matrix, pixel spacing, frame of reference,
magnitude and phase), and further, where several images lie at each position, by echo, b-value, time point and the
like, or where echoes, b-values or kinds of image take turns from one position to the next. Never by slice thickness or
instance number: both vary within real volumes. Knows nothing of regularity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medunet.io.dicom.slices import Plane, Slice

_COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-4
_POSITION_TOLERANCE_MM = 0.01
_TAKING_TURNS = ("image type", "frame type", "echo time", "echo", "b-value", "kernel")
"""Traits that are the same along a volume. Of others, such as times, slices that were acquired in turn have two."""
_COMPONENT_NAMES = {"M": "magnitude", "P": "phase", "R": "real", "I": "imaginary"}


@dataclass(frozen=True)
class Part:
    """Slices that could form one volume.

    Attributes:
        slices: in no particular order, at least one.
        label: how it differs from the other parts of its series, "" if it is the only one.
        dropped: how many byte-identical repeats were left out.
    """

    slices: tuple[Slice, ...]
    label: str = ""
    dropped: int = 0


def group(slices: Iterable[Slice], digest: Callable[[Slice], str]) -> list[Part]:
    """All parts; those of one series in the order of what tells them apart, whatever their files are called.

    Args:
        slices: of any number of series.
        digest: names the pixel data of a slice, "" if they cannot be named; called only for slices that
            seem to be repeats of one another.
    """
    by_series: dict[str, list[list[Slice]]] = {}
    for cluster in _clusters(slices):
        by_series.setdefault(cluster[0].identity.series_uid, []).append(cluster)
    return [
        Part(part.slices, ", ".join(filter(None, (label, part.label))), part.dropped)
        for clusters in (sorted(clusters, key=_rank) for clusters in by_series.values())
        for label, cluster in zip(_labels(clusters), clusters, strict=True)
        for part in _by_trait(cluster, digest)
    ]


def places(slices: Sequence[Slice]) -> NDArray[np.intp]:
    """Rank of the position of each slice along the common normal; slices at one position share a rank."""
    plane = slices[0].plane
    if plane is None:
        return np.zeros(len(slices), dtype=np.intp)
    along = positions(slices) @ plane.normal
    order = np.argsort(along, kind="stable")
    tolerance = min(_POSITION_TOLERANCE_MM, 0.01 * min(plane.spacing))
    ranks = np.empty(len(slices), dtype=np.intp)
    ranks[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) > tolerance)])
    return ranks


def positions(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """(n, 3) LPS millimetres of the first pixels; every slice has a plane."""
    return np.asarray([s.plane.position for s in slices if s.plane is not None], dtype=np.float64)


def _clusters(slices: Iterable[Slice]) -> list[list[Slice]]:
    exact: dict[tuple[object, ...], list[list[Slice]]] = {}
    for item in slices:
        key = (item.identity, item.rows, item.columns, item.component, item.fault)
        clusters = exact.setdefault(key, [])
        home = next((cluster for cluster in clusters if _same_plane(cluster[0].plane, item.plane)), None)
        if home is None:
            clusters.append([item])
        else:
            home.append(item)
    return [cluster for clusters in exact.values() for cluster in clusters]


def _rank(cluster: Sequence[Slice]) -> tuple[object, ...]:
    """Order among the clusters of one series: magnitude first, then by view, size and direction."""
    first = cluster[0]
    place = first.plane
    numbers = () if place is None else (*place.spacing, *place.row, *place.column)
    identity = first.identity
    return (
        ["", *_COMPONENT_NAMES].index(first.component),
        _view(place),
        (-first.columns, -first.rows),
        tuple(round(value, 3) for value in numbers),
        (identity.study_uid, identity.frame_of_reference, identity.patient, first.fault),
    )


def _same_plane(one: Plane | None, other: Plane | None) -> bool:
    if one is None or other is None:
        return one is other
    cosines = zip(one.row + one.column, other.row + other.column, strict=True)
    spacings = zip(one.spacing, other.spacing, strict=True)
    return all(abs(a - b) <= _COSINE_TOLERANCE for a, b in cosines) and all(
        abs(a - b) <= _SPACING_TOLERANCE * b for a, b in spacings
    )


def _labels(clusters: Sequence[Sequence[Slice]]) -> list[str]:
    """What tells the clusters of one series apart, in words."""
    if len(clusters) == 1:
        return [""]
    sides = [
        (
            _COMPONENT_NAMES.get(cluster[0].component, ""),
            _view(cluster[0].plane),
            f"{cluster[0].columns}x{cluster[0].rows}",
        )
        for cluster in clusters
    ]
    telling = [index for index in range(3) if len({side[index] for side in sides}) > 1]
    labels = [", ".join(side[index] for index in telling if side[index]) for side in sides]
    return [
        ", ".join(filter(None, (label, f"part {labels[: n + 1].count(label)}" if labels.count(label) > 1 else "")))
        for n, label in enumerate(labels)
    ]


def _view(plane: Plane | None) -> str:
    if plane is None:
        return "no position"
    return ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(plane.normal)))]


def _by_trait(cluster: Sequence[Slice], digest: Callable[[Slice], str]) -> list[Part]:
    if cluster[0].plane is None or (cluster[0].fault and not cluster[0].colour):
        return [Part(tuple(cluster))]
    kept = _without_repeats(cluster, digest)
    dropped = len(cluster) - len(kept)
    return [Part(tuple(part), label, dropped) for label, part in _split(kept)]


def _without_repeats(cluster: Sequence[Slice], digest: Callable[[Slice], str]) -> list[Slice]:
    """Drop all but the first (by path) of slices that agree in place, traits, rescaling and pixel bytes."""
    ranks = places(cluster)
    crowded = np.bincount(ranks) > 1
    seen: set[tuple[object, ...]] = set()
    candidates: dict[tuple[object, ...], int] = {}
    for item, rank in zip(cluster, ranks, strict=True):
        key = (int(rank), item.traits, item.rescale)
        candidates[key] = candidates.get(key, 0) + 1
    kept = []
    for item, rank in zip(cluster, ranks, strict=True):
        key = (int(rank), item.traits, item.rescale)
        if crowded[rank] and candidates[key] > 1 and (name := digest(item)):
            if (*key, name) in seen:
                continue
            seen.add((*key, name))
        kept.append(item)
    return kept


def _split(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Part slices that share positions by the first trait that leaves a whole stack for each of its values.

    A trait whose values leave holes in the stacks tells nothing of volumes; slices that no trait parts stay together.
    Slices with a position each are parted where the values of a trait that no volume mixes take turns along them.
    """
    ranks = places(slices)
    levels = int(ranks.max()) + 1
    if levels == 1:
        return [("", list(slices))]
    for label, _ in slices[0].traits:
        values: dict[str, list[int]] = {}
        for number, item in enumerate(slices):
            values.setdefault(dict(item.traits).get(label, ""), []).append(number)
        if len(values) == 1:
            continue
        if levels == len(slices):
            parting = label in _TAKING_TURNS and "" not in values and _take_turns(ranks, list(values.values()))
        else:
            parting = all(len(set(ranks[numbers])) == levels for numbers in values.values())
        if parting:
            return [
                (", ".join(filter(None, (f"{label} {value or 'none'}", deeper))), part)
                for value, numbers in sorted(values.items(), key=lambda entry: _order(entry[0]))
                for deeper, part in _split([slices[number] for number in numbers])
            ]
    return [("", list(slices))]


def _take_turns(ranks: NDArray[np.intp], groups: Sequence[Sequence[int]]) -> bool:
    """Whether slices of a position each belong to the groups in turn (a, b, a, b, ...), twice each at least."""
    owner = np.empty(len(ranks), dtype=np.intp)
    for number, members in enumerate(groups):
        owner[ranks[members]] = number
    count = len(groups)
    whole = len(set(owner[:count])) == count and len(owner) >= 2 * count
    return whole and bool((owner[count:] == owner[:-count]).all())


def _order(value: str) -> tuple[int, tuple[float, ...], str]:
    """Order among the values of a trait: none, numbers by size, words."""
    try:
        return 0, tuple(float(part) for part in value.split("\\")) if value else (), value
    except ValueError:
        return 1, (), value
