"""DICOM SEG: read back by highdicom, frame by frame, on the source's slices, with what archives ask for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER
from medunet.errors import DicomError, OutputError, UsageError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.seg import write_seg
from medunet.export.dicom.sr import write_sr
from medunet.geometry import Geometry
from medunet.io.dicom import read_dicom
from medunet.io.selection import Selection
from medunet.io.volume import Segmentation
from medunet.labels import Coded, LabelMap, Term

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


def probabilities_of(mask: np.ndarray, labels: LabelMap) -> np.ndarray:
    """(C, *spatial): sure of the mask, unsure beside it; nothing of the last label."""
    noise = np.random.default_rng(1).random((len(labels), *mask.shape)).astype(np.float32)
    noise[:, :, :, :2] = 0
    noise[-1] = 0
    noise[1][mask == 1] = 1
    return noise


@pytest.mark.parametrize("on_disk", [False, True])
def test_probabilities_come_back_to_a_255th(
    segmented: Make, mask: np.ndarray, labels: LabelMap, tmp_path: Path, on_disk: bool
) -> None:
    segmentation, values = segmented(), probabilities_of(mask, labels)
    if on_disk:
        np.save(tmp_path / "values.npy", values)
        values = np.load(tmp_path / "values.npy", mmap_mode="r")
    path = write_seg(segmentation, tmp_path / "f.dcm", ALGORITHM, kind="FRACTIONAL", probabilities=values)
    dataset = pydicom.dcmread(path)
    assert (dataset.SegmentationType, dataset.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    assert (dataset.Rows, dataset.Columns, dataset.MaximumFractionalValue) == (16, 20, 255)
    numbers = [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in dataset[0x52009230]]
    assert sorted(set(numbers)) == [1, 2]  # frames of nothing are left out
    found = by_source(path, segmentation)
    assert np.abs(found - values[1:].transpose(3, 2, 1, 0)).max() <= 0.5 / 255 + 1e-6


def test_nested_probabilities_have_no_background(
    segmented: Make, mask: np.ndarray, nested: LabelMap, tmp_path: Path
) -> None:
    values = np.stack([(mask == 1), (mask == 2)]).astype(np.float32)
    segmentation = segmented(np.minimum(mask, 2), nested)
    path = write_seg(segmentation, tmp_path / "f.dcm", ALGORITHM, kind="FRACTIONAL", probabilities=values)
    assert np.array_equal(by_source(path, segmentation), values.transpose(3, 2, 1, 0))


def test_probabilities_of_a_resampled_series_lie_on_the_slices_that_came(
    segmented: Make, study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    files = sorted((study / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[4].unlink()
    segmentation = segmented(irregular="resample")
    values = np.stack([mask == index for index in range(len(labels))]).astype(np.float32)
    path = write_seg(segmentation, tmp_path / "f.dcm", ALGORITHM, kind="FRACTIONAL", probabilities=values)
    kept = np.delete(mask.transpose(2, 1, 0), 4, axis=0)
    assert np.abs(by_source(path, segmentation) - truth(kept, labels)).max() < 0.01


def test_a_mask_alone_has_no_probabilities(segmented: Make, mask: np.ndarray, labels: LabelMap, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a mask has none"):
        write_seg(segmented(), tmp_path / "f.dcm", kind="FRACTIONAL")
    segmentation = segmented()
    off = Geometry.plain(mask.shape, (1.0, 1.0, 1.0))
    other = Segmentation(mask, off, labels, segmentation.source)
    with pytest.raises(UsageError, match="on the grid that they were computed on"):
        write_seg(other, tmp_path / "f.dcm", kind="FRACTIONAL", probabilities=probabilities_of(mask, labels))
    assert not list(tmp_path.glob("*.dcm"))


def test_the_grid_of_a_series_with_a_gap_is_a_regular_volume(
    segmented: Make, study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    files = sorted((study / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[4].unlink()
    segmentation = segmented(irregular="resample")
    slices = write_seg(segmentation, tmp_path / "slices.dcm", ALGORITHM)
    grid = write_seg(segmentation, tmp_path / "grid.dcm", ALGORITHM, kind="GRID")
    volume = highdicom.seg.segread(grid).get_volume(combine_segments=True)
    to_ours = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ segmentation.geometry.affine) @ volume.affine
    where = np.argwhere(volume.array) @ to_ours[:3, :3].T + to_ours[:3, 3]
    assert np.allclose(where, np.rint(where), atol=1e-3)
    found = np.zeros_like(mask)
    found[tuple(np.rint(where).astype(int).T)] = volume.array[volume.array > 0]
    assert np.array_equal(found, mask)
    dataset = pydicom.dcmread(grid)
    assert all(not frame.DerivationImageSequence for frame in dataset.PerFrameFunctionalGroupsSequence)
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 8
    assert dataset.SOPInstanceUID != pydicom.dcmread(slices).SOPInstanceUID
    assert dataset.SeriesInstanceUID != pydicom.dcmread(slices).SeriesInstanceUID


def test_the_grid_of_regular_slices_is_no_other_object(segmented: Make, tmp_path: Path) -> None:
    one = pydicom.dcmread(write_seg(segmented(), tmp_path / "slices.dcm", ALGORITHM))
    other = pydicom.dcmread(write_seg(segmented(), tmp_path / "grid.dcm", ALGORITHM, kind="GRID"))
    assert one.SOPInstanceUID == other.SOPInstanceUID
    assert one.PixelData == other.PixelData


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
def test_several_multi_frame_files_get_one_object_that_refers_to_all(
    study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path, kind: str
) -> None:
    images = sorted(map(pydicom.dcmread, (study / CT_FOLDER).iterdir()), key=lambda image: image.InstanceNumber)
    series, uids = highdicom.UID(), (highdicom.UID(), highdicom.UID())
    (tmp_path / "enhanced").mkdir()
    for number, (part, uid) in enumerate(zip((images[:4], images[4:]), uids, strict=True)):
        whole = highdicom.legacy.LegacyConvertedEnhancedCTImage(part, series, 7, uid, number + 1)
        whole.save_as(tmp_path / "enhanced" / f"{number}.dcm")
    volume = read_dicom(tmp_path / "enhanced")
    segmentation = Segmentation(mask, volume.geometry, labels, volume.source)
    values = np.stack([mask == index for index in range(len(labels))]).astype(np.float32)
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM, kind=kind, probabilities=values)
    seg = highdicom.seg.segread(path)
    found = seg.get_volume(combine_segments=kind != "FRACTIONAL", rescale_fractional=False)
    assert (found.array > 0).sum() == (mask > 0).sum()
    assert {item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence} == {
        *uids
    }
    sources = {uid: pydicom.dcmread(tmp_path / "enhanced" / f"{number}.dcm") for number, uid in enumerate(uids)}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        groups = sources[source.ReferencedSOPInstanceUID].PerFrameFunctionalGroupsSequence
        position = groups[int(source.ReferencedFrameNumber) - 1].PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, frame.PlanePositionSequence[0].ImagePositionPatient, atol=1e-4)


@pytest.mark.parametrize("sex", ["FEMALE", "W"])
def test_a_sex_that_dicom_does_not_know_is_left_empty(segmented: Make, study: Path, tmp_path: Path, sex: str) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientSex = sex
        dataset.save_as(path)
    assert pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM)).PatientSex == ""


def test_volumes_of_one_multi_frame_file_get_a_segmentation_each(
    study: Path, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    """Two b-values at each position; the masks are equal, the objects are not."""
    images = sorted(map(pydicom.dcmread, (study / CT_FOLDER).iterdir()), key=lambda image: image.InstanceNumber)
    whole = highdicom.legacy.LegacyConvertedEnhancedCTImage(images, highdicom.UID(), 7, highdicom.UID(), 1)
    groups, pixels = list(whole.PerFrameFunctionalGroupsSequence), whole.PixelData
    size = len(pixels) // len(groups)
    both = [copy.deepcopy(group) for group in groups for _ in range(2)]
    for number, group in enumerate(both):
        diffusion = pydicom.Dataset()
        diffusion.DiffusionBValue = 1000.0 * (number % 2)
        group.MRDiffusionSequence = [diffusion]
    whole.NumberOfFrames, whole.PerFrameFunctionalGroupsSequence = len(both), both
    whole.PixelData = b"".join(2 * pixels[start : start + size] for start in range(0, len(pixels), size))
    whole.save_as(tmp_path / "both.dcm")
    written = []
    for number in (1, 2):
        volume = read_dicom(tmp_path / "both.dcm", Selection(volume=number))
        segmentation = Segmentation(mask, volume.geometry, labels, volume.source)
        for kind in ("BINARY", "FRACTIONAL"):
            values = np.stack([mask == index for index in range(len(labels))]).astype(np.float32)
            path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM, kind=kind, probabilities=values)
            seg = highdicom.seg.segread(path)
            found = seg.get_volume(combine_segments=kind == "BINARY", rescale_fractional=False)
            assert (found.array > 0).sum() == (mask > 0).sum()
            for frame in seg.PerFrameFunctionalGroupsSequence:
                (source,) = frame.DerivationImageSequence[0].SourceImageSequence
                group = both[int(source.ReferencedFrameNumber) - 1]
                assert group.MRDiffusionSequence[0].DiffusionBValue == 1000 * (number - 1)
                place = group.PlanePositionSequence[0].ImagePositionPatient
                assert np.allclose(place, frame.PlanePositionSequence[0].ImagePositionPatient, atol=1e-4)
            written.append(seg.SOPInstanceUID)
    assert len({*written}) == 4


def test_what_the_library_refuses_is_told_without_the_value(
    segmented: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ValueError("'DOE^JANE' is not a valid name.")

    monkeypatch.setattr(highdicom.seg, "Segmentation", refuse)
    with pytest.raises(DicomError, match=r"No DICOM segmentation .*: \.\.\. is not a valid name\. ") as caught:
        write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM)
    assert "JANE" not in str(caught.value)


def test_segments_say_where_a_lesion_lies_and_what_a_config_says(
    segmented: Make, mask: np.ndarray, tmp_path: Path
) -> None:
    labels = LabelMap.from_mapping({"background": 0, "kidney_left_cyst": 1, "spot": 2, "tumour": 3}).described(
        {"spot": Term(type=Coded("SCT", "4147007", "Mass"), region=Coded("SCT", "10200004", "Liver"))},
        {"spot": (255, 255, 255)},
    )
    dataset = pydicom.dcmread(write_seg(segmented(mask, labels), tmp_path / "mask.dcm", ALGORITHM))
    cyst, spot, tumour = dataset.SegmentSequence
    region = cyst.AnatomicRegionSequence[0]
    assert (region.CodeMeaning, region.AnatomicRegionModifierSequence[0].CodeMeaning) == ("Kidney", "Left")
    assert cyst.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Morphologically Abnormal Structure"
    assert spot.SegmentedPropertyTypeCodeSequence[0].CodeValue == "4147007"
    assert spot.AnatomicRegionSequence[0].CodeValue == "10200004"
    assert spot.RecommendedDisplayCIELabValue[0] == 65535
    assert "AnatomicRegionSequence" not in tumour


def test_the_model_is_named_as_equipment(segmented: Make, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    (item,) = dataset.ContributingEquipmentSequence
    assert item.ManufacturerModelName == "Abdomen net"
    assert ALGORITHM.digest in item.ContributionDescription


def test_a_method_of_deidentification_is_stated_where_it_must_be(segmented: Make, study: Path, tmp_path: Path) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientIdentityRemoved = "YES"
        dataset.save_as(path)
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    assert dataset.DeidentificationMethod == "Not stated by the images"


def test_names_in_other_letters_are_kept(segmented: Make, study: Path, tmp_path: Path) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SpecificCharacterSet, dataset.PatientName = ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"
        dataset.save_as(path)
    dataset = pydicom.dcmread(write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM))
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Yamada^Tarou=山田^太郎"


def test_other_probabilities_of_the_same_mask_are_another_object(segmented: Make, tmp_path: Path) -> None:
    segmentation = segmented()
    shape = (len(segmentation.labels), *segmentation.array.shape)
    found = []
    for number, share in enumerate((0.5, 0.5, 0.6)):
        chances = np.full(shape, share, np.float32)
        seg = tmp_path / f"{number}.dcm"
        write_seg(segmentation, seg, ALGORITHM, kind="FRACTIONAL", probabilities=chances)
        report = write_sr(segmentation, tmp_path / "sr.dcm", ALGORITHM, kind="FRACTIONAL", probabilities=chances)
        found.append(pydicom.dcmread(seg).SOPInstanceUID)
        evidence = pydicom.dcmread(report).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        named = {item.ReferencedSOPInstanceUID for series in evidence for item in series.ReferencedSOPSequence}
        assert found[-1] in named
    assert found[0] == found[1] != found[2]
