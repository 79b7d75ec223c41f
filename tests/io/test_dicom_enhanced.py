"""Enhanced multi-frame objects: every frame by its own functional groups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from medunet.errors import DicomError
from medunet.io.dicom import read_dicom, scan
from medunet.io.selection import Selection

SPACING, GAP = (0.5, 0.75), 2.0
STORED = np.random.default_rng(0).integers(0, 4000, (6, 7, 8)).astype("<u2")
"""(frames, rows, columns), lowest slice first."""


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def frame(index: int, slope: float = 1.0, kind: str = "MAGNITUDE", time: int = 1) -> Dataset:
    return item(
        PlanePositionSequence=[item(ImagePositionPatient=[-30, -20, -40 + GAP * index])],
        PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0, RescaleType="US")],
        FrameContentSequence=[item(TemporalPositionIndex=time, StackID="1", InStackPositionNumber=index + 1)],
        MRImageFrameTypeSequence=[
            item(FrameType=["ORIGINAL", "PRIMARY", "T1", "NONE"], ComplexImageComponent=kind),
        ],
    )


def write(path: Path, frames: list[Dataset], stored: np.ndarray, change: Callable[[Dataset], object] = id) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = EnhancedMRImageStorage, generate_uid(entropy_srcs=["instance"])
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.Modality, dataset.SeriesDescription = "MR", "T1 enhanced"
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames = stored.shape[1], stored.shape[2], len(stored)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=list(SPACING), SliceThickness=GAP)],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.PixelData = stored.tobytes()
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 0, 5, 1, 4, 3]])
def test_frames_are_put_where_their_positions_say(tmp_path: Path, order: list[int]) -> None:
    volume = read_dicom(write(tmp_path / "mr", [frame(i) for i in order], STORED[order]))
    assert np.array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing == (0.75, 0.5, 2.0)
    assert volume.geometry.origin == (30.0, 20.0, -40.0)
    assert volume.geometry.axcodes == "LPS"
    assert volume.source.files == (tmp_path / "mr",)


def test_each_frame_is_rescaled_by_its_own_slope(tmp_path: Path) -> None:
    slopes = 1.0 + 0.5 * np.arange(6)
    volume = read_dicom(write(tmp_path / "mr", [frame(i, slope=slopes[i]) for i in range(6)], STORED))
    assert np.allclose(volume.array[0], STORED.transpose(2, 1, 0) * slopes, rtol=1e-6)


def test_compressed_frames_are_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "mr", [frame(i) for i in (5, 4, 3, 2, 1, 0)], STORED[::-1])
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    assert np.array_equal(read_dicom(path).array[0], STORED.transpose(2, 1, 0))


def test_two_kinds_of_image_in_one_file_are_two_volumes(tmp_path: Path) -> None:
    frames = [frame(i) for i in range(6)] + [frame(i, slope=0.5, kind="PHASE") for i in range(6)]
    path = write(tmp_path / "mr", frames, np.concatenate([STORED, STORED[::-1]]))
    with pytest.raises(DicomError, match="holds 2 volumes"):
        read_dicom(path)
    assert np.array_equal(read_dicom(path, Selection("magnitude")).array[0], STORED.transpose(2, 1, 0))
    phase = read_dicom(path, Selection("phase"))
    assert np.array_equal(phase.array[0], STORED[::-1].transpose(2, 1, 0) * np.float32(0.5))


def test_time_points_are_two_volumes(tmp_path: Path) -> None:
    frames = [frame(i, time=t) for i in range(6) for t in (1, 2)]
    path = write(tmp_path / "mr", frames, np.repeat(STORED, 2, axis=0))
    assert [series.description for series in scan(path).series] == [
        "T1 enhanced (temporal position 1)",
        "T1 enhanced (temporal position 2)",
    ]
    with pytest.raises(DicomError, match="holds 2 volumes"):
        read_dicom(path, Selection("largest"))
    assert np.array_equal(read_dicom(path, Selection("position 2")).array[0], STORED.transpose(2, 1, 0))


def test_volumes_are_numbered_magnitude_first_and_by_time(tmp_path: Path) -> None:
    frames = [frame(i, kind=kind, time=time) for kind in ("PHASE", "MAGNITUDE") for time in (10, 2) for i in range(6)]
    stored = np.concatenate([STORED, STORED + 1, STORED + 2, STORED + 3])
    path = write(tmp_path / "mr", frames, stored)
    found = [int(read_dicom(path, Selection(volume=n)).array[0, 0, 0, 0]) - int(STORED[0, 0, 0]) for n in (1, 2, 3, 4)]
    assert found == [3, 2, 1, 0]


def test_a_contrast_agent_counts_in_the_frames_that_it_was_given_in(tmp_path: Path) -> None:
    frames = [frame(i, time=time) for time in (1, 2) for i in range(6)]
    for number, each in enumerate(frames):
        given = "NO" if number < 6 else "YES"
        each.ContrastBolusUsageSequence = [item(ContrastBolusAgentNumber=1, ContrastBolusAgentAdministered=given)]
    agent = [item(ContrastBolusAgentNumber=1)]
    path = write(
        tmp_path / "mr",
        frames,
        np.concatenate([STORED, STORED]),
        lambda dataset: setattr(dataset, "ContrastBolusAgentSequence", agent),
    )
    assert [series.contrast for series in scan(path).series] == [False, True]


def test_one_frame_per_file_is_one_volume(tmp_path: Path) -> None:
    for index in range(6):
        write(tmp_path / str(index * 5 % 6), [frame(index)], STORED[index : index + 1])
    volume = read_dicom(tmp_path)
    assert np.array_equal(volume.array[0], STORED.transpose(2, 1, 0))
    assert len(volume.source.files) == 6


def _drop(keyword: str) -> Callable[[Dataset], object]:
    return lambda dataset: delattr(dataset, keyword)


def _no_positions(dataset: Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence


def _localizer(dataset: Dataset) -> None:
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.MRImageFrameTypeSequence[0].FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop("PerFrameFunctionalGroupsSequence"), "6 frames in one file without functional groups"),
        (_drop("SharedFunctionalGroupsSequence"), r"no Image Orientation \(Patient\), Pixel Spacing"),
        (_no_positions, r"no Image Position \(Patient\)"),
        (_localizer, "a localizer"),
        (lambda d: d.PerFrameFunctionalGroupsSequence.pop(), "it states 6 frames and describes 5"),
        (lambda d: setattr(d, "NumberOfFrames", 60), "of the 6720 bytes"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-20]), "it holds 652 of the 672 bytes"),
    ],
)
def test_frames_of_unknown_place_are_refused(tmp_path: Path, change: Callable[[Dataset], object], reason: str) -> None:
    with pytest.raises(DicomError, match=reason):
        read_dicom(write(tmp_path / "mr", [frame(i) for i in range(6)], STORED, change))


def test_a_missing_frame_is_a_missing_slice(tmp_path: Path) -> None:
    keep = [0, 1, 3, 4, 5]
    with pytest.raises(DicomError, match="1 slice is missing"):
        read_dicom(write(tmp_path / "mr", [frame(i) for i in keep], STORED[keep]))
