"""RT structure sets: contours that fill to exactly the mask, on the planes of the images that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.rtstruct import write_rtstruct
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]
Winding = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


def filled(dataset: pydicom.Dataset, segmentation: Segmentation, winding: Winding) -> np.ndarray:
    """(labels, slices, rows, columns): the contours filled, through the images that they name."""
    series = segmentation.source.series
    assert series is not None
    numbers = {item.sop_uid: number for number, item in enumerate(series.slices)}
    shape = (series.slices[0].rows, series.slices[0].columns)
    result = np.zeros((len(dataset.ROIContourSequence), len(numbers), *shape), dtype=int)
    for label, region in zip(result, dataset.ROIContourSequence, strict=True):
        for contour in region.get("ContourSequence", []):
            (image,) = contour.ContourImageSequence
            number = numbers[image.ReferencedSOPInstanceUID]
            plane = series.slices[number].plane
            assert plane is not None
            assert all(len(text) <= 16 for text in str(contour["ContourData"].value).strip("[]").split(", "))
            points = np.asarray(contour.ContourData, float).reshape(-1, 3) - plane.position
            assert len(points) == contour.NumberOfContourPoints
            assert np.abs(points @ plane.normal).max() < 1e-4
            corners = np.stack([points @ plane.column / plane.spacing[0], points @ plane.row / plane.spacing[1]], 1)
            label[number] += winding(np.rint(corners * 2) / 2, shape)
    return result


def truth(array: np.ndarray, labels: LabelMap) -> np.ndarray:
    plane = array.transpose(2, 1, 0)
    return np.stack([labels.membership[label.index].astype(int)[plane] for label in labels.foreground])


@pytest.mark.parametrize("which", ["labels", "nested"])
def test_contours_fill_to_the_mask(
    segmented: Make, winding: Winding, mask: np.ndarray, tmp_path: Path, which: str, request: pytest.FixtureRequest
) -> None:
    labels: LabelMap = request.getfixturevalue(which)
    array = np.minimum(mask, len(labels) - 1)
    segmentation = segmented(array, labels)
    dataset = pydicom.dcmread(write_rtstruct(segmentation, tmp_path / "rt.dcm", ALGORITHM))
    assert np.array_equal(filled(dataset, segmentation, winding), truth(array, labels))


def test_names_colours_codes_and_references(segmented: Make, labels: LabelMap, study: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_rtstruct(segmented(), tmp_path / "rt.dcm", ALGORITHM))
    assert [item.ROIName for item in dataset.StructureSetROISequence] == ["liver", "kidney_left", "spot"]
    assert dataset.StructureSetROISequence[0].ROIGenerationAlgorithm == "AUTOMATIC"
    assert [tuple(item.ROIDisplayColor) for item in dataset.ROIContourSequence] == [
        label.colour for label in labels.foreground
    ]
    observed = dataset.RTROIObservationsSequence[1].RTROIIdentificationCodeSequence[0]
    assert observed.CodeValue == "64033007"
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    images = [pydicom.dcmread(path) for path in (study / CT_FOLDER).iterdir()]
    assert {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence} == {
        image.SOPInstanceUID for image in images
    }
    assert frame.FrameOfReferenceUID == images[0].FrameOfReferenceUID
    assert dataset.PatientName == images[0].PatientName


def test_a_label_that_is_not_there_has_no_contours(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    segmentation = segmented(np.zeros_like(mask))
    dataset = pydicom.dcmread(write_rtstruct(segmentation, tmp_path / "rt.dcm", ALGORITHM))
    assert len(dataset.StructureSetROISequence) == 3
    assert not any("ContourSequence" in item for item in dataset.ROIContourSequence)


def test_the_same_mask_of_the_same_images_is_the_same_object(segmented: Make, tmp_path: Path) -> None:
    uids = {
        pydicom.dcmread(write_rtstruct(segmented(), tmp_path / f"{number}.dcm", ALGORITHM)).SOPInstanceUID
        for number in range(2)
    }
    assert len(uids) == 1


def test_a_mask_without_dicom_images_is_refused(
    grid: Geometry, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is no DICOM series"):
        write_rtstruct(Segmentation(mask, grid, labels), tmp_path / "rt.dcm")


def test_a_resampled_series_gets_its_contours_on_the_slices_that_came(
    segmented: Make, winding: Winding, study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    files = sorted((study / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[4].unlink()
    segmentation = segmented(mask, irregular="resample")
    dataset = pydicom.dcmread(write_rtstruct(segmentation, tmp_path / "rt.dcm", ALGORITHM))
    assert np.array_equal(filled(dataset, segmentation, winding), np.delete(truth(mask, labels), 4, axis=1))


def test_contours_of_many_points_are_still_numbers_to_others(tmp_path: Path) -> None:
    """An explicit DS of more than 64 KB has to be written as UN, which other programs skip."""
    mask = np.zeros((120, 120, 2), np.uint8)
    mask[0] = mask[:, ::4] = 1
    mask[::2, 1::4] = 1  # combs that hang together: one region
    geometry = Geometry.plain(mask.shape, (1.0, 1.0, 1.0))
    volume = read_dicom(write_ct_export(np.zeros(mask.shape, np.int16), geometry, tmp_path / "export"))
    labels = LabelMap.from_mapping({"background": 0, "comb": 1})
    path = write_rtstruct(Segmentation(mask, geometry, labels, volume.source), tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    assert len(contour.ContourData) > 65536 / 5
    assert contour["ContourData"].VR == "DS"
    assert dataset.file_meta.TransferSyntaxUID.is_implicit_VR


def test_long_names_stay_apart(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    labels = LabelMap.from_mapping({"background": 0, "a" * 70: 1, "a" * 71: 2, "b" * 64: 3})
    dataset = pydicom.dcmread(write_rtstruct(segmented(mask, labels), tmp_path / "rt.dcm"))
    names = [item.ROIName for item in dataset.StructureSetROISequence]
    assert len(set(names)) == 3
    assert all(len(name) <= 64 for name in names)
