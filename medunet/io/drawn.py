"""Draws labels that are no images: runs, polygons and masks of single structures, united on the grid of the picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medunet.errors import DataError
from medunet.geometry import format_shape
from medunet.io.case import Drawn, Part
from medunet.io.naming import match
from medunet.io.picture_masks import RESIZE, read_binary, resized
from medunet.io.runs import from_coco, from_runs
from medunet.labels import IGNORE, LabelMap


@dataclass(frozen=True)
class Drawing:
    """Structures on a grid.

    Attributes:
        values: (*spatial) of labels in files.
        unnamed: structures that no label has the name of.
        contested: pixels that two labels claimed, by their names; the second got them.
        smoothed: largest share of pixels that were on smoothed edges.
        resized: see `io.labelled.Remarks`.
    """

    values: NDArray[np.generic]
    unnamed: tuple[str, ...]
    contested: Mapping[tuple[str, str], int]
    smoothed: float
    resized: tuple[str, ...] = ()


def draw(drawn: Drawn, shape: tuple[int, ...], labels: LabelMap, *, resize: bool = False) -> Drawing:
    """Draw all structures; where labels overlap, the inner one wins, else the later in the config.

    Args:
        drawn: what stands in a data set.
        shape: of the picture.
        labels: names and values.
        resize: bring masks of another size to that of the picture.

    Raises:
        DataError: with the line, what cannot be drawn; a picture of another size than is stated.
    """
    from medunet.io.dicom.overlaps import Ranked

    if drawn.size is not None and drawn.size != shape:
        turned = " It is turned by its EXIF orientation." if drawn.size == shape[::-1] else ""
        raise DataError(
            f"{drawn} states {format_shape(drawn.size)} pixels, and the picture has {format_shape(shape)}.{turned}"
        )
    names = _names(drawn, labels)
    way, ranks, smoothed, sizes = Ranked(labels), np.zeros(shape, labels.index_dtype), 0.0, list[str]()
    for part in drawn.parts:
        name = IGNORE if part.crowd and labels.ignore and part.label in names else names.get(part.label)
        if name is None:
            continue
        if part.kind == "mask":
            where, share = read_binary(Path(part.text))
            smoothed = max(smoothed, share)
            if where.shape != shape:
                where, words = _resized(where, shape, part, resize=resize)
                sizes.append(words)
        else:
            where = _pixels(part, shape)
        way.add(ranks, where, way.rank(name))
    unnamed = tuple(dict.fromkeys(part.label for part in drawn.parts if part.label not in names))
    pairs: Counter[tuple[str, str]] = Counter()
    pairs.update({(way.name(low), way.name(high)): pixels for (low, high), pixels in way.contested.items()})
    return Drawing(labels.to_values(way.to_indices(ranks)), unnamed, pairs, smoothed, tuple(sizes))


def _names(drawn: Drawn, labels: LabelMap) -> dict[str, str]:
    """Label by what the parts are called: its name, its value, or nothing where there is one structure."""
    called = list(dict.fromkeys(part.label for part in drawn.parts))
    wanted = [*labels.names, *([IGNORE] if labels.ignore else [])]
    matched = match(wanted, dict(enumerate(called)), drawn.source.name, needed=False).label
    names = {called[number]: name for number, name in matched.items()}
    for text in called:
        index = labels.index_of.get(int(text)) if text.isdecimal() and len(text) < 10 else None
        if text not in names and index is not None and index != 0:
            names[text] = IGNORE if index == labels.ignore_index else labels.names[index]
    if "" in called:
        if len(labels.foreground) > 1:
            raise DataError(
                f"{drawn} names no structures, and there are {len(labels.foreground)} labels beside the background.",
                "Leave one, or name the column that tells which structure it is (data.rle.label).",
            )
        names[""] = labels.foreground[0].name
    return names


def _resized(
    where: NDArray[np.bool_], shape: tuple[int, ...], part: Part, *, resize: bool
) -> tuple[NDArray[np.bool_], str]:
    if resize:
        return resized(where, shape, Path(part.text))
    raise DataError(
        f"{part.where} has {format_shape(where.shape)} pixels, and the picture has {format_shape(shape)}.", RESIZE
    )


def _pixels(part: Part, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a structure is that stands in a file as text."""
    if len(shape) != 2:
        raise DataError(f"{part.where} belongs to a picture, and the image is a volume.")
    size = (shape[0], shape[1])
    try:
        if part.kind == "coco":
            return from_coco(json.loads(part.text), size)
        return from_runs(part.text, size, "rows" if part.kind == "rows" else "columns")
    except ValueError as error:
        raise DataError(f"{part.where}: {error}.") from error
