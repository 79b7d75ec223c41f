"""What DICOM objects that are derived from a series share: its images, its labels slice by slice, names and numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import generate_uid
from pydicom.valuerep import validate_value

from medunet.atomic import atomic_file
from medunet.errors import OutputError, UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.codes import Meaning, meaning_of_label
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.dicom import Series
from medunet.io.dicom.elements import count, quiet, reason_of
from medunet.io.dicom.opening import opened
from medunet.io.dicom.slices import Plane, Slice
from medunet.io.sampling import labels_on_grid, labels_on_plane
from medunet.io.volume import Segmentation
from medunet.labels import Label

MANUFACTURER = "medunet"
_TYPE_2 = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "ReferringPhysicianName"),
)
_SEXES = ("M", "F", "O")
_PATIENT_STUDY = ("PatientAge", "PatientSize", "PatientWeight", "StudyDescription")
_UNSTATED = "Not stated by the images"
CHARACTERS = "ISO_IR 192"
"""Character set of what is written: UTF-8, which holds whatever the source's names are made of."""


@dataclass(frozen=True)
class Origin:
    """A segmentation beside the images that it belongs to.

    Attributes:
        segmentation: on the grid of the series, on the one that it was resampled to, or on any other.
        series: the images.
        algorithm: what made it.
        content: hash of the labels, and of the probabilities where they are what is written.
    """

    segmentation: Segmentation
    series: Series
    algorithm: Algorithm
    content: str

    @classmethod
    def of(
        cls, segmentation: Segmentation, algorithm: Algorithm, probabilities: NDArray[np.floating[Any]] | None = None
    ) -> Origin:
        """Pair a segmentation with the series of its source.

        Raises:
            UsageError: it has none.
        """
        found = segmentation.source.series
        if found is None:
            raise UsageError(
                f"{segmentation.source.path} is no DICOM series, and a DICOM object of a mask needs the images it "
                "refers to.",
                "Write a NIfTI mask, or name the series: medunet convert MASK -o OUTPUT --reference SERIES.",
            )
        content = hashlib.sha256(np.ascontiguousarray(segmentation.array).data)
        for channel in () if probabilities is None else probabilities:
            for plane in channel:  # it may lie on the disk
                content.update(np.ascontiguousarray(plane).data)
        return cls(segmentation, found, algorithm, content.hexdigest())

    def uid(self, *what: str) -> str:
        """A UID that is the same whenever the same images, model and mask come together; `what` tells objects apart."""
        images = sorted(
            f"{item.sop_uid or item.path.name}{'' if item.frame is None else f' frame {item.frame}'}"
            for item in self.series.slices
        )
        return str(generate_uid(entropy_srcs=[*images, self.series.uid, self.algorithm.digest, self.content, *what]))

    def images(self) -> list[pydicom.Dataset]:
        """Headers of the series' files in the order of its slices, with what DICOM demands even if it is empty.

        Raises:
            OutputError: a file cannot be read any more.
        """
        result = []
        for path in self.series.files:
            try:
                with quiet(), opened(path) as handle:
                    dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True)
            except Exception as error:  # pydicom raises a dozen types
                reason = reason_of(error)
                raise OutputError(f"{path.name}, which the mask refers to, cannot be read again: {reason}.") from error
            result.append(self._completed(dataset))
        return result

    def _completed(self, dataset: Any) -> pydicom.Dataset:
        _drop_invalid(dataset)
        for keyword in _TYPE_2:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
        if "DeidentificationMethod" in dataset and not dataset.DeidentificationMethod:
            del dataset.DeidentificationMethod  # it may be absent, but not empty
        how = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
        if dataset.get("PatientIdentityRemoved") == "YES" and not any(keyword in dataset for keyword in how):
            dataset.DeidentificationMethod = _UNSTATED  # it must be said then
        for shared in dataset.get("SharedFunctionalGroupsSequence", ()):
            self._complete_groups(shared)
        if not dataset.get("FrameOfReferenceUID"):
            dataset.FrameOfReferenceUID = self.frame_of_reference
        if "SliceThickness" not in dataset and "PerFrameFunctionalGroupsSequence" not in dataset:
            dataset.SliceThickness = round(self.gap, 6)
        result: pydicom.Dataset = dataset
        return result

    def _complete_groups(self, shared: Any) -> None:
        """State spacing and orientation for all frames, as highdicom expects; in the file each may do so for itself."""
        from highdicom import PixelMeasuresSequence, PlaneOrientationSequence

        first = self.series.slices[0]
        plane = plane_of(first)
        shared.PixelMeasuresSequence = PixelMeasuresSequence(plane.spacing, first.thickness or round(self.gap, 6))
        shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", [*plane.row, *plane.column])

    @property
    def frame_of_reference(self) -> str:
        """Frame of Reference UID; one of its own for a series that states none."""
        stated = self.series.slices[0].identity.frame_of_reference
        return stated or str(generate_uid(entropy_srcs=[self.series.uid, "frame of reference"]))

    @property
    def gap(self) -> float:
        """Millimetres from slice to slice, the usual one."""
        planes = [plane_of(item) for item in self.series.slices]
        if len(planes) == 1:
            return self.series.slices[0].thickness or 1.0
        along = [float(np.dot(plane.position, planes[0].normal)) for plane in planes]
        return float(np.median(np.diff(along)))

    def meaning(self, label: Label) -> Meaning:
        """The coded terms of a label."""
        return meaning_of_label(label, self.segmentation.labels)

    def equipment(self) -> pydicom.Dataset:
        """The model, as an item of Contributing Equipment Sequence (PS3.3 section C.12.1)."""
        made = self.algorithm
        result, purpose = pydicom.Dataset(), pydicom.Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator = "109102", "DCM"
        purpose.CodeMeaning = "Processing Equipment"
        result.PurposeOfReferenceCodeSequence = [purpose]
        result.Manufacturer, result.ManufacturerModelName = MANUFACTURER, made.name[:64] or MANUFACTURER
        result.SoftwareVersions = made.version[:64]
        if made.digest:
            result.ContributionDescription = f"Segmentation by the model with weights of SHA-256 {made.digest}"
        return result

    def number(self, base: int, images: list[pydicom.Dataset]) -> int:
        """A Series Number that is the same each time and seldom taken: the source's behind `base`."""
        try:
            return base + count(images[0], "SeriesNumber") % 1000
        except ValueError:  # a remark; what is wrong with it must not cost the object
            return base

    def on_grid(self) -> NDArray[Any]:
        """Labels (columns, rows, slices) on the grid of the series, which is upright where the slices are not."""
        array, here, there = self.segmentation.array, self.segmentation.geometry, self.series.geometry
        assert there is not None  # noqa: S101  series without a grid are never read
        if not there.difference(here):
            return array
        return labels_on_grid(array, here, there)

    def planes(self) -> Iterator[tuple[Slice, NDArray[Any]]]:
        """Every slice of the series with its labels (rows, columns)."""
        series, array = self.series, self.segmentation.array
        here = self.segmentation.geometry
        same = series.geometry is not None and not series.geometry.difference(here)
        for number, item in enumerate(series.slices):
            if not same:
                yield item, _sampled(array, here, item)
            elif series.resampled and series.upright is not None:
                yield item, series.upright.labels(array, number, (item.rows, item.columns))
            else:
                yield item, array[:, :, number].T


def _drop_invalid(dataset: Any) -> None:
    for keyword in [*_TYPE_2, *_PATIENT_STUDY]:
        if keyword in dataset and not _valid(dataset[keyword]):
            del dataset[keyword]
    if dataset.get("PatientSex") not in _SEXES:
        dataset.PatientSex = ""


def _valid(element: Any) -> bool:
    """Whether a value is one of its VR; scanners and anonymisers leave ages such as "0Y"."""
    try:
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            validate_value(element.VR, value, pydicom.config.RAISE)
    except Exception:  # a value that cannot even be decoded
        return False
    return True


def plane_of(item: Slice) -> Plane:
    """The plane of a slice of a volume."""
    assert item.plane is not None  # noqa: S101  slices without one form no volume
    return item.plane


def image_reference(item: Slice) -> pydicom.Dataset:
    """The image of a slice, as an item of a sequence that refers to it."""
    result = pydicom.Dataset()
    result.ReferencedSOPClassUID, result.ReferencedSOPInstanceUID = item.sop_class, item.sop_uid
    if item.frame is not None:
        result.ReferencedFrameNumber = item.frame + 1
    return result


def _sampled(array: NDArray[Any], geometry: Geometry, item: Slice) -> NDArray[Any]:
    """Labels of a slice out of a mask on another grid."""
    plane, pixels = plane_of(item), np.eye(4)
    pixels[:3, 0] = np.asarray(plane.row) * plane.spacing[1]
    pixels[:3, 1] = np.asarray(plane.column) * plane.spacing[0]
    pixels[:3, 3] = plane.position
    to_mask = np.linalg.inv(geometry.affine) @ RAS_FROM_LPS @ pixels
    labels: NDArray[Any] = labels_on_plane(array, to_mask, (item.columns, item.rows)).T
    return labels


def write_dataset(dataset: pydicom.Dataset, path: Path) -> Path:
    """Write a data set to `path`, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as part:
        dataset.save_as(part, enforce_file_format=True)
    return path
