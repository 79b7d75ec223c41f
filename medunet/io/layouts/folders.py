"""Two plain folders, one with images, one with masks, matched by file name.

`images/case.png` belongs to `masks/case.png`, `case_mask.png`, `case_seg.png` or `case_label.png`, with any
image ending; several channels are `case_0000.nii.gz`, `case_0001.nii.gz`. A folder among the images is a
DICOM series, or, where it holds images and nothing of DICOM, more cases: `images/a/1.png` belongs to `masks/a/1.png`
and is the case `a_1`. A DICOM segmentation or structure set among the masks, `case.dcm` or a folder `case`, is a mask
too. One folder may also hold both: `x.jpg` and `x_mask.png`.
"""

from __future__ import annotations

from pathlib import Path

from medunet.errors import Problem
from medunet.io.case import Case, Listing
from medunet.io.files import image_ending, stem
from medunet.io.layouts.nearby import files_under, id_of
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


def holds_pairs(root: Path) -> bool:
    """Whether `root` itself holds at least two images with masks beside them, `x.jpg` and `x_mask.png`."""
    names = {stem(path) for path in root.iterdir() if image_ending(path) and path.is_file()}
    return sum(any(name + suffix in names for suffix in LABEL_SUFFIXES[1:]) for name in names) >= 2


def read_folders(root: Path) -> Listing:
    """List the pairs of images and masks under `root`."""
    listing = Listing()
    images, labels = find_pair(root)
    if images is None and labels is None and holds_pairs(root):
        return _read_beside(root)
    for found, names in ((images, IMAGE_FOLDERS), (labels, LABEL_FOLDERS)):
        if found is None:
            listing.problems.append(Problem(str(root), "", f"it holds no folder {' or '.join(names)}."))
    if images is None or labels is None:
        return listing
    _match(listing, _named(listing, images), _named(listing, labels), images.name)
    if not listing.cases and not listing.problems:
        listing.problems.append(Problem(str(images), "", "it holds no images."))
    return listing


def _read_beside(root: Path) -> Listing:
    """Images and masks in one folder, told apart by the ends of their names."""
    listing = Listing()
    files = [(name, path) for name, path in _named(listing, root) if path.is_file()]
    names = {name for name, _ in files}
    is_mask = {
        name for name in names for suffix in LABEL_SUFFIXES[1:]
        if name.endswith(suffix) and name.removesuffix(suffix) in names
    }  # fmt: skip
    images = [(name, path) for name, path in files if name not in is_mask]
    _match(listing, images, [(name, path) for name, path in files if name in is_mask], root.name)
    return listing


def _match(listing: Listing, images: list[tuple[str, Path]], labels: list[tuple[str, Path]], where: str) -> None:
    """Append a case per image; masks that belong to none are problems."""
    masks: dict[str, Path] = {}
    for name, path in labels:
        other = masks.setdefault(name, path)
        if other is not path:
            listing.problems.append(Problem(str(path), "", f"the mask {other.name} has the same name."))
    used = _pair_up(listing, images, masks)
    for name, path in masks.items():
        if name not in used:
            listing.problems.append(Problem(str(path), "", f"no image in {where} belongs to this mask."))


def _pair_up(listing: Listing, images: list[tuple[str, Path]], masks: dict[str, Path]) -> set[str]:
    """Append a case per image (or per group of channels); return the stems of the masks that were used."""
    used: set[str] = set()
    channels: dict[str, list[Path]] = {}
    for name, path in images:
        mask = next((name + suffix for suffix in LABEL_SUFFIXES if name + suffix in masks), None)
        match = CHANNEL_SUFFIX.fullmatch(name)
        if mask is None and match is not None and match["case"] in masks:
            channels.setdefault(match["case"], []).append(path)
            continue
        if mask is not None:
            used.add(mask)
        listing.cases.append(Case(id_of(name), (path,), masks[mask] if mask is not None else None))
    for name, paths in channels.items():
        used.add(name)
        listing.cases.append(Case(id_of(name), tuple(paths), masks[name]))
    return used


def _name(path: Path) -> str:
    """Without the ending; folders and DICOM files may have dots in their names."""
    plain = path.is_dir() or not (image_ending(path) or path.suffix.lower() == ".dcm")
    return path.name if plain else stem(path)


def _is_case(path: Path) -> bool:
    """A folder, an image or a DICOM file; a zip lies there by chance."""
    return path.is_dir() or bool(image_ending(path)) or (path.suffix.lower() != ".zip" and reads_as_dicom(path))


def _named(listing: Listing, folder: Path, inside: str = "") -> list[tuple[str, Path]]:
    """Images, DICOM files and folders of DICOM by their names, those in folders of images with the folders' before.

    Hidden files are skipped, others are mentioned in a note.
    """
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    good = [path for path in paths if _is_case(path)]
    if len(good) < len(paths):
        other = next(path.name for path in paths if path not in good)
        listing.notes.append(f"{len(paths) - len(good)} files in {folder.name} are no images, for example {other}.")
    result: list[tuple[str, Path]] = []
    for path in good:
        name = inside + _name(path)
        result += _named(listing, path, f"{name}/") if path.is_dir() and _holds_cases(path) else [(name, path)]
    return result


def _holds_cases(folder: Path) -> bool:
    """Whether a folder holds images at some depth and nothing of DICOM; then it is no series."""
    from medunet.io.dicom import is_dicom

    files = list(files_under(folder))
    return any(map(image_ending, files)) and not any(is_dicom(file) for file in files if not image_ending(file))
