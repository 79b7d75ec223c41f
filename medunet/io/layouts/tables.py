"""A CSV with one case per row.

Columns are found by name, in any case: `id`, `image`, `label`, `group`, `fold`, `region` and their usual synonyms;
`image_0`, `image_1`, ... or one column per modality hold channels. What stands in other columns is kept with the case.
Comma, semicolon, tab and bar separate.
An unnamed first column (the row number that pandas writes) is no id. Paths are relative to the file
and stay inside its folder, or are absolute.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from medunet.errors import DatasetError, Problem
from medunet.io.case import Case, Listing
from medunet.io.files import image_ending, stem
from medunet.io.layouts.dataset_json import is_path, resolve
from medunet.io.layouts.nearby import climbs

COLUMNS = {
    "id": ("id", "case", "case_id", "number", "name"),
    "image": ("image", "images"),
    "label": ("label", "labels", "mask", "masks", "segmentation", "seg"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id"),
    "fold": ("fold",),
    "region": ("region", "roi", "fov"),
}
_OTHERWISE = {
    "image": ("image_path", "image_file", "image_filename", "img", "img_path", "filename", "file_name", "file", "path"),
    "label": ("label_path", "label_file", "mask_path", "mask_file", "mask_filename", "target", "ground_truth", "gt"),
}
"""Names that mean images or masks in a table that has no column called so, if files of pictures stand below them."""

_LONGEST_CELL = 1 << 27  # runs of a large mask are long
_CHANNEL = re.compile(r"(?:images?|channel)_?(\d+)")
_SYNONYMS = {name: key for key, names in COLUMNS.items() for name in names}


@dataclass
class _Header:
    """Which column holds what: channels, a single meaning, or something else, by its name."""

    images: list[int] = field(default_factory=list)
    single: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)


def read_table(file: Path) -> Listing:
    """List the rows of a CSV.

    Raises:
        DatasetError: the file cannot be read as text.
    """
    listing = Listing()
    rows = rows_of(file)
    if len(rows) < 2:
        listing.problems.append(Problem(str(file), "", "it needs a line of column names and at least one case."))
        return listing
    (_, names), body = rows[0], rows[1:]
    header = _read_header(listing, file, names, [row for _, row in body])
    if listing.problems:
        return listing
    for line, row in body:
        where = f"{file.name}:{line}"
        if len(row) != len(names):
            rule = f"it has {len(row)} cells, but there are {len(names)} columns."
            listing.problems.append(Problem(where, "", rule))
            continue
        case = _case(listing, file.parent, where, header, [cell.strip() for cell in row])
        if case is not None:
            listing.cases.append(case)
    return listing


def rows_of(file: Path) -> list[tuple[int, list[str]]]:
    """Line number and cells of every row that is not empty; comma, semicolon, tab or bar separate.

    Raises:
        DatasetError: it cannot be read as a table of text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not text in UTF-8." if isinstance(error, UnicodeDecodeError) else f"{error.strerror}."
        raise DatasetError(f"The table {file} cannot be read.", problems=[Problem(str(file), "", reason)]) from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t|", key=first.count)
    before = csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        problem = Problem(f"{file}:{reader.line_num}", "", f"it is not a valid CSV: {error}.")
        raise DatasetError(f"The table {file} cannot be read.", problems=[problem]) from error
    finally:
        csv.field_size_limit(before)


def _read_header(listing: Listing, file: Path, names: list[str], body: list[list[str]]) -> _Header:
    """Sort the columns; what cannot be sorted becomes a problem or, if it is harmless, a note."""
    keys = [name.strip().lower().replace(" ", "_") for name in names]
    where = f"{file.name}:1"
    for key, count in Counter(key for key in keys if key).items():
        if count > 1:
            listing.problems.append(Problem(where, f"column {key}", f"its name occurs {count} times."))
    header = _Header()
    numbered = sorted((int(match[1]), index) for index, key in enumerate(keys) if (match := _CHANNEL.fullmatch(key)))
    header.images = [index for _, index in numbered]
    rest = []
    for index, key in enumerate(keys):
        meaning = _SYNONYMS.get(key)
        if meaning is not None and meaning in header.single:
            other = names[header.single[meaning]]
            listing.problems.append(Problem(where, f"column {key}", f"it means the same as column {other}; keep one."))
        elif meaning is not None:
            header.single[meaning] = index
        elif index not in header.images and key:
            rest.append(index)
    holding = {index: _holds_images(body, index) for index in rest}
    _fill_in(header, keys, holding)
    if "image" in header.single:
        header.images.insert(0, header.single["image"])
    _sort_rest(listing, where, names, header, list(holding.items()))
    if not header.images:
        rule = "no column holds images; name it image (or image_0, image_1, ... or one column per modality)."
        listing.problems.append(Problem(where, "columns", rule, value=", ".join(names)[:200]))
    return header


def _fill_in(header: _Header, keys: list[str], holding: dict[int, bool]) -> None:
    """Where no column has one of the usual names, one with a name of `_OTHERWISE` that holds images has its meaning."""
    for key, others in _OTHERWISE.items():
        if key in header.single or (key == "image" and header.images):
            continue
        found = next((index for other in others for index in holding if keys[index] == other and holding[index]), None)
        if found is not None:
            header.single[key] = found
            del holding[found]


def _holds_images(body: list[list[str]], index: int) -> bool:
    """Whether every filled cell of a column names an image file."""
    cells = [row[index].strip() for row in body if index < len(row) and row[index].strip()]
    return bool(cells) and all(image_ending(Path(cell.replace("\\", "/"))) for cell in cells)


def _sort_rest(listing: Listing, where: str, names: list[str], header: _Header, rest: list[tuple[int, bool]]) -> None:
    """Unknown columns: modalities if there is no image column, else typing errors or data of no concern here."""
    modalities = [] if header.images else [index for index, images in rest if images]
    if modalities:
        header.images = modalities
        listing.modality = tuple(names[index].strip() for index in modalities)
    texts = []
    for index, images in rest:
        if index in modalities:
            continue
        header.others[names[index].strip()] = index
        close = difflib.get_close_matches(names[index].strip().lower(), _SYNONYMS, n=1, cutoff=0.8)
        if close and _SYNONYMS[close[0]] not in header.single:
            hint, rule = f'Did you mean "{close[0]}"?', "it is no known column."
            listing.problems.append(Problem(where, f"column {names[index]}", rule, hint=hint))
        elif images:
            listing.notes.append(f"Images of column {names[index]} are not used; channels are image_0, image_1.")
        else:
            texts.append(names[index].strip())
    if texts:
        listing.notes.append(f"Columns of {where.partition(':')[0]} that are not used: {', '.join(texts)}.")


def _case(listing: Listing, folder: Path, where: str, header: _Header, row: list[str]) -> Case | None:
    def cell(name: str) -> str:
        return row[header.single[name]] if name in header.single else ""

    images = [row[index] for index in header.images]
    texts = [*images, *(cell(name) for name in ("label", "region") if cell(name))]
    if not all(is_path(text) for text in texts):
        listing.problems.append(Problem(where, "image, label", "every channel and mask needs a path."))
        return None
    for text in filter(climbs, texts):
        rule, hint = f"a relative path must stay inside {folder}.", "Write the absolute path if it is meant."
        listing.problems.append(Problem(where, "path", rule, value=text, hint=hint))
    paths = tuple(resolve(folder, text) for text in images)
    fold = cell("fold")
    if fold and not re.fullmatch(r"\d{1,6}(\.0+)?", fold):
        listing.problems.append(Problem(where, "fold", "it must be a whole number from 0.", value=fold))
        fold = ""
    return Case(
        id=cell("id") or stem(paths[0]),
        images=paths,
        label=resolve(folder, cell("label")) if cell("label") else None,
        group=cell("group") or None,
        fold=int(float(fold)) if fold else None,
        region=resolve(folder, cell("region")) if cell("region") else None,
        extra=tuple((name, row[index]) for name, index in header.others.items()),
    )
