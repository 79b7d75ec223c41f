"""The `postprocess:` section: one options class per step. What a step does stands in `medunet.postprocess`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from medunet.config.section import PositiveFloat, Section
from medunet.labels import BACKGROUND


class SingleOptions(Section):
    """What the steps for one structure have in common."""

    name: str
    """Which step."""
    label: str
    """Name of the structure."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that the step is for."""
        return (self.label,)


class GroupOptions(Section):
    """What the steps for one structure, or for several as one, have in common."""

    name: str
    """Which step."""
    label: str | None = None
    """Name of the structure."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Instead of `label`: names of structures that are treated as one."""

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the structures that the step is for."""
        return (self.label,) if self.label is not None else self.labels or ()


class LargestComponentConfig(GroupOptions):
    """Keep the largest connected component of a structure, or of several structures together."""

    name: Literal["largest_component"]


class RemoveSmallConfig(GroupOptions):
    """Remove connected components that are smaller than a volume. A picture counts as 1 mm thick."""

    name: Literal["remove_small"]
    ml: PositiveFloat | None = None
    """Components smaller than this many millilitres are removed."""
    mm3: PositiveFloat | None = None
    """Instead of `ml`: the same in cubic millimetres."""


class FillHolesConfig(GroupOptions):
    """Fill holes that are enclosed on all sides; one of a group is filled with the structure that it touches most."""

    name: Literal["fill_holes"]


class SmoothConfig(SingleOptions):
    """Smooth the surface of a structure: its mask is blurred with a Gaussian, and what is above 1/2 stays.

    A ball vanishes if its radius is below one and a half times `mm`, a plate if it is thinner than 1.35 times; round
    shapes shrink by about `mm` squared over their radius.
    """

    name: Literal["smooth"]
    mm: PositiveFloat
    """Standard deviation of the Gaussian in millimetres, the same along all axes."""


class WatershedConfig(SingleOptions):
    """Tell objects of a structure apart that touch: it is cut where its probability dips between two peaks.

    A cut is one voxel wide and becomes what lies around, or background. Cells with a faint membrane between them, and
    nuclei side by side, are each an object of their own afterwards.
    """

    name: Literal["watershed"]
    depth: Annotated[float, Field(gt=0, lt=1)]
    """How far the probability falls from the lower of the two peaks to the pass between them, at least. Shallower dips
    are noise: a smaller depth makes more objects."""


class ThresholdConfig(SingleOptions):
    """Ask for a probability: voxels of a structure that have less fall back to the next likely label.

    Thresholds are applied as labels are chosen, before all other steps, wherever they stand in the list. Of labels
    inside of each other a structure is present where its probability is above the threshold instead of above 1/2. Of
    others only a threshold above 1 / (number of labels) can change anything; one for `background` lets them win more:
    with 0.7, beside one structure, that is where the structure has more than 0.3.
    """

    name: Literal["threshold"]
    probability: Annotated[float, Field(gt=0, lt=1)]
    """The least probability."""


PostprocessStep = Annotated[
    LargestComponentConfig | RemoveSmallConfig | FillHolesConfig | SmoothConfig | WatershedConfig | ThresholdConfig,
    Field(discriminator="name"),
]


def nameable(step: PostprocessStep, structures: Sequence[str], *, nested: bool) -> tuple[str, ...]:
    """What a step may name: the structures, and for a threshold the background, unless labels lie inside of others."""
    has_background = isinstance(step, ThresholdConfig) and not nested
    return (*structures, BACKGROUND) if has_background else tuple(structures)


@dataclass(frozen=True)
class Misfit:
    """Keys of a step that do not fit together: the one that is blamed first, what must hold (a predicate), a remedy."""

    keys: tuple[str, ...]
    rule: str
    hint: str


def misfits(step: PostprocessStep) -> Iterator[Misfit]:
    """What is wrong with a step, whatever the labels are."""
    if isinstance(step, GroupOptions):
        yield from _one_of(("label", step.label), ("labels", step.labels), "the name of a structure")
        names = step.labels or ()
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            yield Misfit(("labels",), f"names {twice} twice.", "Write each name once.")
    if isinstance(step, RemoveSmallConfig):
        yield from _one_of(("ml", step.ml), ("mm3", step.mm3), "a volume")


def _one_of(first: tuple[str, object], second: tuple[str, object], what: str) -> Iterator[Misfit]:
    """Exactly one of two keys must have a value."""
    keys = (first[0], second[0])
    if first[1] is None and second[1] is None:
        yield Misfit(keys, f"is missing; it must be {what}.", f"Write {first[0]} or {second[0]}.")
    elif first[1] is not None and second[1] is not None:
        yield Misfit(keys[::-1], f"cannot stand beside {first[0]}.", "Leave one of them out.")
