"""When not to trust a mask: a case or a result that is not like those of the training.

A flag is a hint for the reader and changes nothing. Thresholds have slack, so that ordinary cases raise none: training
ranges are those of a sample, and the next case may lie a little outside of them. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medunet.geometry import Geometry
from medunet.io.check import sampled_percentiles
from medunet.io.structures import Extent, extents
from medunet.io.volume import Segmentation, Volume
from medunet.model.seen import ChannelSeen, Seen, StructureSeen, axis_order, body_axes, contrast

FLAGS = (
    *("axes", "spacing", "orientation", "field_of_view", "intensity"),
    *("volume", "components", "border", "disagreement"),
)
"""Names of all flags: of the image, then of single structures."""

SPACING = (0.8, 1.25)
"""Times the smallest and largest spacing: a quarter more is within what augmentation scales by."""

TILT_DEGREES = 15.0
"""More than the largest tilt: a head is rarely held straighter than that, and rotations of augmentation go beyond."""

FIELD_OF_VIEW = (0.7, 1.5)
"""Times the smallest and largest field of view: below, surroundings are missing; above, there are other organs."""

INTENSITY = 0.5
"""Times the width of a percentile's range, to either side: MR has no units, and few cases show little of its spread."""

INTENSITY_LEAST = 0.1
"""Of the distance between the lowest and highest values that training saw: slack where all cases were alike."""

VOLUME = (0.5, 2.0)
"""Times the smallest and largest volume: organs of healthy adults differ by about as much."""

ALWAYS_THERE = 0.95
"""Share of the training cases from which on a structure that is not found is remarked on."""

BORDER = 0.05
"""Share of the training cases below which a structure that touches the border of the image is remarked on."""

COMPONENTS = 1.5
"""Times the most components that training saw: one stays one, and of lesions there may be some more."""

DISAGREEMENT = 0.2
"""Share of a structure on which the networks of an ensemble may differ; good Dice scores leave less in doubt."""

_DIRECTIONS = {"R": "left-right", "A": "front-back", "S": "head-foot", "x": "wide", "y": "high"}
_PERCENTILES = {"low": "0.5 percentile", "median": "median", "high": "99.5 percentile"}


@dataclass(frozen=True)
class Flag:
    """A reason to look twice.

    Attributes:
        name: one of `FLAGS`.
        structure: name of the structure; None where it is the image.
        message: a sentence with the value and what training saw.
    """

    name: str
    structure: str | None
    message: str


def find_flags(
    volume: Volume,
    segmentation: Segmentation,
    seen: Seen | None,
    disagreement: Mapping[str, float] | None = None,
) -> tuple[Flag, ...]:
    """Compare a case and what was found in it with what training saw.

    Takes about 60 MB at most, however large the volume: intensities are those of a million voxels, and components are
    looked for as `medunet.io.structures` says.

    Args:
        volume: (C, *spatial), as it was read.
        segmentation: (*spatial) indices on the same grid.
        seen: of the model; None where that is not known, and only the disagreement can be judged.
        disagreement: per structure, 0 (all networks agree) to 1.

    Returns:
        Of the image, of the structures in their order, of the disagreement; empty if nothing is odd.
    """
    result: list[Flag] = []
    if seen is not None and volume.geometry.rank != seen.rank:
        seen_as = "pictures of two axes" if seen.rank == 2 else "volumes of three"
        result.append(Flag("axes", None, f"The image has {volume.geometry.rank} axes; training saw {seen_as}."))
    if seen is not None:
        grid = _Grid(volume.geometry, seen)
        result += [*_of_grid(grid), *_of_intensity(volume, seen), *_of_structures(segmentation, grid)]
    return (*result, *_of_networks(disagreement or {}))


def _outside(value: float, seen: tuple[float, float], slack: tuple[float, float]) -> bool:
    """Whether a value is below the smallest or above the largest, each times its slack."""
    return not seen[0] * slack[0] <= value <= seen[1] * slack[1]


def _span(seen: tuple[float, float], unit: str = "") -> str:
    """`1.5 to 3 mm`; `1.5 mm` where both are the same."""
    low, high = (f"{value:.4g}" for value in seen)
    return f"{low if low == high else f'{low} to {high}'} {unit}".rstrip()


class _Grid:
    """The grid of a case beside those of training.

    Args:
        geometry: of the case.
        seen: what training saw.

    Attributes:
        comparable: whether lengths and volumes are: the axes are as many, and both have a spacing or neither (that of a
            picture is 1, whatever it shows).
        order: array axis for each axis of `seen`; empty if the axes are not as many.
        length: unit of lengths.
        amount: what structures are measured by, its unit, and how many of these are a millilitre.
    """

    def __init__(self, geometry: Geometry, seen: Seen) -> None:
        self.geometry, self.seen = geometry, seen
        flat = geometry.rank == 2
        nominal = flat and set(geometry.spacing) == {1.0}
        alike = geometry.rank == seen.rank
        self.comparable = alike and nominal == (flat and set(seen.spacing_mm) == {(1.0, 1.0)})
        self.order = axis_order(geometry.axcodes, seen.axes) if alike else ()
        self.length = "pixels" if nominal else "mm"
        self.amount = ("area", "pixels" if nominal else "mm2", 1000.0) if flat else ("volume", "ml", 1.0)

    def odd(self, values: Sequence[float], seen: Sequence[tuple[float, float]], slack: tuple[float, float]) -> str:
        """Which axes are outside of what training saw, in words; empty if none is."""
        letters = body_axes(self.seen.axes) or "xy"
        told = [
            f"{values[axis]:.4g} {self.length} {_DIRECTIONS[letter]} (training saw {_span(known, self.length)})"
            for letter, axis, known in zip(letters, self.order, seen, strict=True)
            if _outside(values[axis], known, slack)
        ]
        return ", ".join(told)


def _of_grid(grid: _Grid) -> Iterator[Flag]:
    """Spacing, orientation and field of view."""
    geometry, seen = grid.geometry, grid.seen
    if grid.comparable:
        odd = grid.odd(geometry.spacing, seen.spacing_mm, SPACING)
        if odd:
            yield Flag("spacing", None, f"The spacing is {odd}.")
    if grid.order and geometry.rank == 3:
        yield from _of_orientation(geometry, seen)
    if grid.comparable:
        sides = [n * spacing for n, spacing in zip(geometry.shape, geometry.spacing, strict=True)]
        odd = grid.odd(sides, seen.field_of_view_mm, FIELD_OF_VIEW)
        if odd:
            yield Flag("field_of_view", None, f"The field of view is {odd}.")


def _of_orientation(geometry: Geometry, seen: Seen) -> Iterator[Flag]:
    """Flips are undone without a trace and differ between file formats, so they are none."""
    known = sorted({body_axes(axcodes) for axcodes in seen.orientations})
    if body_axes(geometry.axcodes) not in known:
        saw = ", ".join(seen.orientations)
        yield Flag(
            "orientation", None,
            f"The axes of the image are {geometry.axcodes}, in another order than training saw ({saw}); "
            "it may have been scanned in another plane.",
        )  # fmt: skip
    if geometry.tilt_degrees > seen.tilt_degrees + TILT_DEGREES:
        yield Flag(
            "orientation", None,
            f"The image is turned by {geometry.tilt_degrees:.0f} degrees against the axes of the patient; "
            f"training saw at most {seen.tilt_degrees:.0f}.",
        )  # fmt: skip


def _of_intensity(volume: Volume, seen: Seen) -> Iterator[Flag]:
    """One flag per channel with everything that is odd about it."""
    for channel, known in zip(volume.array, seen.channels, strict=True):
        odd = ", ".join(_odd_values(sampled_percentiles(channel), known))
        if odd:
            yield Flag("intensity", None, f"The values of {known.name} are unusual: {odd}.")


def _odd_values(percentiles: Sequence[float], known: ChannelSeen) -> Iterator[str]:
    least = INTENSITY_LEAST * (known.high[1] - known.low[0])
    for value, (key, name) in zip(percentiles, _PERCENTILES.items(), strict=True):
        seen: tuple[float, float] = getattr(known, key)
        if _beyond(value, seen, least):
            yield f"the {name} is {value:.4g} (training saw {_span(seen)})"
    share = contrast(percentiles)
    if _beyond(share, known.contrast, INTENSITY_LEAST):
        yield (
            f"the median lies at {share:.0%} of the way between the percentiles "
            f"(training saw {known.contrast[0]:.0%} to {known.contrast[1]:.0%})"
        )


def _beyond(value: float, seen: tuple[float, float], least: float) -> bool:
    slack = max(INTENSITY * (seen[1] - seen[0]), least)
    return not seen[0] - slack <= value <= seen[1] + slack


def _of_structures(segmentation: Segmentation, grid: _Grid) -> Iterator[Flag]:
    labels = segmentation.labels
    members = [np.flatnonzero(labels.membership[label.index]).tolist() for label in labels.foreground]
    for label, extent in zip(labels.foreground, extents(segmentation.array, members), strict=True):
        known = grid.seen.structures[label.name]
        if extent is not None:
            yield from _of_structure(label.name, extent, known, grid)
        elif known.cases and known.present >= ALWAYS_THERE:
            saw = f"training saw it in {known.present:.0%} of the cases"
            yield Flag("volume", label.name, f"No {label.name} was found; {saw}.")


def _of_structure(name: str, extent: Extent, known: StructureSeen, grid: _Grid) -> Iterator[Flag]:
    """Of one that was found; nothing is known of one that no training case had."""
    if known.volume_ml is None:
        return
    volume_ml = extent.voxels * grid.geometry.voxel_volume_ml
    if grid.comparable and _outside(volume_ml, known.volume_ml, VOLUME):
        what, unit, many = grid.amount
        low, high = known.volume_ml
        saw = _span((low * many, high * many), unit)
        yield Flag("volume", name, f"The {what} of {name} is {volume_ml * many:.4g} {unit}; training saw {saw}.")
    if grid.order and extent.components > COMPONENTS * known.components:
        saw = f"training saw {known.components} at most"
        yield Flag("components", name, f"{name} is in {extent.components} pieces; {saw}.")
    if grid.order and extent.at_border and known.at_border < BORDER:
        saw = f"it did so in {known.at_border:.0%} of the training cases that have it"
        yield Flag("border", name, f"{name} touches the border of the image and may be cut off; {saw}.")


def _of_networks(disagreement: Mapping[str, float]) -> Iterator[Flag]:
    for name, share in disagreement.items():
        if share > DISAGREEMENT:
            limit = f"up to {DISAGREEMENT:.0%} are usual"
            yield Flag("disagreement", name, f"The networks disagree on {share:.0%} of {name}; {limit}.")
