"""`seen:` in model.yaml: what the training cases were like, so that prediction can tell when a case is not.

Ranges are over the training cases, held-out ones left out. Knows nothing of how a case is compared with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from medunet.config.derived import annotated_labels
from medunet.config.section import Finite, Fraction, Positive, Section
from medunet.io.check import CaseStatistics
from medunet.labels import LabelMap

_PLAIN = str.maketrans("LPI", "RAS")

AIR = -1000.0
"""In Hounsfield units."""


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"{value[0]:g} to {value[1]:g} is no range")
    return value


Range = Annotated[tuple[Finite, Finite], AfterValidator(_in_order)]
"""Smallest and largest."""

NotNegative = Annotated[float, Field(ge=0)]


class ChannelSeen(Section):
    """Values of one image channel as they were read, before they were normalised."""

    name: str
    """As in `modality` of the configuration."""
    low: Range
    """The 0.5 percentile of a case."""
    median: Range
    """The 50 percentile."""
    high: Range
    """The 99.5 percentile."""
    contrast: Range
    """Where the median lies between the other two, 0 to 1: what stays the same if all values are scaled."""


class StructureSeen(Section):
    """One structure in the masks."""

    cases: Annotated[int, Field(ge=0)]
    """That were annotated for it."""
    present: Fraction
    """Share of these that have it."""
    volume_ml: Range | None = None
    """Where it is present, with what lies inside of it; a pixel of a picture counts as a microlitre."""
    components: Annotated[int, Field(ge=0)] = 0
    """Most pieces of at least 1 % of it."""
    at_border: Fraction = 0.0
    """Share of the cases that have it in which it touches the border of the image."""


class Seen(Section):
    """What training saw."""

    cases: Positive
    """Of an ensemble, those of the network with the most."""
    axes: Annotated[str, Field(pattern="^([RLAPSI]{3})?$")]
    """Order of the axes below: `preprocess.orientation`; empty for pictures, whose axes are those of the file."""
    spacing_mm: tuple[Range, ...]
    """Per axis; pictures have 1."""
    field_of_view_mm: tuple[Range, ...]
    """Per axis; of pictures their size in pixels."""
    orientations: tuple[str, ...]
    """Axes of the files."""
    tilt_degrees: NotNegative
    """How far they were turned away from those of the patient at most."""
    channels: tuple[ChannelSeen, ...]
    structures: dict[str, StructureSeen]
    air: Finite | None = None
    """Of CT: midway between air and what 95 % of the voxels of each structure reach; an image, or a window of one, that
    nowhere exceeds it holds none of them."""

    @property
    def rank(self) -> int:
        """Number of axes of the training cases."""
        return len(self.spacing_mm)

    @model_validator(mode="after")
    def _axes_agree(self) -> Seen:
        if {len(self.spacing_mm), len(self.field_of_view_mm)} != {3 if self.axes else 2}:
            raise ValueError("spacing_mm and field_of_view_mm need a range for each of axes, or two of pictures")
        if self.axes and set(body_axes(self.axes)) != set("RAS"):
            raise ValueError(f'axes "{self.axes}" do not name each axis of the patient once')
        return self

    def contradiction(self, modality: Sequence[str], structures: Sequence[str]) -> str:
        """What does not fit a model of these channels and structures, as a sentence; empty if all does."""
        if len(self.channels) != len(modality):
            return f"seen has {len(self.channels)} channels, but modality names {', '.join(modality)}."
        if set(self.structures) != set(structures):
            return f"seen has other structures than labels, {', '.join(structures)}."
        return ""


def body_axes(axcodes: str) -> str:
    """The axes of the patient that array axes run along, whichever way: "SAR" for "IPR"."""
    return axcodes.translate(_PLAIN)


def axis_order(axcodes: str, axes: str) -> tuple[int, ...]:
    """For each of `axes` (as in `Seen`) the array axis of an image with `axcodes`."""
    if not axes:
        return tuple(range(len(axcodes)))
    return tuple(body_axes(axcodes).index(letter) for letter in body_axes(axes))


def contrast(percentiles: Sequence[float]) -> float:
    """Where the median lies between the other two of three percentiles, 0 to 1; 0 where they are equal."""
    low, median, high = percentiles
    return (median - low) / (high - low) if high > low else 0.0


def seen_in(
    statistics: Sequence[CaseStatistics],
    *,
    labels: LabelMap,
    modality: Sequence[str],
    orientation: str,
    annotated: Mapping[str, Sequence[str]] | None = None,
) -> Seen:
    """Put together what was seen in the training cases.

    Args:
        statistics: of all training cases, at least one; all have one spatial rank.
        labels: the structures.
        modality: name per channel.
        orientation: `preprocess.orientation`.
        annotated: `data.annotated`; a case says nothing of a structure that it was not annotated for.
    """
    axes = orientation if len(statistics[0].shape) == 3 else ""
    orders = [axis_order(case.axcodes, axes) for case in statistics]
    spacing = [[case.spacing[axis] for axis in order] for case, order in zip(statistics, orders, strict=True)]
    views = [
        [case.spacing[axis] * case.shape[axis] for axis in order]
        for case, order in zip(statistics, orders, strict=True)
    ]
    known = {case.id: annotated_labels(case.id, annotated or {}, labels) for case in statistics}
    return Seen(
        cases=len(statistics),
        axes=axes,
        spacing_mm=tuple(_range(values) for values in zip(*spacing, strict=True)),
        field_of_view_mm=tuple(_range(values) for values in zip(*views, strict=True)),
        orientations=tuple(sorted({case.axcodes for case in statistics})),
        tilt_degrees=_short(max(case.tilt_degrees for case in statistics)),
        channels=tuple(
            _channel(name, [case.percentiles[number] for case in statistics]) for number, name in enumerate(modality)
        ),
        structures={
            label.name: _structure(label.name, [case for case in statistics if known[case.id][label.index]])
            for label in labels.foreground
        },
        air=_air(statistics) if tuple(modality) == ("CT",) else None,
    )


def _air(statistics: Sequence[CaseStatistics]) -> float | None:
    """None where nothing is outlined, or something that is as dim as air."""
    dimmest = min((case.dimmest for case in statistics if case.dimmest is not None), default=AIR)
    return _short((AIR + dimmest) / 2) if dimmest > AIR else None


def _short(value: float) -> float:
    """Six digits: more say nothing, and people read the file."""
    return float(f"{value:.6g}")


def _range(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    return _short(min(values)), _short(max(values))


def _channel(name: str, percentiles: Sequence[Sequence[float]]) -> ChannelSeen:
    low, median, high = zip(*percentiles, strict=True)
    return ChannelSeen(
        name=name,
        low=_range(low),
        median=_range(median),
        high=_range(high),
        contrast=_range(contrast(each) for each in percentiles),
    )


def _structure(name: str, cases: Sequence[CaseStatistics]) -> StructureSeen:
    """Of the cases that were annotated for it."""
    there = [case for case in cases if case.voxels.get(name)]
    if not there:
        return StructureSeen(cases=len(cases), present=0.0)
    return StructureSeen(
        cases=len(cases),
        present=_short(len(there) / len(cases)),
        volume_ml=_range(case.voxels[name] * math.prod(case.spacing) / 1000 for case in there),
        components=max(case.components.get(name, 0) for case in there),
        at_border=_short(sum(name in case.at_border for case in there) / len(there)),
    )


def union(parts: Iterable[Seen | None]) -> Seen | None:
    """What the networks of an ensemble saw together; those of which it is unknown are left out, None if it is of all.

    Ranges hold all of theirs. Shares are means over their training cases: exact for folds, in which every case
    trains the same number of networks.
    """
    known = [part for part in parts if part is not None]
    known = [part for part in known if (part.axes, part.rank) == (known[0].axes, known[0].rank)]
    if len(known) < 2:
        return known[0] if known else None
    return Seen(
        cases=max(part.cases for part in known),
        axes=known[0].axes,
        spacing_mm=_hulls(known, lambda part: part.spacing_mm),
        field_of_view_mm=_hulls(known, lambda part: part.field_of_view_mm),
        orientations=tuple(sorted({name for part in known for name in part.orientations})),
        tilt_degrees=max(part.tilt_degrees for part in known),
        channels=tuple(_join_channels(each) for each in zip(*(part.channels for part in known), strict=True)),
        structures={name: _join_structures([part.structures[name] for part in known]) for name in known[0].structures},
        air=_lowest([part.air for part in known]),
    )


def _lowest(levels: Sequence[float | None]) -> float | None:
    """None if one of them is unknown."""
    known = [level for level in levels if level is not None]
    return min(known) if len(known) == len(levels) else None


def _hull(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def _hulls(parts: Sequence[Seen], of: Callable[[Seen], Sequence[Range]]) -> tuple[tuple[float, float], ...]:
    return tuple(_hull(each) for each in zip(*(of(part) for part in parts), strict=True))


def _join_channels(parts: Sequence[ChannelSeen]) -> ChannelSeen:
    return ChannelSeen(
        name=parts[0].name,
        low=_hull(part.low for part in parts),
        median=_hull(part.median for part in parts),
        high=_hull(part.high for part in parts),
        contrast=_hull(part.contrast for part in parts),
    )


def _join_structures(parts: Sequence[StructureSeen]) -> StructureSeen:
    ranges = [part.volume_ml for part in parts if part.volume_ml is not None]
    known = sum(part.cases for part in parts)
    there = sum(part.cases * part.present for part in parts)
    touching = sum(part.cases * part.present * part.at_border for part in parts)
    return StructureSeen(
        cases=max(part.cases for part in parts),
        present=min(1.0, _short(there / known)) if known else 0.0,
        volume_ml=_hull(ranges) if ranges else None,
        components=max(part.components for part in parts),
        at_border=min(1.0, _short(touching / there)) if there else 0.0,
    )
