"""Which volume is meant: rules of a configuration, numbers of the volumes of one series, colours."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medunet.config.series import SeriesRules
from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import DicomError, UsageError
from medunet.geometry import Geometry
from medunet.io.case import Case
from medunet.io.check import check_cases
from medunet.io.describe.path import describe
from medunet.io.dicom import choose_volumes, read_dicom, scan
from medunet.io.dicom.rules import is_kernel, occurs
from medunet.io.selection import Selection
from medunet.labels import LabelMap

LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
GRID = Geometry((6, 5, 6), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), LPS)
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)


def edit(folder: Path, change: Callable[[Dataset], object]) -> None:
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)


def put(**values: Any) -> Callable[[Dataset], object]:
    return lambda dataset: [setattr(dataset, keyword, value) for keyword, value in values.items()]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three reconstructions of one size."""
    for number, (description, kernel, agent) in enumerate(
        [("CT portal 1mm", "B30f", "Omnipaque"), ("CT native", "B30f", "NONE"), ("CT portal lung", "B70f", "Omnipaque")]
    ):
        folder = tmp_path / "study" / str(number)
        write_ct_export(VALUES + number, GRID, folder, seed=number, description=description, localizer=number == 0)
        edit(folder / CT_FOLDER, put(ConvolutionKernel=kernel, ContrastBolusAgent=agent, StudyInstanceUID="1.2.3"))
    return tmp_path / "study"


def first_value(study: Path, **which: Any) -> int:
    return int(read_dicom(study, Selection(**which)).array[0, 0, 0, 0]) - int(VALUES[0, 0, 0])


# --------------------------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize(
    ("rules", "which"),
    [
        ({"description": "native"}, 1),
        ({"description": "PORTAL|venous", "kernel": "b30*"}, 0),
        ({"contrast": False}, 1),
        ({"contrast": True, "kernel": "B7?f", "modality": ["CT"], "slices": [6, 6], "spacing": [2.0, 2.0]}, 2),
    ],
)
def test_the_series_that_fits_all_rules_is_read(study: Path, rules: dict[str, Any], which: int) -> None:
    assert first_value(study, rules=SeriesRules.model_validate_json(json.dumps(rules))) == which


def test_where_no_series_fits_each_is_listed_with_the_rule_that_it_breaks(study: Path) -> None:
    rules = SeriesRules(modality=("MR",), description="portal", slices=(20, 2000), spacing=(0.0, 1.0), kernel="B30*")
    with pytest.raises(DicomError) as caught:
        read_dicom(study, Selection(rules=rules))
    assert caught.value.message == "No series is of the kind that the rules (data.series) want."
    lines = caught.value.hint.splitlines()
    assert len(lines) == 5
    native = next(line for line in lines if "CT native" in line)
    for said in ("its modality is CT, not MR", 'nothing of "portal"', "6 slices are not 20 to 2000", "2 mm apart"):
        assert said in native
    assert 'its kernel is "B70f", not "B30*"' in next(line for line in lines if "lung" in line)
    assert "--series" in caught.value.hint


def test_a_name_overrides_the_rules_and_largest_does_not(study: Path) -> None:
    rules = SeriesRules(description="native")
    assert first_value(study, rules=rules, series="portal lung") == 2
    assert first_value(study, rules=rules, series="largest") == 1


def test_of_several_that_fit_the_rules_none_is_guessed(study: Path) -> None:
    with pytest.raises(DicomError, match="2 series fit"):
        read_dicom(study, Selection(rules=SeriesRules(description="portal")))


def test_a_series_that_fits_and_is_broken_is_not_passed_over(study: Path) -> None:
    files = sorted((study / "0" / CT_FOLDER).iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    files[1].unlink()
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(study, Selection(rules=SeriesRules(kernel="B30f", contrast=True, spacing=(1.0, 3.0))))


def test_the_hashed_uid_is_a_name_too(study: Path) -> None:
    found = next(series for series in scan(study).series if series.description == "CT native")
    assert len(found.id) == 12
    assert first_value(study, series=found.id) == 1


@given(st.text("ab*|?[]^$\\(.", max_size=20), st.text("abc[", max_size=20))
def test_any_pattern_is_an_answer_and_no_error(pattern: str, text: str) -> None:
    assert occurs(pattern, text) in (True, False)
    assert is_kernel(pattern, text) in (True, False)


def test_no_pattern_takes_long() -> None:
    start = time.perf_counter()
    assert not occurs("*a" * 100, "a" * 63 + "b")
    assert not is_kernel("*a" * 60 + "c", "a" * 64)
    assert time.perf_counter() - start < 1


def test_brackets_and_dots_mean_themselves() -> None:
    assert occurs("[x]", "T1 [X] ax")
    assert not occurs("[x]", "T1 x ax")
    assert not is_kernel("B.0f", "B30f")
    assert is_kernel("Br40*", "Br40d\\3")


def test_rules_choose_among_the_series_of_training_cases(study: Path, tmp_path: Path) -> None:
    import nibabel

    image = read_dicom(study, Selection("native"))
    mask = np.zeros(GRID.shape, dtype=np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    nibabel.save(nibabel.Nifti1Image(mask, image.geometry.affine), tmp_path / "mask.nii.gz")
    labels = LabelMap.from_mapping({"background": (0,), "organ": (1,)})
    case = Case("a", (study,), tmp_path / "mask.nii.gz", selection=Selection(rules=SeriesRules(contrast=False)))
    (found,) = check_cases([case], labels, channels=1)
    assert found.maximum == (float(image.array.max()),)


# ------------------------------------------------------------------------------------------- volumes of a series


@pytest.fixture
def times(tmp_path: Path) -> Path:
    """Three time points in one series; their files are not in the order of time."""
    folder = tmp_path / "times"
    write_ct_export(VALUES, GRID, folder, localizer=True)
    files = list((folder / CT_FOLDER).iterdir())
    for name, point in (("c", 2), ("a", 10), ("b", 1)):
        for path in files:
            dataset = pydicom.dcmread(path)
            dataset.SOPInstanceUID, dataset.TemporalPositionIdentifier = generate_uid(), point
            dataset.PixelData = (dataset.pixel_array + point).astype("<i2").tobytes()
            dataset.save_as(path.with_name(f"{name}{path.name}"))
    for path in files:
        path.unlink()
    return folder


def test_volumes_are_numbered_in_the_order_of_time(times: Path) -> None:
    found = [series for series in scan(times).series if series.plausible]
    assert [series.number for series in found] == [1, 2, 3]
    assert [series.description for series in found] == [f"Abdomen 1.0 (temporal position {n})" for n in (1, 2, 10)]
    assert [first_value(times, volume=number) for number in (1, 2, 3)] == [1, 2, 10]


def test_a_scout_in_the_same_series_has_no_number(times: Path) -> None:
    scout = next(path for path in times.rglob("*") if path.is_file() and path.parent.name != CT_FOLDER)
    uid = pydicom.dcmread(next((times / CT_FOLDER).iterdir())).SeriesInstanceUID
    edit(scout.parent, put(SeriesInstanceUID=uid))
    assert {series.number for series in scan(times).series if not series.plausible} == {0}
    assert first_value(times, volume=3) == 10


def test_a_number_that_does_not_exist_lists_those_that_do(times: Path) -> None:
    with pytest.raises(DicomError, match=r"(?s)There is no volume 4.*volume +description.*temporal position 10"):
        read_dicom(times, Selection(volume=4))


def test_without_a_number_the_table_shows_them(times: Path) -> None:
    with pytest.raises(DicomError) as caught:
        read_dicom(times)
    head, *rows = caught.value.hint.splitlines()[1:]
    assert head.split()[:3] == ["series", "UID", "volume"]
    assert [row.split()[1] for row in rows] == ["1", "2", "3"]
    assert "--volume" in caught.value.hint
    with pytest.raises(DicomError, match="one is needed"):
        read_dicom(times, Selection(volume="all"))


def test_all_volumes_are_those_of_one_series_broken_ones_too(times: Path) -> None:
    for path in (times / CT_FOLDER).iterdir():
        if path.name.startswith("b"):
            path.unlink()
    edit(
        times / CT_FOLDER,
        lambda d: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "MP"[d.TemporalPositionIdentifier > 9]]),
    )
    phase = sorted((times / CT_FOLDER).glob("a*"), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    phase[1].unlink()
    found = choose_volumes(scan(times).series, Selection(volume="all"))
    assert [(each.number, each.plausible) for each in found] == [(1, True), (2, False)]
    assert first_value(times, volume=1) == 2
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(times, Selection(volume=2))


def test_acquisition_times_part_what_nothing_else_does(times: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.AcquisitionTime = f"1200{dataset.TemporalPositionIdentifier:02d}"
        del dataset.TemporalPositionIdentifier

    edit(times / CT_FOLDER, change)
    assert [first_value(times, volume=number) for number in (1, 2, 3)] == [1, 2, 10]


def test_fewer_images_than_a_series_of_several_volumes_states_are_told(times: Path) -> None:
    edit(times / CT_FOLDER, put(NumberOfSeriesRelatedInstances=18))
    assert not any("states" in note for note in read_dicom(times, Selection(volume=1)).source.notes)
    edit(times / CT_FOLDER, put(NumberOfSeriesRelatedInstances=19))
    assert "The series states 19 images; 18 are here." in read_dicom(times, Selection(volume=1)).source.notes


@pytest.mark.parametrize("volume", [0, -1, True, "two", "1"])
def test_what_is_no_number_of_a_volume_is_refused(volume: Any) -> None:
    with pytest.raises(UsageError, match="no volume of a series"):
        Selection(volume=volume)


def test_info_shows_the_numbers_and_tells_programs_more(times: Path) -> None:
    result = describe(times)
    shown = result.for_people()["series"]
    assert list(shown[0]) == [
        *("uid", "modality", "description", "volume", "shape"),
        "spacing_mm",
        "orientation",
        "verdict",
    ]
    assert [row["volume"] for row in shown] == [1, 2, 3, None]
    assert {"id", "study_uid", "kernel", "contrast", "files"} <= result.to_json()["series"][0].keys()
    assert any("--volume" in note for note in result.notes)


def test_a_dicomdir_stands_for_its_folder(times: Path) -> None:
    directory = Dataset()
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    directory.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    directory.FileSetID = "CD"
    directory.save_as(times / "DICOMDIR", enforce_file_format=True)
    assert scan(times / "DICOMDIR") == scan(times)
    assert first_value(times / "DICOMDIR", volume=2) == 2


# -------------------------------------------------------------------------------------------------------- colour


@pytest.fixture
def coloured(tmp_path: Path) -> Path:
    """A secondary capture in colour that says where its slices lie."""
    folder = tmp_path / "coloured"
    write_ct_export(VALUES, GRID, folder, localizer=False, description="Fused")

    def change(dataset: Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        dataset.ImageType, dataset.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        pixels = np.zeros((dataset.Rows, dataset.Columns, 3), dtype=np.uint8)
        pixels[0, 0], pixels[0, 1], pixels[0, 2], pixels[0, 3] = (255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)
        dataset.PixelData = pixels.tobytes()

    edit(folder / CT_FOLDER, change)
    return folder


LUMA = np.asarray([0.299 * 255, 0.587 * 255, 0.114 * 255, 77.0])
GREY = Selection(colour="grey")


def test_colours_are_refused_with_the_remedy_and_read_as_luma_where_asked(coloured: Path) -> None:
    with pytest.raises(DicomError, match="no stack of slices") as caught:
        read_dicom(coloured)
    assert "--colour grey" in caught.value.hint
    volume = read_dicom(coloured, GREY)
    assert volume.geometry.difference(GRID, tolerance_mm=1e-6) == ""
    assert np.allclose(volume.array[0, :4, 0, 0], LUMA, atol=1e-4)
    assert volume.array[0, 3, 0, 0] == 77
    assert any("luma" in note for note in volume.source.notes)


@pytest.mark.parametrize("kind", ["YBR_FULL", "YBR_FULL_422"])
def test_luma_of_ybr_is_that_of_its_colours(coloured: Path, kind: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PhotometricInterpretation = kind
        if kind == "YBR_FULL":
            pixels = np.zeros((dataset.Rows, dataset.Columns, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1:] = 90, 128
        else:
            pixels = np.tile(np.asarray([90, 90, 128, 128], np.uint8), dataset.Rows * dataset.Columns // 2)
        dataset.PixelData = pixels.tobytes()

    edit(coloured / CT_FOLDER, change)
    assert np.allclose(read_dicom(coloured, GREY).array, 90, atol=1)


def test_a_palette_is_looked_up(coloured: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "PALETTE COLOR"
        del dataset.PlanarConfiguration
        for number, colour in enumerate(("Red", "Green", "Blue")):
            dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 8])
            setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes([0, 10 * (number + 1)] + [0] * 254))
        dataset.PixelData = bytes([1] * (dataset.Rows * dataset.Columns))

    edit(coloured / CT_FOLDER, change)
    assert np.allclose(read_dicom(coloured, GREY).array, 0.299 * 10 + 0.587 * 20 + 0.114 * 30, atol=0.01)


def test_colours_are_never_chosen_beside_a_volume(coloured: Path) -> None:
    write_ct_export(VALUES[:, :, :3], Geometry((6, 5, 3), *_rest()), coloured / "ct", seed=5, localizer=False)
    for selection in (GREY, Selection("largest", colour="grey")):
        assert read_dicom(coloured, selection).geometry.shape == (6, 5, 3)
    assert read_dicom(coloured, Selection("fused", colour="grey")).geometry.shape == GRID.shape


def _rest() -> tuple[Any, ...]:
    return GRID.spacing, GRID.origin, GRID.direction


def test_colours_without_positions_stay_refused(coloured: Path) -> None:
    edit(coloured / CT_FOLDER, lambda dataset: delattr(dataset, "ImagePositionPatient"))
    with pytest.raises(DicomError) as caught:
        read_dicom(coloured, GREY)
    assert "--colour" not in str(caught.value)


def test_a_missing_slice_of_colours_is_told(coloured: Path) -> None:
    files = sorted((coloured / CT_FOLDER).iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    shutil.move(files[1], coloured.parent / "away")
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(coloured, GREY)


def test_another_way_of_colours_is_refused() -> None:
    with pytest.raises(UsageError, match="refuse and grey"):
        Selection(colour="red")
