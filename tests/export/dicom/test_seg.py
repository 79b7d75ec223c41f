"""DICOM SEG: read back by highdicom, frame by frame, on the source's slices, with what archives ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER
from medunet.errors import OutputError, UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.seg import write_seg
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]


def by_source(path: Path, segmentation: Segmentation) -> np.ndarray:
    """(slices, rows, columns, segments) as highdicom reads it, in the order of the source's slices."""
    seg = highdicom.seg.segread(path)
    series = segmentation.source.series
    assert series is not None
    uids = [item.sop_uid for item in series.slices]
    found: np.ndarray = seg.get_pixels_by_source_instance(
        uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    return found


def truth(array: np.ndarray, labels: LabelMap) -> np.ndarray:
    return np.stack([labels.membership[label.index].astype(bool)[array] for label in labels.foreground], axis=-1)


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "GRID"])
def test_every_segment_comes_back_on_its_slices(
    segmented: Make, mask: np.ndarray, labels: LabelMap, tmp_path: Path, kind: str
) -> None:
    segmentation = segmented()
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM, kind=kind)
    assert np.array_equal(by_source(path, segmentation), truth(mask.transpose(2, 1, 0), labels))


def test_positions_and_references_are_those_of_the_source(segmented: Make, study: Path, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    images = {str(image.SOPInstanceUID): image for image in map(pydicom.dcmread, (study / CT_FOLDER).iterdir())}
    frames = dataset.PerFrameFunctionalGroupsSequence
    assert len(frames) == 4 + 9 + 1  # empty ones are left out
    for frame in frames:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = images[source.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
    first = next(iter(images.values()))
    assert dataset.FrameOfReferenceUID == first.FrameOfReferenceUID
    assert (dataset.StudyInstanceUID, dataset.PatientID) == (first.StudyInstanceUID, first.PatientID)
    referenced = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in referenced} == set(images)


def test_segments_are_coded_coloured_and_say_what_made_them(
    segmented: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    liver, kidney, spot = dataset.SegmentSequence
    assert [item.SegmentLabel for item in (liver, kidney, spot)] == ["liver", "kidney_left", "spot"]
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Anatomical Structure"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeMeaning == "Left"
    assert spot.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99MEDUNET"
    assert 'No coded term is known for the label "spot"' in caplog.text
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    assert liver.SegmentAlgorithmName == "Abdomen net"
    assert "0123456789ab" in liver.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion
    # sRGB (221, 130, 101) is about L 64, a 33, b 30 under D50.
    level, a, b = (value / 65535 for value in liver.RecommendedDisplayCIELabValue)
    assert (level * 100, a * 255 - 128, b * 255 - 128) == pytest.approx((63.5, 33, 30.5), abs=1.5)


def test_the_same_mask_of_the_same_images_is_the_same_object(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    def uids(segmentation: Segmentation, algorithm: Algorithm) -> tuple[str, ...]:
        dataset = pydicom.dcmread(write_seg(segmentation, tmp_path / "mask.dcm", algorithm))
        return dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.SegmentSequence[0].TrackingUID

    first = uids(segmented(), ALGORITHM)
    assert uids(segmented(), ALGORITHM) == first
    changed = mask.copy()
    changed[0, 0, 0] = 1
    for others in (uids(segmented(changed), ALGORITHM), uids(segmented(), Algorithm("Abdomen net", "f" * 64))):
        assert not set(others) & set(first)


def test_nested_labels_overlap(segmented: Make, mask: np.ndarray, nested: LabelMap, tmp_path: Path) -> None:
    array = np.minimum(mask, 2)
    segmentation = segmented(array, nested)
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM)
    found = by_source(path, segmentation)
    assert np.array_equal(found, truth(array.transpose(2, 1, 0), nested))
    assert (found[..., 0] & found[..., 1]).any()
    with pytest.raises(UsageError, match="cannot be a LABELMAP"):
        write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM, kind="LABELMAP")


def test_an_empty_mask_is_an_object_too(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    segmentation = segmented(np.zeros_like(mask))
    assert not by_source(write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM), segmentation).any()


@pytest.mark.parametrize(
    "missing",
    [
        *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
        *("StudyTime", "SliceThickness", "FrameOfReferenceUID", "SeriesNumber", "ReferringPhysicianName"),
    ],
)
def test_attributes_that_the_source_lacks_do_not_matter(
    segmented: Make, study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path, missing: str
) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        if missing in dataset:
            delattr(dataset, missing)
        dataset.save_as(path)
    segmentation = segmented()
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM)
    assert np.array_equal(by_source(path, segmentation), truth(mask.transpose(2, 1, 0), labels))


def test_values_that_break_the_rules_are_not_passed_on(segmented: Make, study: Path, tmp_path: Path) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientAge, dataset.SeriesNumber, dataset.DeidentificationMethod = "012Y", 3, ""
        dataset.save_as(path)
        path.write_bytes(path.read_bytes().replace(b"012Y", b"0Y  "))
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    assert "PatientAge" not in dataset
    assert "DeidentificationMethod" not in dataset
    assert dataset.PatientSex == "O"


def test_a_resampled_series_gets_its_mask_on_the_slices_that_came(
    segmented: Make, study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    files = sorted((study / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[4].unlink()
    segmentation = segmented(irregular="resample")
    assert segmentation.geometry.shape == mask.shape
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM)
    kept = np.delete(mask.transpose(2, 1, 0), 4, axis=0)
    assert np.array_equal(by_source(path, segmentation), truth(kept, labels))


def test_a_mask_on_another_grid_is_brought_to_the_slices(
    segmented: Make, grid: Geometry, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    """Flipped and permuted as other tools write them: exact."""
    segmentation = segmented()
    affine = grid.affine @ np.array([[0, -1, 0, 19], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    array = np.ascontiguousarray(mask[::-1].transpose(2, 0, 1))
    other = Segmentation(array, Geometry.from_affine(affine, array.shape), labels, segmentation.source)
    path = write_seg(other, tmp_path / "mask.dcm", ALGORITHM)
    assert np.array_equal(by_source(path, segmentation), truth(mask.transpose(2, 1, 0), labels))


def test_a_mask_without_dicom_images_is_refused(
    grid: Geometry, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    segmentation = Segmentation(mask, grid, labels)
    with pytest.raises(UsageError, match="is no DICOM series"):
        write_seg(segmentation, tmp_path / "mask.dcm")
    assert list(tmp_path.iterdir()) == []


def test_images_that_are_gone_are_told(segmented: Make, study: Path, tmp_path: Path) -> None:
    segmentation = segmented()
    next((study / CT_FOLDER).iterdir()).unlink()
    with pytest.raises(OutputError, match="cannot be read again"):
        write_seg(segmentation, tmp_path / "mask.dcm")
