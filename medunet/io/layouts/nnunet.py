"""The layout of nnU-Net v2: `imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz`, `dataset.json`.

The explicit table of paths (`dataset`) is read too, and nnU-Net v1's `dataset.json`, whose labels and
channels are written the other way round. Isensee et al., Nature Methods 18, 203 (2021).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from medunet.errors import Problem
from medunet.io.case import Case, Listing
from medunet.io.files import image_ending
from medunet.io.layouts.dataset_json import is_path, load_json, resolve, shown, state_labels, state_modality

CHANNEL_SUFFIX = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def read_nnunet(file: Path) -> Listing:
    """List the training cases of the nnU-Net data set whose `dataset.json` is `file`.

    Raises:
        DatasetError: the file is no JSON object.
    """
    data = load_json(file)
    listing = Listing()
    state_labels(listing, data.get("labels"), file.name)
    state_modality(listing, data.get("channel_names", data.get("modality")), file.name)
    if "dataset" in data:
        _read_table(listing, file, data["dataset"])
    else:
        _read_folders(listing, file.parent, data.get("file_ending"))
    return listing


def _read_table(listing: Listing, file: Path, table: Any) -> None:
    """Cases from `{"CASE": {"images": [path, ...], "label": path}}`; environment variables are expanded."""
    rule = 'it must be a table such as {"CASE": {"images": [path, ...], "label": path}}.'
    if not isinstance(table, dict) or not table:
        listing.problems.append(Problem(str(file), "dataset", rule))
        return
    for name, entry in table.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        paths = [*images, label] if isinstance(images, list) and images else [None]
        if not all(is_path(path) for path in paths):
            listing.problems.append(Problem(f"{file.name}: dataset.{name}", "", rule, value=shown(entry)))
            continue
        found = [resolve(file.parent, os.path.expandvars(str(path))) for path in paths]
        if _channels_fit(listing, name, [str(index) for index in range(len(found) - 1)]):
            listing.cases.append(Case(name, tuple(found[:-1]), found[-1]))


def _read_folders(listing: Listing, folder: Path, stated_ending: Any) -> None:
    """Cases from `imagesTr` and `labelsTr`."""
    images_folder, labels_folder = folder / "imagesTr", folder / "labelsTr"
    for needed in (images_folder, labels_folder):
        if not needed.is_dir():
            listing.problems.append(Problem(str(needed), "", "there is no such folder."))
    if listing.problems:
        return
    ending = stated_ending if isinstance(stated_ending, str) and stated_ending else _first_ending(images_folder)
    channels = _group_channels(listing, images_folder, ending)
    for name, found in sorted(channels.items()):
        label = labels_folder / f"{name}{ending}"
        if _channels_fit(listing, name, [str(index) for index in sorted(found)]):
            images = tuple(found[index] for index in sorted(found))
            listing.cases.append(Case(name, images, label if label.is_file() else None))
    for path in _visible(labels_folder, ending):
        if path.name[: -len(ending)] not in channels:
            listing.problems.append(Problem(str(path), "", f"no image in {images_folder.name} belongs to this mask."))


def _group_channels(listing: Listing, folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """Images by case and channel number."""
    channels: dict[str, dict[int, Path]] = {}
    for path in _visible(folder, ending):
        match = CHANNEL_SUFFIX.fullmatch(path.name[: -len(ending)])
        if match is None:
            rule = f"an image must be named CASE_0000{ending}, with its channel in four digits."
            listing.problems.append(Problem(str(path), "", rule))
        else:
            channels.setdefault(match["case"], {})[int(match["channel"])] = path
    if not channels and not listing.problems:
        listing.problems.append(Problem(str(folder), "", f"it holds no image CASE_0000{ending}."))
    return channels


def _channels_fit(listing: Listing, case: str, found: list[str]) -> bool:
    expected = [str(index) for index in range(len(listing.modality) or len(found))]
    if found == expected:
        return True
    rule = f"each case needs the channels {', '.join(expected)} ({', '.join(listing.modality) or 'counted from 0'})."
    listing.problems.append(Problem(case, "channels", rule, value=", ".join(found)))
    return False


def _first_ending(folder: Path) -> str:
    return next((image_ending(path) for path in sorted(folder.iterdir()) if image_ending(path)), ".nii.gz")


def _visible(folder: Path, ending: str) -> list[Path]:
    """Files with this ending, sorted; hidden ones (macOS writes `._CASE.nii.gz`) are no images."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(ending) and not path.name.startswith("."))
