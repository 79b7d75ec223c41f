"""Files that are named by a pattern of the config: `images/{case}_training.png`, `1st_manual/{case}_manual1.png`.

For data sets that have a habit of their own. A case is what `{case}` stands for in the name of its image; folders in
it become underscores of its id. With `{label}` the masks of single structures are united.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medunet.config.pictures import PairsConfig
from medunet.errors import DatasetError, Problem
from medunet.io.case import Case, Drawn, Listing, Part
from medunet.io.files import image_ending
from medunet.io.layouts.nearby import files_under, id_of, listed
from medunet.io.patterns import compiled

Found = dict[str, dict[str, Path]]
"""Files by case, then by structure ("" where the name tells none)."""

_PLACES = {"{case}": r"(?P<case>.+?)", "{label}": r"(?P<label>[^/]+?)", "*": "[^/]*"}


def read_pairs(root: Path, names: PairsConfig | None) -> Listing:
    """List the cases whose files have these names.

    Raises:
        DatasetError: there are no names.
    """
    if names is None:
        raise DatasetError("data.format is pairs, but data.pairs does not say how the files are named.")
    listing = Listing()
    files = [path.relative_to(root).as_posix() for path in files_under(root)]
    channels = [_find(listing, root, name, files) for name in names.images]
    labels = _find(listing, root, names.labels, files)
    regions = _find(listing, root, names.region, files) if names.region else {}
    _drop_masks(channels, [labels, regions])
    for case in channels[0]:
        images = [found[case][""] for found in channels if case in found]
        if len(images) < len(channels):
            rule = f"it has {len(images)} of the {len(channels)} files that data.pairs.images names."
            listing.problems.append(Problem(id_of(case), "images", rule))
        region = regions.get(case, {}).get("")
        if names.region and region is None:
            rule = f"there is no file {names.region} (data.pairs.region)."
            listing.problems.append(Problem(id_of(case), "region", rule))
        label = _label(root / names.labels, labels.get(case, {}))
        listing.cases.append(Case(id_of(case), tuple(images), label, region=region))
    _lonely(listing, channels, labels, names)
    _note_absent(listing, labels)
    return listing


def _find(listing: Listing, root: Path, name: str, files: Sequence[str]) -> Found:
    """The files that have a name; two for one case are a problem."""
    pattern = compiled(name.replace("\\", "/").removeprefix("./"), _PLACES)
    result: Found = {}
    for file in files:
        match = pattern.fullmatch(file)
        if match is None or not image_ending(Path(file)):
            continue
        structures = result.setdefault(match["case"], {})
        structure = match["label"] if "label" in pattern.groupindex else ""
        if structure in structures:
            rule = f"{file} and {structures[structure].name} both fit {name}; a case has one."
            listing.problems.append(Problem(id_of(match["case"]), "files", rule))
        structures[structure] = root / file
    if not result:
        listing.problems.append(Problem(str(root), "data.pairs", "no image file has such a name.", value=name))
    return result


def _drop_masks(channels: Sequence[Found], masks: Sequence[Found]) -> None:
    """Take out of the images what is a mask of one: `{case}.png` fits `a_mask.png` too."""
    for found in channels:
        taken = {
            path for mask in masks for case, files in mask.items() if case in found for path in files.values()
        }  # fmt: skip
        for case in [case for case, files in found.items() if files[""] in taken]:
            del found[case]


def _label(source: Path, files: Mapping[str, Path]) -> Path | Drawn | None:
    if not files or "" in files:
        return files.get("")
    parts = (Part(structure, "mask", str(path), str(path)) for structure, path in sorted(files.items()))
    return Drawn(source, tuple(parts))


def _lonely(listing: Listing, channels: Sequence[Found], labels: Found, names: PairsConfig) -> None:
    for case, files in labels.items():
        if case not in channels[0]:
            path = next(iter(files.values()))
            rule = f"no image belongs to this mask; it would be {names.images[0].replace('{case}', case)}."
            listing.problems.append(Problem(str(path), "", rule))


def _note_absent(listing: Listing, labels: Found) -> None:
    """Cases that lack the mask of some structure, which then counts as absent."""
    structures = {structure for files in labels.values() for structure in files}
    lacking = [id_of(case) for case, files in labels.items() if len(files) < len(structures)]
    if lacking:
        listing.notes.append(f"Structures without a mask of their own are absent from their case: {listed(lacking)}.")
