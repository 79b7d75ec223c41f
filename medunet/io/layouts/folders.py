"""Two plain folders, one with images, one with masks, matched by file name.

`images/case.png` belongs to `masks/case.png`, `case_mask.png`, `case_seg.png` or `case_label.png`, with any
image ending; several channels are `case_0000.nii.gz`, `case_0001.nii.gz`. A folder among the images is a
DICOM series, and a DICOM segmentation or structure set among the masks, `case.dcm` or a folder `case`, is one too.
"""

from __future__ import annotations

from pathlib import Path

from medunet.errors import Problem
from medunet.io.case import Case, Listing
from medunet.io.files import image_ending, stem
from medunet.io.layouts.nnunet import CHANNEL_SUFFIX
from medunet.io.read import reads_as_dicom

IMAGE_FOLDERS = ("imagesTr", "images")
LABEL_FOLDERS = ("labelsTr", "labels", "masks")
LABEL_SUFFIXES = ("", "_mask", "_seg", "_label", "_rtstruct")


def find_pair(root: Path) -> tuple[Path | None, Path | None]:
    """The image folder and the mask folder inside `root`; None for the one that is not there."""
    images = next((root / name for name in IMAGE_FOLDERS if (root / name).is_dir()), None)
    labels = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    return images, labels


def read_folders(root: Path) -> Listing:
    """List the pairs of images and masks under `root`."""
    listing = Listing()
    images, labels = find_pair(root)
    for found, names in ((images, IMAGE_FOLDERS), (labels, LABEL_FOLDERS)):
        if found is None:
            listing.problems.append(Problem(str(root), "", f"it holds no folder {' or '.join(names)}."))
    if images is None or labels is None:
        return listing
    masks: dict[str, Path] = {}
    for path in _visible(listing, labels):
        other = masks.setdefault(_name(path), path)
        if other is not path:
            listing.problems.append(Problem(str(path), "", f"the mask {other.name} has the same name."))
    used = _pair_up(listing, _visible(listing, images), masks)
    for name, path in masks.items():
        if name not in used:
            listing.problems.append(Problem(str(path), "", f"no image in {images.name} belongs to this mask."))
    if not listing.cases and not listing.problems:
        listing.problems.append(Problem(str(images), "", "it holds no images."))
    return listing


def _pair_up(listing: Listing, images: list[Path], masks: dict[str, Path]) -> set[str]:
    """Append a case per image (or per group of channels); return the stems of the masks that were used."""
    used: set[str] = set()
    channels: dict[str, list[Path]] = {}
    for path in images:
        name = _name(path)
        mask = next((name + suffix for suffix in LABEL_SUFFIXES if name + suffix in masks), None)
        match = CHANNEL_SUFFIX.fullmatch(name)
        if mask is None and match is not None and match["case"] in masks:
            channels.setdefault(match["case"], []).append(path)
            continue
        if mask is not None:
            used.add(mask)
        listing.cases.append(Case(name, (path,), masks[mask] if mask is not None else None))
    for name, paths in channels.items():
        used.add(name)
        listing.cases.append(Case(name, tuple(paths), masks[name]))
    return used


def _name(path: Path) -> str:
    """Without the ending; folders and DICOM files may have dots in their names."""
    plain = path.is_dir() or not (image_ending(path) or path.suffix.lower() == ".dcm")
    return path.name if plain else stem(path)


def _is_case(path: Path) -> bool:
    """A folder, an image or a DICOM file; a zip lies there by chance."""
    return path.is_dir() or bool(image_ending(path)) or (path.suffix.lower() != ".zip" and reads_as_dicom(path))


def _visible(listing: Listing, folder: Path) -> list[Path]:
    """Images, DICOM files and folders, sorted; hidden files are skipped, others are mentioned in a note."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    good = [path for path in paths if _is_case(path)]
    if len(good) < len(paths):
        other = next(path.name for path in paths if path not in good)
        listing.notes.append(f"{len(paths) - len(good)} files in {folder.name} are no images, for example {other}.")
    return good
