"""What a data set holds, as far as paths and headers tell: cases, labels, grids, folds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from medunet.config.schema import DataConfig
from medunet.errors import DataError, DatasetError
from medunet.geometry import Geometry
from medunet.io.case import Case
from medunet.io.describe.description import Description
from medunet.io.files import read_geometry
from medunet.io.manifest import Manifest, detect, read_manifest
from medunet.io.read import reads_as_dicom


def looks_like_dataset(path: Path) -> bool:
    """Whether `path` is to be described as a data set, be it a broken one."""
    try:
        return detect(path) is not None
    except DatasetError:
        return True


def describe_dataset(path: Path, options: DataConfig | None = None) -> Description:
    """Describe a data set from its listing and the headers of its files; voxels are not looked at.

    Args:
        path: its folder, or the file that lists it.
        options: `data:` of a config, as which it is read; None: as its layout says, with any number of channels.
    """
    result = Description("dataset", path)
    channels = None if options is None else len(options.modality)
    layout = "auto" if options is None else options.format
    try:
        manifest = read_manifest(path, layout, channels=channels, log_notes=False, options=options)
    except DatasetError as error:
        result.blame(error)
        return result
    folds = sorted({case.fold for case in manifest if case.fold is not None})
    groups = {case.group for case in manifest if case.group is not None}
    result.facts |= {
        "format": manifest.format,
        "cases": len(manifest),
        "labels": manifest.label_names,
        "structures": _structures(result, manifest) or None,
        "modality": list(manifest.modality) or None,
        "image_files_per_case": sorted({len(case.images) for case in manifest}),
        "groups": len(groups) or None,
        "folds": folds or None,
        "first_case": manifest.cases[0].id,
        "last_case": manifest.cases[-1].id,
    }
    result.notes += manifest.notes
    _add_grids(result, manifest)
    return result


def _structures(result: Description, manifest: Manifest) -> list[dict[str, Any]]:
    """A row per structure in labels of DICOM: its name, and in how many cases it is."""
    labels = {case.id: case.label for case in manifest if isinstance(case.label, Path) and reads_as_dicom(case.label)}
    if not labels:
        return []
    from medunet.io.dicom.objects import label_object

    counts: Counter[str] = Counter()
    for case, label in labels.items():
        try:
            counts.update(set(label_object(label).names.values()))
        except DataError as error:
            result.problems.append(f"{case}: {error}")
    return [{"name": name, "cases": count} for name, count in sorted(counts.items())]


def _add_grids(result: Description, manifest: Manifest) -> None:
    """Ranges of shape and spacing; masks that do not lie on the grid of their image."""
    grids = [grid for case in manifest if (grid := _grid(result, case)) is not None]
    ranks = sorted({grid.rank for grid in grids})
    if len(ranks) > 1:
        result.problems.append("Some images have two axes and some three; a data set needs one kind.")
    if len(ranks) != 1:
        return
    result.facts["shape"] = _range([grid.shape for grid in grids])
    result.facts["spacing_mm"] = _range([grid.spacing for grid in grids])
    result.facts["orientations"] = sorted({grid.axcodes for grid in grids})


def _range(rows: list[tuple[int, ...]] | list[tuple[float, ...]]) -> dict[str, Any]:
    columns = list(zip(*rows, strict=True))
    return {
        name: [round(float(function(column)), 4) for column in columns]
        for name, function in (("smallest", min), ("median", median), ("largest", max))
    }


def _grid(result: Description, case: Case) -> Geometry | None:
    """Grid of the first channel; a DICOM series is too slow to be read for it."""
    if reads_as_dicom(case.images[0]):
        return None
    try:
        grid = read_geometry(case.images[0])
        for path in case.files[1:]:
            brought = case.reading.resize_label and path not in case.images
            difference = "" if brought or reads_as_dicom(path) else grid.difference(read_geometry(path))
            if difference:
                result.problems.append(f"{case.id}: {path.name} has {difference} ({case.images[0].name}).")
    except DataError as error:
        result.problems.append(f"{case.id}: {error}")
        return None
    return grid
