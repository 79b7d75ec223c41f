"""Whether the runs of a table are counted down the columns or along the rows of pictures: `find_order`.

A table has one order and does not say which. Read in the wrong one, a structure falls apart into stripes: its boundary
grows. Where width and height are the same it is only mirrored at the diagonal, and nothing can tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medunet.errors import DataError, Problem
from medunet.io.case import Listing, Part
from medunet.io.layouts.nearby import listed
from medunet.io.pictures import picture_size
from medunet.io.runs import Order, boundaries

_MOST = 16
"""Pictures that are looked at."""
_CLEAR = 0.8
"""Pictures speak for an order whose boundary is at most this share of the other one."""
_DISAGREE = 0.25
"""Share of these pictures that speak for the rarer order, from which on they disagree."""


@dataclass(frozen=True)
class _Seen:
    """Boundaries of the masks of a picture, in pixels, by how their runs may be counted."""

    name: str
    columns: int
    rows: int

    @property
    def speaks_for(self) -> Order | None:
        return _shorter(self.columns, self.rows)


def _shorter(columns: int, rows: int) -> Order | None:
    """The order that has clearly less boundary."""
    if min(columns, rows) > _CLEAR * max(columns, rows) or columns == rows:
        return None
    return "columns" if columns < rows else "rows"


def find_order(listing: Listing, file: Path, parts: Mapping[Path, Sequence[Part]]) -> Order:
    """The order in which masks hang together better; "columns" where nothing tells.

    Args:
        listing: takes a note of the order, or the problem that pictures disagree.
        file: the table.
        parts: runs by picture; what cannot be read is passed over, as the checks tell it.
    """
    several = [path for path, runs in parts.items() if any(len(part.text.split(maxsplit=3)) == 4 for part in runs)]
    chosen = several[:: -(-len(several) // _MOST) or 1]
    seen = [each for each in (_look(path, parts[path]) for path in chosen) if each.columns or each.rows]
    voices = {order: [each.name for each in seen if each.speaks_for == order] for order in ("columns", "rows")}
    down, along = voices.values()
    if down and along and min(len(down), len(along)) >= _DISAGREE * (len(down) + len(along)):
        rule = (
            f"the masks of {listed(down)} hang together if runs are counted down the columns, and those of "
            f"{listed(along)} if they are counted along the rows; a table has one order."
        )
        hint = "Set it to columns or rows, and see with `medunet preview-augment` whether the masks are right."
        listing.problems.append(Problem(file.name, "data.rle.order", rule, value="auto", hint=hint))
        return "columns"
    columns, rows = sum(each.columns for each in seen), sum(each.rows for each in seen)
    order = _shorter(columns, rows)
    if order is None:
        found = "are taken for counted down the columns, as nothing in the table tells (data.rle.order)."
    else:
        way = "along the rows" if order == "rows" else "down the columns"
        low, high, pictures = *sorted((columns, rows)), f"{len(seen)} picture{'s' if len(seen) > 1 else ''}"
        found = (
            f"are counted {way} (data.rle.order): in {pictures} masks have a boundary of {low} pixels so, else {high}."
        )
    listing.notes.append(f"The runs in {file.name} {found}")
    return order or "columns"


def _look(path: Path, runs: Sequence[Part]) -> _Seen:
    columns = rows = 0
    try:
        size = picture_size(path)
        for part in runs:
            down, along = boundaries(part.text, size)
            columns, rows = columns + down, rows + along
    except (DataError, OSError, SyntaxError, ValueError):
        columns = rows = 0
    return _Seen(path.name, columns, rows)
