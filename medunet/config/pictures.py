"""Sections of `data:` for data sets of pictures: where their files are, and what their masks mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from medunet.config.section import Section

Text = Annotated[str, Field(min_length=1)]
HexColour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$", examples=["#804080"])]
Channel = Annotated[int, Field(ge=0, le=255)]
RgbColour = tuple[Channel, Channel, Channel]


def as_texts(value: Any) -> Any:
    """A single text, or a list, as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def as_colours(value: Any) -> Any:
    """One colour or several, `[128, 64, 128]` or "#804080", as a tuple of the latter in lower case."""
    if isinstance(value, str) or _is_numbers(value):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    return tuple(_word(entry) for entry in value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(type(number) is int for number in value)


def _word(colour: Any) -> Any:
    if _is_numbers(colour) and len(colour) == 3 and all(0 <= number <= 255 for number in colour):
        return "#{:02x}{:02x}{:02x}".format(*colour)
    return colour.lower() if isinstance(colour, str) else colour


Colours = Annotated[
    tuple[HexColour, ...],
    BeforeValidator(as_colours, json_schema_input_type=HexColour | RgbColour | list[HexColour | RgbColour]),
    Field(min_length=1),
]


class PairsConfig(Section):
    """Names of the files of a case, seen from `data.root`, with `{case}` once in each. `*` stands for anything but a
    slash, so `{case}.*` takes any ending; `{case}` may reach over folders."""

    images: Annotated[
        tuple[Text, ...],
        BeforeValidator(as_texts, json_schema_input_type=Text | tuple[Text, ...]),
        Field(min_length=1, examples=["images/{case}_training.png"]),
    ]
    """Image files; a list has one name per channel."""
    labels: Annotated[str, Field(min_length=1, examples=["1st_manual/{case}_manual1.png", "masks/{label}/{case}.png"])]
    """Mask files. With `{label}` there is one for each structure, in which all but 0 is that structure."""
    region: Annotated[str, Field(min_length=1, examples=["mask/{case}_training_mask.png"])] | None = None
    """Files that are 0 where nothing is learned or scored (needs a label `ignore`); null: none."""


class RleConfig(Section):
    """A table of runs (`start length start length ...`, counted from 1): its columns, and how it is meant."""

    image: Text | None = None
    """Name of the picture, with or without its ending; null looks for ImageId, img, image or id."""
    runs: Text | None = None
    """The runs; an empty cell is an empty mask. Null looks for EncodedPixels, rle_mask, rle or segmentation."""
    label: Text | None = None
    """Name or value of the label; null: there is one structure."""
    order: Literal["auto", "columns", "rows"] = "auto"
    """How the pixels of a picture are counted: `columns` from top to bottom, then from left to right (Airbus,
    Severstal); `rows` from left to right, then from top to bottom (Carvana). `auto` looks in which order the masks of
    up to 16 pictures hang together, and takes `columns` where nothing tells (square pictures); a note says which."""
    unlisted: Literal["refuse", "empty"] = "refuse"
    """What pictures without a row are that lie beside the listed ones: `refuse` takes them for an error, `empty` for
    pictures in which there is nothing."""
