"""DICOM as an archive exports it: a folder per case, in it at any depth the images and the object that labels them.

The object, a segmentation or a structure set, says which series it was made on. The folder of a patient with several
studies gives a case for each. Cases of one patient form a group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from medunet.errors import DataError, Problem
from medunet.io.case import Case, Listing

_SHOWN = 5


def holds_studies(root: Path) -> bool:
    """Whether at least two folders of `root` hold images in DICOM and an object that labels them."""
    found = (folder for folder in _folders(root) if _labels(folder) and _has_images(folder))
    return len(list(islice(found, 2))) == 2


def read_studies(root: Path) -> Listing:
    """List the studies under `root`."""
    listing = Listing()
    for folder in _folders(root):
        for study, labels in _split(folder):
            case = _case(listing, root, study, labels)
            if case is not None:
                listing.cases.append(case)
    _group(listing)
    return listing


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _labels(folder: Path) -> list[Path]:
    from medunet.io.dicom.objects import label_files

    return list(label_files(folder))


def _has_images(folder: Path) -> bool:
    """Whether there is anything of DICOM that labels nothing."""
    from medunet.io.dicom import is_dicom
    from medunet.io.dicom.objects import label_files
    from medunet.io.dicom.opening import files_below

    return any(is_dicom(file) and not any(label_files(file)) for file in files_below(folder))


def _split(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folder with its label objects; the folders in it one by one, where each with such objects has images too."""
    labels = _labels(folder)
    if len(labels) > 1:
        homes = [inner for inner in _folders(folder) if any(inner in label.parents for label in labels)]
        inside = all(any(home in label.parents for home in homes) for label in labels)
        if inside and len(homes) > 1 and all(_has_images(home) for home in homes):
            for home in homes:
                yield from _split(home)
            return
    yield folder, labels


def _case(listing: Listing, root: Path, study: Path, labels: list[Path]) -> Case | None:
    name = "_".join(study.relative_to(root).parts)
    if len(labels) > 1:
        found = ", ".join(str(label.relative_to(study)) for label in labels[:_SHOWN])
        more = ", ..." if len(labels) > _SHOWN else ""
        rule = f"it holds {len(labels)} segmentations or structure sets ({found}{more}), and one is needed."
        hint = "Move the others away, or list the cases in a CSV."
        listing.problems.append(Problem(name, "label", rule, hint=hint))
        return None
    if not labels and not _has_images(study):
        listing.notes.append(f"{study.name} holds nothing of DICOM and was left out.")
        return None
    return Case(name, (study,), labels[0] if labels else None)


def _group(listing: Listing) -> None:
    """Make the patients groups, unless all are called the same, as after some anonymisation."""
    patients = {case.id: _patient(case) for case in listing.cases}
    stated = set(patients.values()) - {""}
    if len(listing.cases) > 1 and len(stated) == 1 and "" not in patients.values():
        listing.notes.append("All cases state the same Patient ID; each is taken for a patient of its own.")
    elif stated:
        listing.cases[:] = [replace(case, group=patients[case.id] or f"case {case.id}") for case in listing.cases]


def _patient(case: Case) -> str:
    """Patient ID of the label, hashed; "" where there is none."""
    from medunet.io.dicom.objects import label_object

    try:
        patient = label_object(case.label).patient if isinstance(case.label, Path) else ""
    except DataError:  # told when the label is read
        return ""
    return hashlib.sha256(b"medunet group " + patient.encode()).hexdigest()[:16] if patient else ""
