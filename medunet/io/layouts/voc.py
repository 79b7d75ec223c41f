"""The layout of PASCAL VOC: `JPEGImages/x.jpg`, `SegmentationClass/x.png`, `ImageSets/Segmentation/{train,val}.txt`.

Masks are pictures with a palette whose indices are the values; 255 is the border between objects, which a label
`ignore: 255` stands for. Everingham et al., International Journal of Computer Vision 111, 98 (2015).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from medunet.errors import DatasetError, Problem
from medunet.io.case import Case, Listing
from medunet.io.files import image_ending, stem
from medunet.io.layouts.nearby import listed

IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


def is_voc(root: Path) -> bool:
    """Whether `root` has the two folders."""
    return (root / IMAGES).is_dir() and (root / MASKS).is_dir()


def read_voc(root: Path, *, lists: bool = False) -> Listing:
    """List the pictures that have masks; where there are lists, those that stand in them.

    Args:
        root: the folder.
        lists: hold out val.txt in fold 0, and train.txt in fold 1.

    Raises:
        DatasetError: a list cannot be read.
    """
    listing = Listing()
    for name in (IMAGES, MASKS):
        if not (root / name).is_dir():
            listing.problems.append(Problem(str(root / name), "", "there is no such folder."))
    if listing.problems:
        return listing
    images, masks = _by_stem(listing, root / IMAGES), _by_stem(listing, root / MASKS)
    train, val = (_names(root / LISTS / f"{name}.txt") for name in ("train", "val"))
    chosen = _names(root / LISTS / "trainval.txt") or list(dict.fromkeys([*train, *val]))
    for name in chosen or sorted(masks):
        if name in images:
            listing.cases.append(Case(name, (images[name],), masks.get(name)))
        else:
            listing.problems.append(Problem(name, "image", f"there is no such picture in {IMAGES}."))
    if not chosen and len(images) > len(listing.cases):
        without = (name for name in images if name not in masks)
        listing.notes.append(f"Pictures without a mask in {MASKS} are left out: {listed(without)}.")
    elif chosen and (rest := [name for name in masks if name not in set(chosen)]):
        listing.notes.append(f"Masks that stand in no list of {LISTS} are left out: {listed(rest)}.")
    if lists:
        _hold_out(listing, train, val)
    return listing


def _by_stem(listing: Listing, folder: Path) -> dict[str, Path]:
    result: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if image_ending(path) and path.is_file():
            other = result.setdefault(stem(path), path)
            if other is not path:
                listing.problems.append(Problem(str(path), "", f"{other.name} has the same name."))
    return result


def _names(file: Path) -> list[str]:
    """First word of each line; nothing where there is no such file."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem(str(file), "", "it cannot be read as text in UTF-8.")
        raise DatasetError(f"The list {file} cannot be read.", problems=[problem]) from error
    return list(dict.fromkeys(line.split()[0] for line in lines if line.split()))


def _hold_out(listing: Listing, train: list[str], val: list[str]) -> None:
    both = sorted(set(train) & set(val))
    if both:
        listing.problems.append(Problem(LISTS, "", f"train.txt and val.txt both list {listed(both)}."))
    folds = dict.fromkeys(train, 1) | dict.fromkeys(val, 0)
    rest = [case.id for case in listing.cases if case.id not in folds]
    if rest:
        rule = f"neither train.txt nor val.txt lists {listed(rest)}."
        listing.problems.append(Problem(LISTS, "data.lists", rule, hint="Complete them, or set data.lists: false."))
    listing.cases[:] = [replace(case, fold=folds.get(case.id)) for case in listing.cases]
