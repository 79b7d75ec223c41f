"""Images and masks from one kind of file to another: nothing moves, nothing is lost, and what cannot be is told."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import DataError, MedunetError, UsageError
from medunet.geometry import Geometry
from medunet.interop.convert import convert, convert_volumes
from medunet.io.dicom import read_dicom
from medunet.io.dicom.segments import read_seg
from medunet.io.files import read_image
from medunet.io.selection import Selection

OBLIQUE = ((-0.8, 0.0, 0.6), (0.0, -1.0, 0.0), (0.6, 0.0, 0.8))
GRID = Geometry((14, 12, 8), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), OBLIQUE)
IMAGES = (".nii", ".nii.gz", ".nrrd", ".mha")


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)


@pytest.fixture
def series(values: np.ndarray, tmp_path: Path) -> Path:
    return write_ct_export(values, GRID, tmp_path / "export")


@pytest.fixture
def mask() -> np.ndarray:
    array = np.zeros(GRID.shape, np.uint8)
    array[2:9, 3:9, 2:6] = 1
    array[4:6, 4:6, 3:5] = 2
    array[12, 10, 7] = 7
    return array


@pytest.fixture
def mask_file(mask: np.ndarray, tmp_path: Path) -> Path:
    """On the grid of the series, its first two axes turned round as dcm2niix and others write it."""
    turned = np.eye(4)
    turned[0, 0], turned[0, 3], turned[1, 1], turned[1, 3] = -1, GRID.shape[0] - 1, -1, GRID.shape[1] - 1
    nibabel.save(nibabel.Nifti1Image(mask[::-1, ::-1], GRID.affine @ turned), tmp_path / "mask.nii.gz")
    return tmp_path / "mask.nii.gz"


@pytest.mark.parametrize("ending", IMAGES)
def test_a_series_becomes_a_file(series: Path, values: np.ndarray, tmp_path: Path, ending: str) -> None:
    path = convert(series, tmp_path / f"image{ending}")
    found = read_image(path)
    assert np.array_equal(found.array[0], values)
    assert found.array.dtype == np.int16
    assert found.geometry.difference(GRID, tolerance_mm=1e-4) == ""


@pytest.mark.parametrize("ending", IMAGES)
def test_files_become_one_another(tmp_path: Path, ending: str) -> None:
    values = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, GRID.affine), tmp_path / "in.nii")
    found = read_image(convert(tmp_path / "in.nii", tmp_path / f"out{ending}"))
    assert np.array_equal(found.array[0], values)
    assert np.allclose(found.geometry.affine, GRID.affine, atol=1e-4)


def test_a_colour_picture_keeps_its_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    loaded = SimpleITK.ReadImage(str(convert(tmp_path / "in.png", tmp_path / "out.mha")))
    assert np.array_equal(SimpleITK.GetArrayFromImage(loaded), pixels)


@pytest.mark.parametrize("wanted", ["dicom-seg", None])
def test_a_mask_goes_to_dicom_and_comes_back(
    series: Path, mask: np.ndarray, mask_file: Path, tmp_path: Path, wanted: str | None
) -> None:
    labels = "liver=1,tumour=2,spot=7"
    convert(mask_file, tmp_path / "mask.dcm", reference=series, labels=labels, wanted=wanted)
    dataset = pydicom.dcmread(tmp_path / "mask.dcm")
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["liver", "tumour", "spot"]
    assert dataset.SegmentSequence[0].SegmentAlgorithmType == "MANUAL"
    convert(tmp_path / "mask.dcm", tmp_path / "back.nii.gz", reference=series)
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert np.array_equal(back.dataobj, np.asarray([0, 1, 2, 0, 0, 0, 0, 3])[mask])
    assert np.allclose(back.affine, GRID.affine, atol=1e-4)
    alone = convert(tmp_path / "mask.dcm", tmp_path / "alone.nrrd")
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(alone))).sum() == np.asarray(back.dataobj).sum()


def test_a_mask_becomes_contours(series: Path, mask_file: Path, tmp_path: Path) -> None:
    convert(mask_file, tmp_path / "rt.dcm", reference=series, wanted="rtstruct")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [item.ROIName for item in dataset.StructureSetROISequence] == ["label 1", "label 2", "label 7"]
    assert len(dataset.ROIContourSequence[0].ContourSequence) == 4


def test_contours_come_back_to_the_same_mask(series: Path, mask: np.ndarray, mask_file: Path, tmp_path: Path) -> None:
    convert(mask_file, tmp_path / "rt.dcm", reference=series, wanted="rtstruct", labels="liver=1,tumour=2,spot=7")
    convert(tmp_path / "rt.dcm", tmp_path / "back.nii.gz", reference=series)
    back = nibabel.load(tmp_path / "back.nii.gz")
    assert np.array_equal(back.dataobj, np.asarray([0, 1, 2, 0, 0, 0, 0, 3])[mask])
    convert(tmp_path / "rt.dcm", tmp_path / "seg.dcm", reference=series)
    assert read_seg(tmp_path / "seg.dcm").labels.names == ("background", "liver", "tumour", "spot")
    with pytest.raises(UsageError, match="--reference SERIES"):
        convert(tmp_path / "rt.dcm", tmp_path / "back.nii.gz")


def test_labels_that_are_left_out_are_background(series: Path, mask_file: Path, tmp_path: Path) -> None:
    convert(mask_file, tmp_path / "mask.dcm", reference=series, labels={"both": [1, 2]})
    found = read_seg(tmp_path / "mask.dcm")
    assert found.labels.names == ("background", "both")
    assert (found.array == 1).sum() == 7 * 6 * 4


def test_a_mask_is_put_on_the_grid_of_another_image(mask: np.ndarray, mask_file: Path, tmp_path: Path) -> None:
    """Twice as fine: every voxel of the mask becomes eight."""
    affine = GRID.affine @ np.array([[0.5, 0, 0, -0.25], [0, 0.5, 0, -0.25], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])
    fine = np.zeros([2 * n for n in GRID.shape], np.int16)
    nibabel.save(nibabel.Nifti1Image(fine, affine), tmp_path / "fine.nii.gz")
    convert(mask_file, tmp_path / "on_fine.nii.gz", reference=tmp_path / "fine.nii.gz")
    found = np.asarray(nibabel.load(tmp_path / "on_fine.nii.gz").dataobj)
    assert found.shape == fine.shape
    inner = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    assert (found == inner).mean() > 0.98
    assert (found[9:11, 9:11, 7:9] == 2).all()


def test_an_uneven_series_is_resampled_only_if_asked(series: Path, values: np.ndarray, tmp_path: Path) -> None:
    files = sorted((series / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    files[3].unlink()
    with pytest.raises(DataError, match="--irregular resample"):
        convert(series / CT_FOLDER, tmp_path / "image.nii.gz")
    convert(series, tmp_path / "image.nii.gz", selection=Selection(irregular="resample"))
    found = np.asarray(nibabel.load(tmp_path / "image.nii.gz").dataobj)
    assert np.array_equal(np.delete(found, 3, axis=2), np.delete(values, 3, axis=2))


def test_a_mask_of_somewhere_else_is_told(
    series: Path, mask: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    affine = GRID.affine.copy()
    affine[:3, 3] += 500
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "far.nii.gz")
    convert(tmp_path / "far.nii.gz", tmp_path / "mask.dcm", reference=series)
    assert "Nothing of the mask lies within" in caplog.text
    assert not read_seg(tmp_path / "mask.dcm").array.any()


def damaged(folder: Path, mask: Path) -> Path:
    path = folder / "cut.nii.gz"
    path.write_bytes(mask.read_bytes()[:100])
    return path


@pytest.mark.parametrize(
    ("source", "output", "reference", "reason"),
    [
        ("mask", "x.jpg", None, "no format has that ending"),
        ("mask", "x.png", None, "png holds masks of pictures"),
        ("mask", "x.dcm", None, "--reference SERIES"),
        ("mask", "x.dcm", "mask", "--reference SERIES"),
        ("series", "x.dcm", "series", "holds DICOM images, and a mask is needed"),
        ("none", "x.nii.gz", None, "no file"),
        ("mask", "x.dcm", "none", "no file or folder .*none"),
        ("cut", "x.nrrd", None, "cannot be read as NIfTI"),
        ("fractions", "x.dcm", "series", "fractions"),
    ],
)
def test_what_cannot_be_converted_is_told_and_leaves_nothing(
    series: Path, mask_file: Path, tmp_path: Path, source: str, output: str, reference: str | None, reason: str
) -> None:
    fractions = tmp_path / "fractions.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.full(GRID.shape, 0.5, np.float32), GRID.affine), fractions)
    paths = {
        "mask": mask_file,
        "series": series,
        "none": tmp_path / "none.nii.gz",
        "cut": damaged(tmp_path, mask_file),
        "fractions": fractions,
    }
    before = set(tmp_path.iterdir())
    with pytest.raises(MedunetError, match=reason):
        convert(paths[source], tmp_path / output, reference=None if reference is None else paths[reference])
    assert set(tmp_path.iterdir()) == before


def test_a_path_that_does_not_exist_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no file or folder"):
        convert(tmp_path / "none", tmp_path / "x.nii.gz")
    with pytest.raises(UsageError, match="There is no file or folder"):
        convert_volumes(tmp_path / "none", tmp_path / "x.nii.gz")


def test_an_unknown_value_of_complete_labels_is_an_error(series: Path, mask_file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="which no label names"):
        convert(mask_file, tmp_path / "mask.dcm", reference=series, labels="background=0,liver=1")
    with pytest.raises(UsageError, match="is no output format"):
        convert(mask_file, tmp_path / "mask.dcm", reference=series, wanted="jpeg")
    assert read_dicom(series).array.any()


def test_terms_of_a_config_are_honoured(series: Path, mask_file: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text(
        "labels: {background: 0, liver: 1, tumour: 2, spot: 7}\n"
        "terms:\n"
        "  tumour: {region: [SCT, '10200004', Liver]}\n"
        "  spot: {type: [SCT, '4147007', Mass], colour: '#ffffff'}\n"
    )
    convert(mask_file, tmp_path / "mask.dcm", reference=series, labels=tmp_path / "labels.yaml")
    _, tumour, spot = pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence
    assert tumour.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert spot.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"
    assert spot.RecommendedDisplayCIELabValue[0] == 65535
    (tmp_path / "labels.yaml").write_text("labels: {background: 0, liver: 1}\nterms: {liver: {type: Liver}}\n")
    with pytest.raises(UsageError, match='"terms" of'):
        convert(mask_file, tmp_path / "mask.dcm", reference=series, labels=tmp_path / "labels.yaml")


@pytest.mark.parametrize(
    ("wanted", "modality"),
    [("dicom-seg-labelmap", "SEG"), ("dicom-seg-grid", "SEG"), ("dicom-sr", "SR"), ("dicom-preview", "OT")],
)
def test_a_mask_becomes_any_dicom_object(
    series: Path, mask_file: Path, tmp_path: Path, wanted: str, modality: str
) -> None:
    convert(mask_file, tmp_path / "mask.dcm", reference=series, wanted=wanted)
    assert pydicom.dcmread(tmp_path / "mask.dcm").Modality == modality


def test_a_mask_does_not_become_probabilities(series: Path, mask_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds the probabilities of a model, and a mask has none"):
        convert(mask_file, tmp_path / "mask.dcm", reference=series, wanted="dicom-seg-fractional")
    assert not (tmp_path / "mask.dcm").exists()
