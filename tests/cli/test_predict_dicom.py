"""From an export to DICOM objects of its mask, through everything in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import UsageError
from medunet.geometry import Geometry
from medunet.inference.batch import Options, predict
from medunet.inference.predictor import Predictor
from medunet.io.dicom import scan
from medunet.io.selection import Selection

ALL = ("nifti", "nrrd", "dicom-seg", "rtstruct")
OBLIQUE = ((-0.8, 0.0, 0.6), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8))


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor(tiny_model, device="cpu", precision="fp32")


@pytest.fixture
def export(tiny_dataset: Path, tmp_path: Path) -> Path:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    geometry = Geometry(image.shape, (1.5, 1.5, 2.0), (5.0, -3.0, 9.0), OBLIQUE)
    return write_ct_export(np.asarray(image.dataobj), geometry, tmp_path / "patient.01")


def segments(path: Path, export: Path) -> np.ndarray:
    """(slices, rows, columns) of segment numbers, by the images that the frames refer to."""
    (series,) = (each for each in scan(export).series if each.verdict != "a localizer")
    seg = highdicom.seg.segread(path)
    found: np.ndarray = seg.get_pixels_by_source_instance(
        [item.sop_uid for item in series.slices],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    return found


def test_all_formats_in_one_go_say_the_same(predictor: Predictor, export: Path, tmp_path: Path) -> None:
    (report,) = predict(predictor, export, tmp_path / "out", Options(formats=ALL))
    assert report.status == "done", report.error
    names = [Path(output["path"]).name for output in report.outputs]
    stem = "patient.01_"
    assert names == [f"{stem}seg.nii.gz", f"{stem}seg.nrrd", f"{stem}seg.dcm", f"{stem}rtstruct.dcm"]
    mask = np.asarray(nibabel.load(tmp_path / "out" / names[0]).dataobj)
    found = segments(tmp_path / "out" / names[2], export)
    assert np.array_equal(np.asarray([0, 4, 205])[found].transpose(2, 1, 0), mask)
    assert set(np.unique(mask)) == {0, 4, 205}
    contours = pydicom.dcmread(tmp_path / "out" / names[3])
    assert [item.ROIName for item in contours.StructureSetROISequence] == ["organ", "core"]
    assert all(item.ContourSequence for item in contours.ROIContourSequence)
    assert contours.ManufacturerModelName == "tiny"
    again = predict(predictor, export, tmp_path / "out", Options(formats=ALL, skip_existing=True))
    assert [entry.status for entry in again] == ["skipped"]


def test_the_mask_of_another_volume_is_not_taken_for_that_of_this_one(
    predictor: Predictor, export: Path, tmp_path: Path
) -> None:
    for number, path in enumerate(sorted((export / CT_FOLDER).iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.EchoTime, dataset.SOPInstanceUID = 9.2, f"1.2.3.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(path.with_name(f"echo{number}"))

    def status(volume: int) -> str:
        options = Options(selection=Selection(volume=volume), skip_existing=True)
        (report,) = predict(predictor, export, tmp_path / "out", options)
        assert report.volume == volume
        return report.status

    assert [status(1), status(1), status(2), status(2), status(1)] == ["done", "skipped", "done", "skipped", "done"]


def test_objects_that_others_show_go_along(predictor: Predictor, export: Path, tmp_path: Path) -> None:
    names = ("dicom-seg-labelmap", "dicom-seg-fractional", "dicom-seg-grid", "dicom-sr", "dicom-preview")
    (report,) = predict(predictor, export, tmp_path / "out", Options(formats=names))
    assert report.status == "done", report.error
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    stem = "patient.01_"
    ends = ("fractional.dcm", "grid_seg.dcm", "labelmap.dcm", "preview.dcm", "sr.dcm")
    assert written == [*(stem + end for end in ends), "predict.json"]  # probabilities are not written as NIfTI
    label_map = pydicom.dcmread(tmp_path / "out" / f"{stem}labelmap.dcm")
    sr = highdicom.sr.srread(tmp_path / "out" / f"{stem}sr.dcm")
    groups = sr.content.get_volumetric_roi_measurement_groups()
    assert {group.referenced_segment.referenced_sop_instance_uid for group in groups} == {label_map.SOPInstanceUID}
    assert [group.get_measurements()[0].value for group in groups] == pytest.approx(
        [1000 * ml for ml in report.volumes_ml.values()], rel=1e-3
    )
    fractional = highdicom.seg.segread(tmp_path / "out" / f"{stem}fractional.dcm")
    truth = predictor(export, probabilities=True)
    assert truth.probabilities is not None
    series = truth.source.series
    assert series is not None
    found = fractional.get_pixels_by_source_instance(
        [item.sop_uid for item in series.slices], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    assert np.abs(found - truth.probabilities[1:].transpose(3, 2, 1, 0)).max() <= 0.5 / 255 + 1e-4


def test_the_ending_dcm_means_a_segmentation(predictor: Predictor, export: Path, tmp_path: Path) -> None:
    prediction = predictor(export)
    prediction.save(tmp_path / "mask.dcm")
    dataset = pydicom.dcmread(tmp_path / "mask.dcm")
    assert dataset.Modality == "SEG"
    assert dataset.SegmentSequence[0].SegmentAlgorithmName == "tiny"
    assert np.array_equal(segments(tmp_path / "mask.dcm", export).transpose(2, 1, 0), prediction.array)


@pytest.mark.parametrize(("wanted", "modality"), [("auto", "SEG"), ("dicom-seg", "SEG"), ("rtstruct", "RTSTRUCT")])
def test_a_single_file_takes_the_format_asked_for(
    cli: Any, tiny_model: Path, export: Path, tmp_path: Path, wanted: str, modality: str
) -> None:
    done = cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "mask.dcm", "-d", "cpu", "-f", wanted)
    assert (done.code, done.out) == (0, f"{tmp_path / 'mask.dcm'}\n")
    assert pydicom.dcmread(tmp_path / "mask.dcm").Modality == modality


def test_a_missing_slice_is_an_error_until_resampling_is_asked_for(
    cli: Any, tiny_model: Path, export: Path, tmp_path: Path
) -> None:
    files = sorted((export / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[7].unlink()
    call = ("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "out", "-d", "cpu", "-f", "nifti,dicom-seg")
    refused = cli(*call)
    assert refused.code == 1
    assert "1 slice is missing" in refused.err
    assert "--irregular resample" in refused.err
    assert "24x24x16 voxels of 1.5 x 1.5 x 2 mm" in refused.err
    done = cli(*call, "--irregular", "resample")
    assert done.code == 0
    mask = nibabel.load(tmp_path / "out" / "patient.01_seg.nii.gz")
    assert mask.shape == (24, 24, 16)
    found = segments(tmp_path / "out" / "patient.01_seg.dcm", export)
    kept = np.delete(np.asarray(mask.dataobj), 7, axis=2)
    assert np.array_equal(np.asarray([0, 4, 205])[found].transpose(2, 1, 0), kept)
    (case,) = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert any("resampled to 24x24x16" in warning for warning in case["warnings"])
    wrong = cli(*call, "--irregular", "guess")
    assert wrong.code == 2
    assert "The ways are refuse and resample." in wrong.err


def test_an_image_that_is_no_dicom_gives_no_dicom_mask(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path
) -> None:
    image = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    (report,) = predict(predictor, image, tmp_path / "out", Options(formats=("nifti", "rtstruct")))
    assert report.status == "failed"
    assert report.error.startswith("rtstruct refers to DICOM images")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predict.json"]
    with pytest.raises(UsageError, match="ending of the format rtstruct"):
        predict(predictor, image, tmp_path / "mask.nii.gz", Options(formats=("rtstruct",)))
