"""`convert`: images and masks from one kind of file to another, masks to DICOM objects of the images they belong to.

A mask is: a DICOM segmentation or structure set, whatever is given labels or a reference, and whatever goes to a DICOM
format. Everything else is an image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from medunet.config.terms import TermConfig, with_terms
from medunet.errors import DicomError, UsageError
from medunet.evaluation.structures import LabelsLike, read_structures
from medunet.export.formats import FORMATS, format_of, write_mask
from medunet.export.itk import write_itk_array
from medunet.export.nifti import write_nifti_array
from medunet.geometry import Geometry
from medunet.io.dicom import Series, choose, choose_volumes, read_series, scan
from medunet.io.dicom.contoured import is_rtstruct, read_rtstruct
from medunet.io.dicom.segments import is_seg, read_seg
from medunet.io.files import image_ending, read_mask, stem
from medunet.io.read import read_volume, reads_as_dicom
from medunet.io.sampling import labels_on_grid
from medunet.io.selection import ALL, ANY, Selection
from medunet.io.volume import Segmentation, Source, Volume
from medunet.labels import BACKGROUND, LabelMap

logger = logging.getLogger("medunet")


def convert(
    source: str | Path,
    output: str | Path,
    *,
    reference: str | Path | None = None,
    selection: Selection = ANY,
    labels: LabelsLike | None = None,
    wanted: str | None = None,
) -> Path:
    """Convert one image or mask.

    Args:
        source: an image file, a DICOM folder, a mask, a DICOM segmentation or RT structure set.
        output: the new file; its ending says what it becomes.
        reference: the images that a mask belongs to: a DICOM series for DICOM formats; for others any image, whose
            grid the mask is put on. A structure set needs the series it was drawn on.
        selection: which series of a DICOM folder, of `reference` if there is one.
        labels: names of a mask's values, as `read_structures` takes them; default: "label 1" and so on.
        wanted: format, where the ending has several.

    Returns:
        `output`.

    Raises:
        UsageError: no such file or format, or DICOM without a DICOM reference.
        DataError: something cannot be read.
        OutputError: the file cannot be written.
    """
    source, output = Path(source), Path(output)
    reference = None if reference is None else Path(reference)
    name = format_of(output, wanted)
    _check_paths(source, *([] if reference is None else [reference]))
    drawn, segmented = is_rtstruct(source), is_seg(source)
    if not (drawn or segmented or labels is not None or reference is not None or FORMATS[name].dicom):
        return _image(source, output, name, selection)
    if drawn:
        mask = read_rtstruct(source, _series(reference, selection))
        for note in mask.source.notes:
            logger.warning("%s", note)
        return write_mask(mask, output, wanted=name)  # it lies on the slices of its series
    mask = read_seg(source) if segmented else _mask(source, labels)
    if FORMATS[name].dicom:
        mask = _beside(mask, reference, selection)
    elif reference is not None:
        mask = _on_grid(mask, reference, selection)
    return write_mask(mask, output, wanted=name)


def convert_volumes(
    source: str | Path, output: str | Path, *, selection: Selection = ANY, wanted: str | None = None
) -> list[Path]:
    """Convert all volumes of a DICOM series to images: `scan.nii.gz` becomes `scan_v1.nii.gz`, `scan_v2.nii.gz`, ...

    Args:
        source: a DICOM folder, zip or multi-frame file.
        output: the new file, or what they are named after if there are several.
        selection: which series, and how it is read.
        wanted: as `convert` takes it.

    Returns:
        The files.

    Raises:
        UsageError: no such file or format, or no DICOM.
        DataError: no series is meant, or one of its volumes cannot be read; then none is written.
        OutputError: a file cannot be written.
    """
    source, output = Path(source), Path(output)
    name = format_of(output, wanted)
    _check_paths(source)
    if FORMATS[name].dicom or not reads_as_dicom(source):
        raise UsageError("All volumes can be taken of a DICOM series, and become images.", "Leave out --volume.")
    _check_image(output, name)
    export = scan(source)
    found = choose_volumes(export.series, replace(selection, volume=ALL))
    for note in export.ignored:
        logger.info("%s", note)
    for series in found:
        if not series.plausible:
            raise DicomError(f"{series.title} cannot be read as a volume: {series.verdict}.", series.remedy)
    start, ending = stem(output), image_ending(output)
    return [
        _written(
            read_series(series),
            output if len(found) == 1 else output.with_name(f"{start}_v{series.number}{ending}"),
            name,
        )
        for series in found
    ]


def _check_paths(*paths: Path) -> None:
    for path in paths:
        if not path.exists():
            raise UsageError(f"There is no file or folder {path}.", "Check the path.")


def _check_image(output: Path, name: str) -> None:
    if FORMATS[name].flat:
        raise UsageError(
            f"An image cannot be written to {output}: {name} holds masks of pictures.", "Use .nii.gz, .nrrd or .mha."
        )


def _image(source: Path, output: Path, name: str, selection: Selection) -> Path:
    _check_image(output, name)
    return _written(read_volume(source, selection=selection, check_values=False), output, name)


def _written(volume: Volume, output: Path, name: str) -> Path:
    for note in volume.source.notes:
        logger.info("%s", note)
    if name == "nifti":
        array = volume.array if volume.channels > 1 else volume.array[0]
        return write_nifti_array(array, volume.geometry, volume.source, output)
    return write_itk_array(volume.array, volume.geometry, output)


def _mask(path: Path, labels: LabelsLike | None) -> Segmentation:
    if reads_as_dicom(path):
        raise UsageError(f"{path} holds DICOM images, and a mask is needed.", "Give a mask, or a DICOM segmentation.")
    values, geometry = read_mask(path)
    present = [int(value) for value in np.unique(values)]
    if labels is None:
        terms: Mapping[str, TermConfig] = {}
        mapping: dict[str, tuple[int, ...]] = {
            BACKGROUND: (0,),
            **{f"label {value}": (value,) for value in present if value},
        }
    else:
        structures = read_structures(labels)
        terms = structures.terms
        rest = structures.others(present) if structures.background is None else []
        background = structures.background or (0,)
        mapping = {
            BACKGROUND: (*background, *(value for value in rest if value not in background)),
            **structures.values,
        }
    found = with_terms(LabelMap.from_mapping(mapping), terms)
    return Segmentation(found.to_indices(values), geometry, found, Source(path, "array"))


def _series(reference: Path | None, selection: Selection) -> Series:
    """The series that a mask belongs to."""
    if reference is None or not reads_as_dicom(reference):
        raise UsageError(
            "A DICOM object of a mask refers to the DICOM images it was made on.",
            "Name their folder: --reference SERIES.",
        )
    return choose(scan(reference).series, selection)


def _beside(mask: Segmentation, reference: Path | None, selection: Selection) -> Segmentation:
    """The mask, with the series that it belongs to."""
    series = _series(reference, selection)
    assert series.geometry is not None  # noqa: S101  `choose` returns volumes only
    _check_overlap(mask, series.geometry, series.title)
    return replace(mask, source=replace(mask.source, series=series))


def _on_grid(mask: Segmentation, reference: Path, selection: Selection) -> Segmentation:
    """The mask on the grid of the reference."""
    if reads_as_dicom(reference):
        chosen = _series(reference, selection)
        assert chosen.geometry is not None  # noqa: S101  as above
        geometry, source = chosen.geometry, Source(reference, "dicom")
    else:
        volume = read_volume(reference, check_values=False)
        geometry, source = volume.geometry, volume.source
    if (geometry.rank, mask.geometry.rank) != (3, 3):
        raise UsageError("A mask can be put on the grid of another image only if both are volumes.")
    _check_overlap(mask, geometry, str(reference))
    array = labels_on_grid(mask.array, mask.geometry, geometry)
    return Segmentation(array, geometry, mask.labels, source)


def _check_overlap(mask: Segmentation, geometry: Geometry, reference: str) -> None:
    """Warn where no voxel of a structure lies within the other grid: the two hardly belong together."""
    found = np.argwhere(mask.array)
    if not len(found):
        return
    there = np.linalg.inv(geometry.affine) @ mask.geometry.affine
    where = found @ there[:3, :3].T + there[:3, 3]
    if not ((where > -1) & (where < geometry.shape)).all(axis=1).any():
        logger.warning("Nothing of the mask lies within %s; does it belong to these images?", reference)
