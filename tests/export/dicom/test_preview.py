"""The preview: what a viewer shows of it, with which window, and nothing of the patient in its pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.preview import write_preview
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]


def change(study: Path, **values: object) -> None:
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path)


def flat(study: Path, stored: int) -> None:
    """All pixels of the study hold one value."""
    for path in (study / CT_FOLDER).iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = np.full((dataset.Rows, dataset.Columns), stored, np.uint16).tobytes()
        dataset.save_as(path)


def test_it_is_one_colour_image_of_the_study(segmented: Make, tmp_path: Path, labels: LabelMap) -> None:
    segmentation = segmented()
    dataset = pydicom.dcmread(write_preview(segmentation, tmp_path / "preview.dcm", ALGORITHM))
    assert dataset.SOPClassUID.name == "Multi-frame True Color Secondary Capture Image Storage"
    frames = dataset.pixel_array
    assert frames.shape == (1 + 9, dataset.Rows, dataset.Columns, 3)  # the rod runs through all nine slices
    assert list(dataset.PageNumberVector) == list(range(1, 11))
    assert segmentation.source.series is not None
    first = pydicom.dcmread(segmentation.source.series.files[0])
    assert (dataset.StudyInstanceUID, dataset.PatientName) == (first.StudyInstanceUID, first.PatientName)
    assert dataset.SeriesInstanceUID != first.SeriesInstanceUID
    sources = {item.ReferencedSOPInstanceUID for item in dataset.SourceImageSequence}
    assert sources == {item.sop_uid for item in segmentation.source.series.slices}
    for label in labels.foreground[:2]:
        assert (frames == label.colour).all(axis=-1).any()
    assert dataset.BurnedInAnnotation == "NO"


def test_nothing_of_the_patient_is_in_the_pixels(segmented: Make, study: Path, tmp_path: Path) -> None:
    one = pydicom.dcmread(write_preview(segmented(), tmp_path / "one.dcm", ALGORITHM))
    change(study, PatientName="Someone^Else", PatientID="4711", PatientBirthDate="19010101", StudyDate="19990101")
    other = pydicom.dcmread(write_preview(segmented(), tmp_path / "other.dcm", ALGORITHM))
    assert one.PatientID != other.PatientID
    assert one.PixelData == other.PixelData


@pytest.mark.parametrize(
    ("header", "grey"),
    [
        ({"WindowCenter": 50, "WindowWidth": 100}, 51),  # 20 HU between 0 and 100
        ({"WindowCenter": [50, 300], "WindowWidth": [100, 2000]}, 51),
        ({"WindowCenter": 50, "WindowWidth": 100, "PhotometricInterpretation": "MONOCHROME1"}, 204),
    ],
)
def test_a_ct_is_shown_as_its_header_says(
    segmented: Make, study: Path, mask: np.ndarray, tmp_path: Path, header: dict[str, object], grey: int
) -> None:
    flat(study, 1024 + 20)
    change(study, **header)
    frames = pydicom.dcmread(write_preview(segmented(np.zeros_like(mask)), tmp_path / "p.dcm")).pixel_array
    assert (frames[-1] == grey).all(axis=-1).mean() > 0.4


def test_a_window_that_is_no_window_costs_nothing(segmented: Make, study: Path, tmp_path: Path) -> None:
    for values in ({"WindowCenter": 50, "WindowWidth": 0}, {"WindowCenter": 50, "WindowWidth": None}):
        change(study, **values)
        assert write_preview(segmented(), tmp_path / "p.dcm").exists()


def test_a_replay_is_the_same_object(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    def uids(segmentation: Segmentation) -> tuple[str, str]:
        dataset = pydicom.dcmread(write_preview(segmentation, tmp_path / "p.dcm", ALGORITHM))
        return dataset.SOPInstanceUID, dataset.SeriesInstanceUID

    assert uids(segmented()) == uids(segmented())
    assert not set(uids(segmented())) & set(uids(segmented(np.zeros_like(mask))))


def test_a_mask_on_another_grid_is_brought_to_the_slices(
    segmented: Make, mask: np.ndarray, labels: LabelMap, tmp_path: Path
) -> None:
    segmentation = segmented()
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = mask.shape[0] - 1
    geometry = type(segmentation.geometry).from_affine(segmentation.geometry.affine @ turned, mask.shape)
    other = Segmentation(np.ascontiguousarray(mask[::-1]), geometry, labels, segmentation.source)
    one = pydicom.dcmread(write_preview(segmentation, tmp_path / "one.dcm"))
    assert one.PixelData == pydicom.dcmread(write_preview(other, tmp_path / "other.dcm")).PixelData
