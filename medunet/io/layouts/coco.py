"""The JSON of COCO: `images`, `categories`, and `annotations` with polygons or runs.

Categories are labels by their names; those that no label has are background. A picture without annotations shows
nothing. Annotations of crowds are `ignore` where there is such a label, else their category. Lin et al., ECCV 2014.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medunet.errors import Problem
from medunet.io.case import Case, Drawn, Listing, Part
from medunet.io.layouts.dataset_json import is_path, load_json, shown
from medunet.io.layouts.nearby import Images, climbs, listed

_KEYS = ("images", "annotations", "categories")
_NAMES = ("*coco*.json", "instances*.json", "*annotations*.json")


def is_coco(data: Mapping[str, Any]) -> bool:
    """Whether an object has the three lists."""
    return all(isinstance(data.get(key), list) for key in _KEYS)


def coco_files(root: Path) -> list[Path]:
    """Files of the usual names in `root` or `root/annotations` that hold such an object."""
    found = {path for folder in (root, root / "annotations") for name in _NAMES for path in folder.glob(name)}
    return sorted(path for path in found if path.is_file() and is_coco(load_json(path)))


def read_coco(file: Path, images: str | None = None) -> Listing:
    """List the pictures of a JSON file.

    Args:
        file: the JSON file.
        images: folder of the pictures, seen from that of the file; None looks below it, or beside `annotations`.

    Raises:
        DatasetError: the file is no JSON object.
    """
    data, listing = load_json(file), Listing()
    if not is_coco(data):
        rule = f"it must hold the lists {', '.join(_KEYS)}."
        listing.problems.append(Problem(str(file), "", rule))
        return listing
    categories = _categories(listing, file, data["categories"])
    if categories and 0 not in categories:
        listing.label_names = {"background": 0, **{name: number for number, name in categories.items()}}
    parts = _parts(listing, file, data["annotations"], categories)
    beside = file.parent.parent if file.parent.name == "annotations" else file.parent
    known = Images(file.parent / images if images else beside)
    entries = _entries(listing, file, data["images"], known)
    ids = known.ids(path for path, _, _ in entries.values())
    for number, (path, size, _) in entries.items():
        listing.cases.append(Case(ids[path], (path,), Drawn(file, tuple(parts.pop(number, ())), size)))
    astray = [str(number) for number in parts if number not in _numbers(data["images"])]
    if astray:
        listing.problems.append(Problem(file.name, "image_id", f"no picture has the id {listed(astray)}."))
    return listing


def _categories(listing: Listing, file: Path, raw: list[Any]) -> dict[int, str]:
    result: dict[int, str] = {}
    for entry in raw:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if (
            type(number) is not int
            or not isinstance(name, str)
            or not name
            or number in result
            or name in result.values()
        ):
            rule = "it needs a name and an id of its own that is a whole number."
            listing.problems.append(Problem(file.name, "categories", rule, value=shown(entry)))
        else:
            result[number] = name
    return result


def _parts(listing: Listing, file: Path, raw: list[Any], categories: Mapping[int, str]) -> dict[Any, list[Part]]:
    """Structures by the id of their picture."""
    result: dict[Any, list[Part]] = {}
    for index, entry in enumerate(raw):
        where = f"{file.name}: annotations[{index}]"
        name = _category(entry, categories)
        picture = entry.get("image_id") if isinstance(entry, dict) else None
        if name is None or type(picture) not in (int, str):
            rule = "it needs an image_id, and a category_id that is in categories."
            listing.problems.append(Problem(where, "", rule, value=shown(entry)))
        elif not entry.get("segmentation"):
            rule = "it has a box and no segmentation; boxes are no masks."
            listing.problems.append(Problem(where, "segmentation", rule))
        else:
            text = json.dumps(entry["segmentation"])
            part = Part(name, "coco", text, where, crowd=bool(entry.get("iscrowd")))
            result.setdefault(picture, []).append(part)
    return result


def _category(entry: Any, categories: Mapping[int, str]) -> str | None:
    number = entry.get("category_id") if isinstance(entry, dict) else None
    return categories.get(number) if type(number) is int else None


def _numbers(raw: list[Any]) -> set[Any]:
    return {entry.get("id") for entry in raw if isinstance(entry, dict) and type(entry.get("id")) in (int, str)}


def _entries(
    listing: Listing, file: Path, raw: list[Any], known: Images
) -> dict[Any, tuple[Path, tuple[int, int] | None, str]]:
    """Path, stated size and name by id."""
    result: dict[Any, tuple[Path, tuple[int, int] | None, str]] = {}
    missing: list[str] = []
    for index, entry in enumerate(raw):
        where = f"{file.name}: images[{index}]"
        number, name = (entry.get("id"), entry.get("file_name")) if isinstance(entry, dict) else (None, None)
        if type(number) not in (int, str) or not is_path(name) or number in result:
            rule = "it needs a file_name, and an id of its own."
            listing.problems.append(Problem(where, "", rule, value=shown(entry)))
            continue
        paths = known.find(str(name))
        if climbs(str(name)):
            rule = "a path must stay inside the folder of the data set."
            listing.problems.append(Problem(where, "file_name", rule, value=shown(name)))
        elif len(paths) > 1:
            rule = f"{paths[0]} and {paths[1]} both have this name."
            listing.problems.append(Problem(where, "file_name", rule, value=str(name), hint="Set data.images."))
        elif not paths:
            missing.append(str(name))
        else:
            size = (entry.get("width"), entry.get("height"))
            stated = size if all(type(side) is int for side in size) else None
            result[number] = (paths[0], stated, str(name))
    if missing:
        rule = f"there are no such pictures below {known.folder}: {shown(listed(missing))}."
        listing.problems.append(Problem(file.name, "images", rule, hint="Set data.images to their folder."))
    return result
