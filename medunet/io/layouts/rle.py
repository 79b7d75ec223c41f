"""A CSV of runs, as in Kaggle's challenges: `ImageId,EncodedPixels` (Airbus) or `img,rle_mask` (Carvana).

A row holds one structure of one picture; several rows of a picture are united. An empty cell, or -1, is an empty mask.
Airbus counts pixels down the columns, Carvana along the rows; `data.rle.order` says which, or `run_order` finds it.
Pictures are found by their names in any folder below the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medunet.config.pictures import RleConfig
from medunet.errors import DatasetError, Problem
from medunet.io.case import Case, Drawn, Listing, Part
from medunet.io.files import stem
from medunet.io.layouts.dataset_json import is_path, shown
from medunet.io.layouts.nearby import Images, climbs, listed
from medunet.io.layouts.run_order import find_order
from medunet.io.layouts.tables import rows_of

_IMAGE = ("imageid", "image_id", "img", "image", "images", "id")
_RUNS = ("encodedpixels", "rle_mask", "rle", "segmentation", "mask_rle")


@dataclass(frozen=True)
class _Columns:
    """Which column holds what; -1 where there is none."""

    image: int
    runs: int
    label: int = -1


def is_rle(file: Path) -> bool:
    """Whether the first line of a table names a picture and runs; `segmentation` means a file in other tables."""
    try:
        first = rows_of(file)[:2]
    except DatasetError:
        return False
    if not first:
        return False
    keys = [name.strip().lower() for name in first[0][1]]
    runs = next((keys.index(name) for name in _RUNS if name in keys), -1)
    if runs < 0 or not set(keys) & set(_IMAGE):
        return False
    cell = first[1][1][runs] if len(first) > 1 and runs < len(first[1][1]) else ""
    return keys[runs] != "segmentation" or cell.replace(" ", "").isdigit()


def read_rle(file: Path, options: RleConfig, images: str | None = None) -> Listing:
    """List the pictures of a table.

    Args:
        file: the CSV.
        options: names of its columns, and how it is meant.
        images: folder of the pictures, seen from that of the file; None looks below that.

    Raises:
        DatasetError: the file cannot be read as text.
    """
    listing, rows = Listing(), rows_of(file)
    found = _columns(listing, file, rows[0][1] if rows else [], options)
    if found is None:
        return listing
    known = Images(file.parent / images if images else file.parent)
    parts = _parts(listing, file, rows[1:], found, known)
    order = find_order(listing, file, parts) if options.order == "auto" else options.order
    if order == "rows":
        parts = {path: [replace(part, kind=order) for part in runs] for path, runs in parts.items()}
    _add_unlisted(listing, file, known, parts, empty=options.unlisted == "empty")
    ids = known.ids(parts)
    listing.cases += [Case(ids[path], (path,), Drawn(file, tuple(runs))) for path, runs in parts.items()]
    return listing


def _columns(listing: Listing, file: Path, names: Sequence[str], wanted: RleConfig) -> _Columns | None:
    keys = [name.strip().lower() for name in names]
    found = []
    for what, stated, usual in (
        ("image", wanted.image, _IMAGE),
        ("runs", wanted.runs, _RUNS),
        ("label", wanted.label, ()),
    ):
        choices = (stated.strip().lower(),) if stated else usual
        index = next((keys.index(name) for name in choices if name in keys), -1)
        if index < 0 and choices:
            rule = f"there is no column {' or '.join(choices)}; the columns are {', '.join(names) or 'none'}."
            listing.problems.append(Problem(f"{file.name}:1", f"data.rle.{what}", rule))
        found.append(index)
    return None if listing.problems else _Columns(*found)


def _parts(
    listing: Listing, file: Path, rows: Sequence[tuple[int, list[str]]], columns: _Columns, known: Images
) -> dict[Path, list[Part]]:
    """Runs by picture, in the order of the table; as if they were counted down the columns."""
    result: dict[Path, list[Part]] = {}
    missing: dict[str, None] = {}
    for line, row in rows:
        where = f"{file.name}:{line}"
        if len(row) <= max(columns.image, columns.runs, columns.label):
            listing.problems.append(Problem(where, "", f"it has {len(row)} cells, which are too few."))
            continue
        name, runs = row[columns.image].strip(), row[columns.runs].strip()
        if not is_path(name) or climbs(name):
            rule = "it must be the name of a picture below the folder of the table."
            listing.problems.append(Problem(where, "image", rule, value=shown(name)))
            continue
        paths = known.find(name)
        if len(paths) > 1:
            rule = f"{paths[0]} and {paths[1]} both have this name."
            listing.problems.append(Problem(where, "image", rule, value=shown(name), hint="Set data.images."))
        elif not paths:
            missing[name] = None
        else:
            parts = result.setdefault(paths[0], [])
            if runs not in ("", "-1"):
                label = row[columns.label].strip() if columns.label >= 0 else ""
                parts.append(Part(label, "columns", runs, where))
    if missing:
        rule = f"there are no such pictures below {known.folder}: {shown(listed(missing))}."
        listing.problems.append(Problem(file.name, "image", rule, hint="Set data.images to their folder."))
    return result


def _add_unlisted(listing: Listing, file: Path, known: Images, parts: dict[Path, list[Part]], *, empty: bool) -> None:
    """Pictures beside the listed ones that have no row."""
    folders = {path.parent for path in parts}
    rest = [path for path in known.paths if path.parent in folders and path not in parts]
    if not rest:
        return
    names = listed(stem(path) for path in rest)
    if empty:
        parts.update((path, []) for path in rest)
        listing.notes.append(f"Pictures without a row in {file.name} are taken for empty (data.rle.unlisted): {names}.")
        return
    hint = "Add rows (an empty cell is an empty mask), set data.rle.unlisted to empty, or move the pictures away."
    listing.problems.append(Problem(file.name, "", f"it has no row for the pictures {names}.", hint=hint))
