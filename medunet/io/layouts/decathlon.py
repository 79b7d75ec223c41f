"""The layout of the Medical Segmentation Decathlon, and MONAI's datalists, which share it.

`dataset.json` lists `training: [{"image": ..., "label": ...}]` with paths relative to its folder; MONAI
adds `fold`, here also `id` and `group`. Antonelli et al., Nature Communications 13, 4128 (2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medunet.errors import DataError, Problem, ReadError
from medunet.io.case import Case, Listing
from medunet.io.files import NIFTI, image_ending, read_geometry, stem
from medunet.io.layouts.dataset_json import is_path, load_json, resolve, shown, state_labels, state_modality
from medunet.io.layouts.nearby import climbs

GROUP_KEYS = ("group", "patient", "patient_id", "subject", "subject_id")


def read_decathlon(file: Path) -> Listing:
    """List the `training` entries of `file`.

    Raises:
        DatasetError: the file is no JSON object.
    """
    data = load_json(file)
    listing = Listing()
    state_labels(listing, data.get("labels"), file.name)
    state_modality(listing, data.get("modality"), file.name)
    entries = data.get("training")
    if not isinstance(entries, list) or not entries:
        rule = 'it must be a list of {"image": path, "label": path} with at least one entry.'
        listing.problems.append(Problem(str(file), "training", rule))
        return listing
    if data.get("validation"):
        listing.notes.append(f"Entries under `validation` in {file.name} are left out; only `training` is read.")
    for index, entry in enumerate(entries):
        case = _case(listing, file, f"{file.name}: training[{index}]", entry)
        if case is not None:
            listing.cases.append(case)
    _refuse_4d(listing)
    return listing


def _case(listing: Listing, file: Path, where: str, entry: Any) -> Case | None:
    if not isinstance(entry, dict):
        rule = 'an entry must be {"image": path, "label": path}.'
        listing.problems.append(Problem(where, "", rule, value=shown(entry)))
        return None
    images = _paths(listing, file, f"{where}.image", entry.get("image"))
    labels = _paths(listing, file, f"{where}.label", entry["label"]) if entry.get("label") is not None else []
    if len(labels) > 1:
        listing.problems.append(Problem(where, "label", "a case has one mask file, not several."))
    if not images:
        return None
    fold = entry.get("fold")
    if fold is not None and (isinstance(fold, bool) or not isinstance(fold, int) or fold < 0):
        listing.problems.append(Problem(where, "fold", "it must be a whole number from 0.", value=shown(fold)))
        fold = None
    group = next((entry[key] for key in GROUP_KEYS if entry.get(key) is not None), None)
    return Case(
        id=str(entry["id"]) if entry.get("id") is not None else stem(images[0]),
        images=tuple(images),
        label=labels[0] if labels else None,
        group=None if group is None else str(group),
        fold=fold,
    )


def _paths(listing: Listing, file: Path, where: str, value: Any) -> list[Path]:
    """One path or a list of them (MONAI: one per channel)."""
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(is_path(text) for text in texts):
        rule = "it must be a path or a list of paths."
        listing.problems.append(Problem(where, "", rule, value="missing" if value is None else shown(value)))
        return []
    paths = []
    for text in texts:
        path = resolve(file.parent, text)
        if climbs(text):
            rule = f"a relative path must stay inside {file.parent}."
            hint = "Write the absolute path if it is meant."
            listing.problems.append(Problem(where, "", rule, value=text, hint=hint))
        paths.append(path)
    return paths


def _refuse_4d(listing: Listing) -> None:
    """Tell how to split the 4D files of some Decathlon tasks (BRATS, prostate); one header says it for all."""
    first = listing.cases[0].images if listing.cases else ()
    if len(first) != 1 or image_ending(first[0]) not in NIFTI:
        return
    try:
        read_geometry(first[0])
    except ReadError:
        return  # missing or damaged: reported with the other files
    except DataError as error:
        if "4D" not in error.message:
            return
        names = f" ({', '.join(listing.modality)})" if len(listing.modality) > 1 else ""
        listing.problems.append(
            Problem(
                str(first[0]),
                "image",
                f"it is a 4D file that holds all channels{names} in one; channels must be files of their own.",
                hint="Split it (nibabel.four_to_three) into CASE_0000.nii.gz, CASE_0001.nii.gz; use format: nnunet.",
            )
        )
