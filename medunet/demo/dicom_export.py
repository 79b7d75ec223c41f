"""Writes a CT volume as a scanner exports it: one file per slice, names that tell nothing, a localizer beside it.

For the demo and for tests. The objects follow the CT Image IOD (PS3.3 section A.3) with every type 1 and 2 attribute.
Every UID follows from the seed, so the same call writes the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from medunet.atomic import atomic_folder, make_folder
from medunet.errors import DataError, OutputError
from medunet.geometry import RAS_FROM_LPS, Geometry, format_shape

CT_FOLDER, LOCALIZER_FOLDER = "SER0003", "SER0001"
_INTERCEPT = -1024
_FLIP = RAS_FROM_LPS[:3, :3]


def write_ct_export(
    hounsfield: NDArray[np.integer[Any]],
    geometry: Geometry,
    folder: str | Path,
    *,
    localizer: bool = True,
    seed: int = 0,
    description: str = "Abdomen 1.0",
) -> Path:
    """Write a CT study: `SER0003/` with the volume, `SER0001/` with a localizer.

    File names have no ending and are not in the order of the slices; instance numbers are.

    Args:
        hounsfield: (columns, rows, slices) whole Hounsfield units within int16; axis i becomes the column index of
            the images, j the row index, k the slice.
        geometry: its grid; any rotation or reflection.
        folder: must not exist, or be empty.
        localizer: write the localizer too.
        seed: of all UIDs and of the order of the files.
        description: Series Description of the volume.

    Returns:
        The folder.

    Raises:
        DataError: the array is not a volume of whole numbers in int16 on that grid.
        OutputError: the folder holds something or cannot be written.
    """
    folder = Path(folder)
    _check(hounsfield, geometry)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder.", "Give the name of a new folder.")
    with atomic_folder(folder) as part:
        volume = _series(seed, 3, description, ["ORIGINAL", "PRIMARY", "AXIAL"])
        _write_volume(make_folder(part / CT_FOLDER), hounsfield, geometry, volume, seed)
        if localizer:
            scout = _series(seed, 1, "Scout", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
            _write_localizer(make_folder(part / LOCALIZER_FOLDER), hounsfield, geometry, scout)
    return folder


def _check(hounsfield: NDArray[np.integer[Any]], geometry: Geometry) -> None:
    if hounsfield.ndim != 3 or hounsfield.shape != geometry.shape:
        raise DataError(
            f"An array of {format_shape(hounsfield.shape)} does not fit a grid of {format_shape(geometry.shape)}; "
            "a CT export needs a volume."
        )
    limits = np.iinfo(np.int16)
    if hounsfield.dtype.kind not in "iu" or hounsfield.min() < limits.min or hounsfield.max() > limits.max:
        raise DataError(f"Hounsfield units must be whole numbers within int16, not {hounsfield.dtype}.")


def _uid(*what: object) -> str:
    return str(generate_uid(entropy_srcs=["medunet demo", *map(str, what)]))


def _study(seed: int) -> Dataset:
    """What all images of the study share: patient, study, equipment, frame of reference."""
    study = Dataset()
    study.PatientName = "Demo^Medunet"
    study.PatientID = f"DEMO{seed:04d}"
    study.PatientBirthDate = "19700101"
    study.PatientSex = "O"
    study.StudyInstanceUID = _uid(seed, "study")
    study.FrameOfReferenceUID = _uid(seed, "frame of reference")
    study.StudyDate = study.SeriesDate = study.AcquisitionDate = study.ContentDate = "20240101"
    study.StudyTime = study.SeriesTime = study.AcquisitionTime = study.ContentTime = "120000"
    study.StudyID = "1"
    study.StudyDescription = "Synthetic CT"
    study.AccessionNumber = ""
    study.ReferringPhysicianName = ""
    study.PositionReferenceIndicator = ""
    study.Manufacturer = "medunet"
    study.ManufacturerModelName = "demo"
    study.SoftwareVersions = "1"
    study.Modality = "CT"
    study.PatientPosition = "HFS"
    study.BodyPartExamined = "ABDOMEN"
    study.SpecificCharacterSet = "ISO_IR 100"
    study.KVP = "120"
    return study


def _series(seed: int, number: int, description: str, image_type: list[str]) -> Dataset:
    """What all images of a series share."""
    series = _study(seed)
    series.SOPClassUID = CTImageStorage
    series.SeriesInstanceUID = _uid(seed, "series", number)
    series.SeriesNumber = number
    series.SeriesDescription = description
    series.ImageType = image_type
    series.AcquisitionNumber = 1
    return series


def _write_volume(
    folder: Path, hounsfield: NDArray[np.integer[Any]], geometry: Geometry, series: Dataset, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(geometry.shape[2])
    unsigned = bool(hounsfield.min() >= _INTERCEPT)
    for k in range(geometry.shape[2]):
        image = _image(series, number=k + 1)
        _place(image, geometry.affine, (0, 1, 2), k)
        _pixels(image, hounsfield[:, :, k].T, unsigned)
        image.RescaleType = "HU"
        _save(image, folder / f"IM{int(order[k]):06d}")


def _write_localizer(folder: Path, hounsfield: NDArray[np.integer[Any]], geometry: Geometry, series: Dataset) -> None:
    """One projection along j, as a scanner's scout: columns along i, rows against k."""
    affine = geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [0, (geometry.shape[1] - 1) / 2, geometry.shape[2] - 1]
    affine[:3, 2] *= -1
    projection = np.rint(hounsfield.mean(axis=1)).astype(np.int16)
    image = _image(series, number=1)
    _place(image, affine, (0, 2, 1), 0)
    _pixels(image, projection[:, ::-1].T, unsigned=bool(hounsfield.min() >= _INTERCEPT))
    _save(image, folder / "IM000001")


def _image(series: Dataset, number: int) -> Dataset:
    image = Dataset()
    image.update(series)
    image.SOPInstanceUID = _uid(series.SeriesInstanceUID, number)
    image.InstanceNumber = number
    return image


def _place(image: Dataset, affine: NDArray[np.float64], axes: tuple[int, int, int], index: int) -> None:
    """Position, orientation and spacing of slice `index`; `axes` are those of columns, rows and slices."""
    lps = _FLIP @ affine[:3, :3][:, list(axes)]
    lengths = np.linalg.norm(lps, axis=0)
    cosines = lps / lengths
    position = _FLIP @ affine[:3, 3] + index * lps[:, 2]
    image.PixelSpacing = _decimals([lengths[1], lengths[0]])
    image.ImageOrientationPatient = _decimals([*cosines[:, 0], *cosines[:, 1]])
    image.ImagePositionPatient = _decimals(position)
    image.SliceThickness = _decimals([lengths[2]])[0]
    image.SliceLocation = _decimals([float(position @ np.cross(cosines[:, 0], cosines[:, 1]))])[0]


def _decimals(values: Any) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 section 6.2); -0 becomes 0."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _pixels(image: Dataset, rows: NDArray[np.integer[Any]], unsigned: bool) -> None:
    """Fill in values; unsigned with an intercept of -1024 as most scanners do, signed where that cannot hold them."""
    intercept = _INTERCEPT if unsigned else 0
    stored = rows.astype(np.int32) - intercept
    bits = 12 if unsigned and stored.max() < 4096 else 16
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = rows.shape
    image.BitsAllocated = 16
    image.BitsStored = bits
    image.HighBit = bits - 1
    image.PixelRepresentation = 0 if unsigned else 1
    image.RescaleSlope = "1"
    image.RescaleIntercept = str(intercept)
    image.WindowCenter = "40"
    image.WindowWidth = "400"
    image.PixelData = np.ascontiguousarray(stored, dtype="<u2" if unsigned else "<i2").tobytes()


def _save(image: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = image.SOPClassUID
    meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), image, preamble=b"\0" * 128, file_meta=meta)
    file.save_as(path, enforce_file_format=True)
