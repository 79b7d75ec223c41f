"""Exports that hold more than one volume, or things that are none: what is chosen, what is left out and told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medunet.demo.dicom_export import CT_FOLDER, LOCALIZER_FOLDER, write_ct_export
from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry
from medunet.io.dicom import choose, is_dicom, read_dicom, scan
from medunet.io.selection import Selection

LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
GRID = Geometry((8, 7, 6), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), LPS)
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)
SMALL = Geometry((4, 5, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), LPS)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Volume and localizer in folders of their own."""
    return write_ct_export(VALUES, GRID, tmp_path / "study")


def in_order(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def repeat(folder: Path, name: str, change: Callable[[Dataset], object]) -> None:
    """Write every file of the folder once more, changed, with pixels of its own."""
    for path in in_order(folder):
        copy = folder / f"{name}_{path.name}"
        shutil.copy(path, copy)
        edit(copy, change)
        edit(copy, lambda dataset: setattr(dataset, "SOPInstanceUID", generate_uid()))
        edit(copy, lambda dataset: setattr(dataset, "PixelData", bytes(len(dataset.PixelData))))


def write_object(path: Path, sop_class: str, modality: str, **values: object) -> None:
    """A DICOM object of another kind."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality = modality
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)


def assert_exact(folder: Path, select: str | None = None) -> tuple[str, ...]:
    volume = read_dicom(folder, Selection(select))
    assert volume.geometry.difference(GRID, tolerance_mm=1e-6) == ""
    assert np.array_equal(volume.array[0], VALUES)
    return volume.source.notes


# --------------------------------------------------------------------------------------------- beside the volume


def test_a_localizer_is_left_out_and_told(study: Path) -> None:
    assert any('"Scout"' in note and "a localizer" in note for note in assert_exact(study))


def test_a_localizer_in_the_same_folder_and_series_is_left_out(study: Path) -> None:
    uid = pydicom.dcmread(in_order(study / CT_FOLDER)[0]).SeriesInstanceUID
    scout = study / LOCALIZER_FOLDER / "IM000001"
    edit(scout, lambda dataset: setattr(dataset, "SeriesInstanceUID", uid))
    scout.rename(study / CT_FOLDER / "000")
    assert_exact(study)
    assert_exact(study, uid)


@pytest.mark.parametrize(
    ("sop_class", "modality", "kind"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "SEG", "Segmentation Storage"),
        ("1.2.840.10008.5.1.4.1.1.66.7", "SEG", "no scanner image"),
        ("1.2.840.10008.5.1.4.1.1.88.22", "SR", "Enhanced SR Storage"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "RT Structure Set Storage"),
        ("1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE", "RT Dose Storage"),
        ("1.2.840.10008.5.1.4.1.1.7", "OT", "Secondary Capture"),
        ("1.2.840.10008.5.1.4.1.1.104.1", "DOC", "Encapsulated PDF Storage"),
    ],
)
def test_other_objects_are_left_out_and_told(study: Path, sop_class: str, modality: str, kind: str) -> None:
    pixels = {"Rows": 8, "Columns": 8, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(64)}
    write_object(study / CT_FOLDER / "AAA", sop_class, modality, **pixels)
    assert any(kind in note for note in assert_exact(study))


def test_files_that_are_not_dicom_are_left_out_and_told(study: Path) -> None:
    (study / CT_FOLDER / "Thumbs.db").write_bytes(os.urandom(5000))
    (study / CT_FOLDER / "report.dcm").write_text("This is a report. " * 50)
    (study / "empty").touch()
    (study / "dangling").symlink_to(study / "nowhere")
    notes = assert_exact(study)
    assert any("2 more were left out: not DICOM" in note for note in notes)


def test_named_pipes_are_not_opened(study: Path) -> None:
    os.mkfifo(study / CT_FOLDER / "AAA")
    assert_exact(study)


def test_names_endings_and_folders_decide_nothing(study: Path) -> None:
    for number, path in enumerate(in_order(study / CT_FOLDER)):
        target = study / f"deep/{number % 2}/er/{number * 7919 % 97}.{('jpg', 'txt', 'nii')[number % 3]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert_exact(study)


def test_a_half_file_removes_itself_and_not_its_series(study: Path) -> None:
    files = in_order(study / CT_FOLDER)
    raw = files[2].read_bytes()
    (study / CT_FOLDER / "half").write_bytes(raw[: len(raw) - 40])
    (study / CT_FOLDER / "header").write_bytes(raw[:400])
    notes = assert_exact(study)
    assert any("half was left out: it holds 72 of the 112 bytes" in note for note in notes)
    assert any("header was left out" in note for note in notes)


def test_a_half_file_inside_the_stack_is_a_missing_slice(study: Path) -> None:
    path = in_order(study / CT_FOLDER)[2]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(study)


def test_fewer_images_than_the_series_states_are_told(study: Path) -> None:
    for path in in_order(study / CT_FOLDER)[:5]:
        edit(path, lambda dataset: setattr(dataset, "NumberOfSeriesRelatedInstances", 6))
    in_order(study / CT_FOLDER)[5].unlink()
    assert "The series states 6 images; 5 are here." in read_dicom(study).source.notes


# ------------------------------------------------------------------------------------------------ several series


@pytest.fixture
def two(study: Path, tmp_path: Path) -> Path:
    """A second, smaller volume beside the first."""
    values = np.zeros(SMALL.shape, dtype=np.int16)
    write_ct_export(values, SMALL, study / "more", seed=7, localizer=False, description="Lung sharp")
    return study


def test_several_volumes_are_listed_and_none_is_guessed(two: Path) -> None:
    with pytest.raises(DicomError) as caught:
        read_dicom(two)
    assert caught.value.message == "2 series fit, and one is needed."
    head, *rows = caught.value.hint.splitlines()[1:]
    assert head.split() == ["series", "UID", "description", "slices", "spacing"]
    assert [row.split()[0] for row in rows] == [series.uid for series in scan(two).series if series.plausible]
    assert rows[0].endswith("Abdomen 1.0  6       0.75 x 0.5 x 2 mm")
    assert "--series" in caught.value.hint


def test_a_series_is_chosen_by_uid_text_or_size(two: Path) -> None:
    large, small, _ = scan(two).series
    assert_exact(two, large.uid)
    assert_exact(two, "ABDOMEN")
    assert_exact(two, "largest")
    assert read_dicom(two, Selection(small.uid)).geometry.shape == SMALL.shape
    assert read_dicom(two, Selection("sharp")).geometry.shape == SMALL.shape


def test_an_unknown_name_lists_what_is_there(two: Path) -> None:
    with pytest.raises(DicomError, match=r'No series has the UID "Thorax" or that text.*\n(.*\n)*.*Lung sharp'):
        read_dicom(two, Selection("Thorax"))


def test_a_chosen_series_that_is_no_volume_says_why(two: Path) -> None:
    with pytest.raises(DicomError, match="a localizer"):
        read_dicom(two, Selection("scout"))


def test_equally_large_series_are_no_largest(study: Path) -> None:
    write_ct_export(VALUES, GRID, study / "more", seed=7, description="Other kernel")
    with pytest.raises(DicomError, match="2 series fit"):
        read_dicom(study, Selection("largest"))
    assert_exact(study, "kernel")


def test_an_exact_description_wins_over_text_that_holds_it(study: Path) -> None:
    write_ct_export(VALUES + 1, GRID, study / "more", seed=7, description="Abdomen 1.0 sharp")
    assert_exact(study, "abdomen 1.0")


def test_the_small_series_is_not_read_in_place_of_a_large_broken_one(two: Path) -> None:
    in_order(two / CT_FOLDER)[2].unlink()
    with pytest.raises(DicomError, match=r'largest series, "Abdomen 1.0" .* 1 slice is missing'):
        read_dicom(two)
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(two, Selection("largest"))
    assert read_dicom(two, Selection("Lung")).geometry.shape == SMALL.shape


def test_without_a_volume_every_series_gets_its_reason(two: Path) -> None:
    in_order(two / CT_FOLDER)[2].unlink()
    in_order(two / "more" / CT_FOLDER)[1].unlink()
    in_order(two / "more" / CT_FOLDER)[0].unlink()
    edit(in_order(two / "more" / CT_FOLDER)[0], lambda dataset: delattr(dataset, "SliceThickness"))
    with pytest.raises(
        DicomError, match=r"(?s)None of the 3 series.*Abdomen.*missing.*Scout.*localizer.*Lung.*thickness"
    ):
        read_dicom(two)


def test_a_volume_goes_before_single_slices(study: Path) -> None:
    single = Geometry((30, 30, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), LPS)
    write_ct_export(np.zeros(single.shape, np.int16), single, study / "more", seed=7, localizer=False)
    assert_exact(study)


# ----------------------------------------------------------------------------------- one series, several volumes


def test_time_points_are_listed_and_can_be_chosen(study: Path) -> None:
    folder = study / CT_FOLDER
    for path in in_order(folder):
        edit(path, lambda dataset: setattr(dataset, "TemporalPositionIdentifier", 1))
    repeat(folder, "later", lambda dataset: setattr(dataset, "TemporalPositionIdentifier", 2))
    with pytest.raises(DicomError, match=r"(?s)The series holds 2 volumes.*temporal position 1.*temporal position 2"):
        read_dicom(study)
    assert_exact(study, "temporal position 1")
    assert not (read_dicom(study, Selection("temporal position 2")).array + 1024).any()


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("EchoTime", "4.9", "7.4"),
        ("DiffusionBValue", 0.0, 1000.0),
        ("AcquisitionNumber", 1, 2),
        ("ConvolutionKernel", "B30f", "B70f"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"]),
        ("FrameOfReferenceUID", "1.2.3", "1.2.4"),
        ("PatientID", "A", "B"),
    ],
)
def test_images_that_differ_by_kind_are_never_stacked(study: Path, keyword: str, one: object, other: object) -> None:
    folder = study / CT_FOLDER
    for path in in_order(folder):
        edit(path, lambda dataset: setattr(dataset, keyword, one))
    repeat(folder, "other", lambda dataset: setattr(dataset, keyword, other))
    volumes = [series for series in scan(study).series if series.plausible]
    assert [series.shape for series in volumes] == [GRID.shape, GRID.shape]
    assert len({series.description for series in volumes}) == 2
    with pytest.raises(DicomError, match="holds 2 volumes"):
        read_dicom(study, Selection(volumes[0].uid))


def test_two_traits_part_a_series_into_four_volumes(study: Path) -> None:
    folder = study / CT_FOLDER
    files = in_order(folder)
    for echo in (1, 2):
        for phase in (1, 2):
            for path in files:
                copy = folder / f"{echo}{phase}{path.name}"
                shutil.copy(path, copy)
                edit(copy, lambda d, e=echo, p=phase: setattr(d, "EchoTime", e) or setattr(d, "TriggerTime", p))
    for path in files:
        path.unlink()
    found = {series.description for series in scan(study).series if series.plausible}
    assert found == {f"Abdomen 1.0 (echo time {e}, trigger time {p})" for e in (1, 2) for p in (1, 2)}


def test_the_same_number_written_differently_parts_nothing(study: Path) -> None:
    for number, path in enumerate(in_order(study / CT_FOLDER)):
        edit(path, lambda dataset, number=number: setattr(dataset, "EchoTime", ("4.9", "4.90")[number % 2]))
        shutil.copy(path, path.with_name(f"copy_{path.name}"))
    assert_exact(study)


def test_acquisition_numbers_that_run_along_the_stack_part_nothing(study: Path) -> None:
    for number, path in enumerate(in_order(study / CT_FOLDER)):
        edit(path, lambda dataset, number=number: setattr(dataset, "AcquisitionNumber", number // 2))
    assert_exact(study)


def test_a_trait_that_leaves_holes_does_not_make_a_small_volume(study: Path) -> None:
    files = in_order(study / CT_FOLDER)
    for name, index in (("a", 1), ("b", 4)):
        copy = study / CT_FOLDER / name
        shutil.copy(files[index], copy)
        edit(copy, lambda d: setattr(d, "AcquisitionNumber", 9) or setattr(d, "PixelData", bytes(len(d.PixelData))))
    with pytest.raises(DicomError, match="2 images lie at some of the 6 positions"):
        read_dicom(study)


def test_images_that_nothing_tells_apart_are_refused(study: Path) -> None:
    repeat(study / CT_FOLDER, "other", lambda _: None)
    with pytest.raises(DicomError, match="2 images lie at each of the 6 positions"):
        read_dicom(study)


def test_orientations_and_pixel_spacings_are_parted(study: Path) -> None:
    files = in_order(study / CT_FOLDER)
    for path in files[:2]:
        edit(path, lambda dataset: setattr(dataset, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1]))
    for path in files[4:]:
        edit(path, lambda dataset: setattr(dataset, "PixelSpacing", [1, 1]))
    parts = [series.description for series in scan(study).series if "Abdomen" in series.description]
    assert sorted(parts) == [
        "Abdomen 1.0 (axial, part 1)",
        "Abdomen 1.0 (axial, part 2)",
        "Abdomen 1.0 (coronal)",
    ]
    with pytest.raises(DicomError):
        read_dicom(study)


def test_rounded_orientations_are_one(study: Path) -> None:
    cosine = [0.99999, 0.0004, 0, -0.0004, 0.99999, 0]
    for path in in_order(study / CT_FOLDER)[::2]:
        edit(path, lambda dataset: setattr(dataset, "ImageOrientationPatient", cosine))
    assert read_dicom(study).geometry.shape == GRID.shape


# ------------------------------------------------------------------------------------------------------ scanning


def test_paths_without_dicom_are_errors_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no file or folder"):
        scan(tmp_path / "nowhere")
    with pytest.raises(DicomError, match="no DICOM image"):
        read_dicom(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(DicomError, match=r"no DICOM image.*a\.txt was left out: not DICOM"):
        read_dicom(tmp_path)
    with pytest.raises(DicomError, match="no DICOM image"):
        choose(())


def test_one_file_is_read_as_itself(study: Path) -> None:
    volume = read_dicom(in_order(study / CT_FOLDER)[3])
    assert np.array_equal(volume.array[0, ..., 0], VALUES[..., 3])


def test_bytes_decide_what_is_dicom(study: Path, tmp_path: Path) -> None:
    good = in_order(study / CT_FOLDER)[0]
    text = tmp_path / "text.dcm"
    text.write_text("DICOM " * 100)
    assert is_dicom(good)
    assert not is_dicom(text)
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "nowhere")


def test_scan_tells_uid_size_and_spacing_without_reading_pixels(study: Path) -> None:
    first = pydicom.dcmread(in_order(study / CT_FOLDER)[0])
    volume = scan(study).series[0]
    assert (volume.uid, volume.study_uid) == (first.SeriesInstanceUID, first.StudyInstanceUID)
    assert (volume.modality, volume.description) == ("CT", "Abdomen 1.0")
    assert (volume.shape, volume.spacing) == (GRID.shape, GRID.spacing)
    assert volume.files == tuple(in_order(study / CT_FOLDER))
    assert "DEMO" not in repr(volume)


def test_control_characters_of_headers_do_not_reach_the_terminal(study: Path) -> None:
    for path in in_order(study / CT_FOLDER):
        edit(path, lambda dataset: setattr(dataset, "SeriesDescription", "evil\x1b[31m\r\nname"))
    assert scan(study).series[0].description == "evil [31m name"


@pytest.mark.parametrize(
    ("first", "said"), [(0, ""), (1, "run from 2 to 6, so 1 image may"), (2, "run from 3 to 6, so 2")]
)
def test_instance_numbers_tell_of_missing_ends(study: Path, first: int, said: str) -> None:
    """Positions cannot."""
    files = sorted((study / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    for path in files[:first]:
        path.unlink()
    notes = [note for note in read_dicom(study).source.notes if "Instance numbers" in note]
    assert len(notes) == bool(said)
    assert all(said in note for note in notes)


def test_instance_numbers_that_count_something_else_tell_nothing(study: Path) -> None:
    for number, path in enumerate(in_order(study / CT_FOLDER)):
        edit(path, lambda dataset, number=number: setattr(dataset, "InstanceNumber", 100 + 7 * number))
    assert not any("Instance numbers" in note for note in assert_exact(study))
