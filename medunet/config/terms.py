"""The `terms:` section: what structures are called in DICOM objects, and how they are coloured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from medunet.config.section import Section
from medunet.labels import Coded, LabelMap, Term

_Short = Annotated[str, Field(min_length=1, max_length=16)]
_Long = Annotated[str, Field(min_length=1, max_length=64)]
_Byte = Annotated[int, Field(ge=0, le=255)]
_Hex = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", examples=["#dd8265"])]
Code = tuple[_Short, _Short, _Long]
"""Scheme, value and meaning, as long as DICOM's SH and LO (PS3.5 section 6.2) allow."""


class TermConfig(Section):
    """What one label is called in DICOM objects; what is not given follows from its name.

    A code is a list of scheme, value and meaning: `[SCT, "10200004", Liver]`.
    """

    category: Code | None = None
    """What kind of thing it is, of CID 7150: anatomical structure, morphologically abnormal structure, tissue, ..."""
    type: Code | None = None
    """What it is."""
    modifier: Code | None = None
    """Of the type: `[SCT, "7771000", Left]`."""
    region: Code | None = None
    """Where it lies, for lesions: the organ."""
    region_modifier: Code | None = None
    """Of the region: left or right."""
    colour: (
        tuple[_Byte, _Byte, _Byte] | Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", examples=["#dd8265"])] | None
    ) = None
    """Red, green and blue from 0 to 255, or "#rrggbb" in quotes; null takes the next of a list."""

    @property
    def term(self) -> Term:
        """The codes."""
        codes = (self.category, self.type, self.modifier, self.region, self.region_modifier)
        return Term(*(None if code is None else Coded(*code) for code in codes))

    @property
    def rgb(self) -> tuple[int, int, int] | None:
        """The colour."""
        if not isinstance(self.colour, str):
            return self.colour
        red, green, blue = bytes.fromhex(self.colour[1:])
        return red, green, blue


def with_terms(labels: LabelMap, terms: Mapping[str, TermConfig]) -> LabelMap:
    """The labels with their terms and colours."""
    colours = {name: entry.rgb for name, entry in terms.items() if entry.rgb is not None}
    return labels.described({name: entry.term for name, entry in terms.items()}, colours)
