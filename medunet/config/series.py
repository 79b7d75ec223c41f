"""`data.series`: which series of a DICOM export is the one that is meant. Knows nothing of DICOM files."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from medunet.config.section import Positive, Section

_Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]
Word = Annotated[str, Field(min_length=1, max_length=16)]


class SeriesRules(Section):
    """What a series must be like; all rules that are given must fit, and one series must fit them."""

    modality: Annotated[tuple[Word, ...], Field(min_length=1, examples=[["CT"]])] | None = None
    """Modalities that fit, for example [CT]."""
    description: Pattern | None = None
    """Text that occurs in the Series Description, in any case: `portal|venous`. `|` stands between alternatives, `*`
    for any text, `?` for any letter."""
    slices: Annotated[tuple[Positive, Positive], Field(examples=[[20, 2000]])] | None = None
    """Fewest and most slices."""
    spacing: Annotated[tuple[_Distance, _Distance], Field(examples=[[0.0, 6.0]])] | None = None
    """Smallest and largest distance between slices in mm."""
    kernel: Pattern | None = None
    """The whole Convolution Kernel, in any case, with `|`, `*` and `?` as above: `B30*`."""
    contrast: bool | None = None
    """Whether the header states a contrast agent; one that says nothing states none."""
