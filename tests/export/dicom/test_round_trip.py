"""Segmentations that are written as DICOM SEG, by us and by others, and read again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from medunet.demo.dicom_export import CT_FOLDER
from medunet.errors import DataError, DicomError, MedunetError, ReadError
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.seg import write_seg
from medunet.io.dicom.segments import is_seg, read_seg
from medunet.io.sampling import labels_at
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]


def on_grid(found: Segmentation, like: Segmentation) -> np.ndarray:
    """Indices of `found` at the voxels of `like`."""
    there = np.linalg.inv(found.geometry.affine) @ like.geometry.affine
    where = np.indices(like.geometry.shape).reshape(3, -1)
    result: np.ndarray = labels_at(found.array, there[:3, :3] @ where + there[:3, 3:]).reshape(like.geometry.shape)
    return result


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "GRID"])
def test_what_we_write_we_read(segmented: Make, mask: np.ndarray, tmp_path: Path, kind: str) -> None:
    segmentation = segmented()
    found = read_seg(write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM, kind=kind))
    assert found.labels.names == ("background", "liver", "kidney_left", "spot")
    assert np.array_equal(on_grid(found, segmentation), mask)
    assert found.geometry.spacing == pytest.approx(segmentation.geometry.spacing)


def test_nested_segments_are_nested_labels(segmented: Make, mask: np.ndarray, nested: LabelMap, tmp_path: Path) -> None:
    array = np.minimum(mask, 2)
    segmentation = segmented(array, nested)
    found = read_seg(write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM))
    assert found.labels.nested
    assert np.array_equal(found.labels.membership, nested.membership)
    assert np.array_equal(on_grid(found, segmentation), array)


def foreign(study: Path, path: Path, pixels: np.ndarray, kind: str, names: tuple[str, ...], **more: object) -> Path:
    """A segmentation as highdicom alone writes it; pixels (slices, rows, columns, segments)."""
    images = sorted(map(pydicom.dcmread, (study / CT_FOLDER).iterdir()), key=lambda image: image.InstanceNumber)
    described = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(names, start=1)
    ]
    uids = highdicom.UID(), 7, highdicom.UID(), 1
    made = highdicom.seg.Segmentation(images, pixels, kind, described, *uids, "m", "n", "1", "2", **more)
    made.save_as(path)
    return path


def test_half_of_a_fraction_belongs_to_the_segment(study: Path, segmented: Make, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((9, 16, 20, 1)).astype(np.float32)
    path = foreign(study, tmp_path / "mask.dcm", pixels, "FRACTIONAL", ("haze",), max_fractional_value=200)
    stored = np.around(pixels[..., 0] * 200)
    assert np.array_equal(on_grid(read_seg(path), segmented()), (stored >= 100).transpose(2, 1, 0))


def test_segments_that_cross_are_refused(study: Path, tmp_path: Path) -> None:
    pixels = np.zeros((9, 16, 20, 2), np.uint8)
    pixels[2, 2:6, 2:6, 0] = pixels[2, 4:8, 4:8, 1] = 1
    path = foreign(study, tmp_path / "mask.dcm", pixels, "BINARY", ("one", "two"))
    with pytest.raises(DataError, match=r"one and two of mask\.dcm overlap, and neither lies inside"):
        read_seg(path)


def test_segments_of_one_name_get_their_numbers(study: Path, tmp_path: Path) -> None:
    pixels = np.zeros((9, 16, 20, 3), np.uint8)
    pixels[2, 2:6, 2:6, 0] = pixels[3, 4:8, 4:8, 1] = 1
    found = read_seg(foreign(study, tmp_path / "mask.dcm", pixels, "BINARY", ("cyst", "cyst", "background")))
    assert found.labels.to_mapping() == {"background": 0, "cyst 1": 1, "cyst 2": 2, "background 3": 3}
    assert np.bincount(found.array.ravel()).tolist()[1:] == [16, 16]


def test_slices_that_were_left_out_are_background(segmented: Make, mask: np.ndarray, tmp_path: Path) -> None:
    array = np.zeros_like(mask)
    array[3:6, 3:6, [0, 5, 8]] = 1
    segmentation = segmented(array)
    path = write_seg(segmentation, tmp_path / "mask.dcm", ALGORITHM)
    assert len(pydicom.dcmread(path).PerFrameFunctionalGroupsSequence) == 3
    found = read_seg(path)
    assert np.array_equal(on_grid(found, segmentation), array)


def without_segment(dataset: pydicom.Dataset) -> None:
    del dataset.SegmentSequence[0]


def tilted(dataset: pydicom.Dataset) -> None:
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        x, y, z = frame.PlanePositionSequence[0].ImagePositionPatient
        frame.PlanePositionSequence[0].ImagePositionPatient = [x, y + number, z]


def truncated(dataset: pydicom.Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:20]


def no_frames(dataset: pydicom.Dataset) -> None:
    dataset.NumberOfFrames = 3


@pytest.mark.parametrize(
    ("damage", "error", "reason"),
    [
        (without_segment, DicomError, "holds pixels of segment 1, which it does not describe"),
        (tilted, DicomError, "lie on no regular grid"),
        (truncated, ReadError, "it holds 20 of the"),
        (no_frames, ReadError, "bytes where 3 x 16 x 20 pixels need 120"),
    ],
)
def test_damage_is_told(
    segmented: Make,
    tmp_path: Path,
    damage: Callable[[pydicom.Dataset], None],
    error: type[MedunetError],
    reason: str,
) -> None:
    path = write_seg(segmented(), tmp_path / "mask.dcm", ALGORITHM)
    dataset = pydicom.dcmread(path)
    damage(dataset)
    dataset.save_as(path)
    with pytest.raises(error, match=reason):
        read_seg(path)


def test_other_files_are_no_segmentations(study: Path, tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM at all " * 20)
    for path in (tmp_path / "text.dcm", tmp_path / "none.dcm", next((study / CT_FOLDER).iterdir())):
        assert not is_seg(path)
        with pytest.raises(DicomError, match="no DICOM segmentation"):
            read_seg(path)
