"""Slices with gaps or a tilt: resampled where that is wanted, and labels brought back to every one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import DicomError, UsageError
from medunet.geometry import RAS_FROM_LPS, Geometry
from medunet.io.describe.path import describe
from medunet.io.dicom import choose, read_dicom, scan
from medunet.io.selection import Selection
from medunet.io.volume import Volume

RESAMPLE = Selection(irregular="resample")
COSINE, SINE = np.cos(0.3), np.sin(0.3)
DIRECTIONS = {
    "axial": ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)),
    "sagittal": ((0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)),
    "oblique": ((-COSINE, 0.0, SINE), (0.0, -1.0, 0.0), (SINE, 0.0, COSINE)),
}


def ramp(points: np.ndarray) -> np.ndarray:
    """A whole number that is linear in LPS millimetres, so that linear interpolation hits it."""
    return 4 * points[..., 0] - 3 * points[..., 1] + 2 * points[..., 2]


def grid(direction: str) -> Geometry:
    return Geometry((12, 10, 9), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), DIRECTIONS[direction])


def export(folder: Path, direction: str, shifts: list[float], tilt: float = 0.0) -> Path:
    """A series whose slice k lies `shifts[k]` mm along the normal and `tilt` times that along its columns."""
    geometry = grid(direction)
    write_ct_export(np.zeros(geometry.shape, np.int16), geometry, folder, localizer=False)
    files = sorted((folder / CT_FOLDER).iterdir(), key=lambda path: int(pydicom.dcmread(path).InstanceNumber))
    for path, along in zip(files, [*shifts, *[None] * 99], strict=False):
        if along is None:
            path.unlink()
            continue
        dataset = pydicom.dcmread(path)
        row, column = np.asarray(dataset.ImageOrientationPatient, float).reshape(2, 3)
        start = np.asarray(pydicom.dcmread(files[0]).ImagePositionPatient if along else dataset.ImagePositionPatient)
        place(dataset, start.astype(float) + along * np.cross(row, column) + tilt * along * column, row, column)
        dataset.save_as(path)
    return folder


def place(dataset: Dataset, position: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
    dataset.ImagePositionPatient = [f"{value:.8f}"[:16] for value in position]
    down, right = (float(value) for value in dataset.PixelSpacing)
    rows, columns = np.indices((dataset.Rows, dataset.Columns))
    points = position + rows[..., None] * down * column + columns[..., None] * right * row
    dataset.RescaleIntercept, dataset.RescaleSlope = 0, "0.001"
    dataset.BitsAllocated = dataset.BitsStored = 32
    dataset.HighBit, dataset.PixelRepresentation = 31, 1
    dataset.PixelData = np.rint(ramp(points) * 1000).astype("<i4").tobytes()


def expected(volume: Volume) -> np.ndarray:
    indices = np.indices(volume.geometry.shape).reshape(3, -1)
    affine = RAS_FROM_LPS @ volume.geometry.affine
    return ramp((affine[:3, :3] @ indices + affine[:3, 3:]).T).reshape(volume.geometry.shape)


CASES = {
    "a missing slice": ([0, 2, 4, 8, 10], 0.0, 6, 2.0),
    "several missing": ([0, 2, 8, 10, 12, 16], 0.0, 9, 2.0),
    "uneven": ([0, 1.1, 4, 5.2, 8.8], 0.0, 9, 1.1),
    "tilted": ([0, 2, 4, 6], 0.35, 4, 2.0),
    "tilted the other way": ([0, 2, 4, 6], -0.25, 4, 2.0),
    "tilted and uneven": ([0, 1.5, 4, 5.7], 0.3, 5, 1.425),
}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_values_are_interpolated_where_they_belong(tmp_path: Path, direction: str, case: str) -> None:
    shifts, tilt, slices, gap = CASES[case]
    folder = export(tmp_path / "study", direction, shifts, tilt)
    with pytest.raises(DicomError, match="--irregular resample"):
        read_dicom(folder)
    volume = read_dicom(folder, RESAMPLE)
    extra = int(np.ceil(abs(tilt) * shifts[-1] / 0.5 - 1e-3))
    assert volume.geometry.shape == (12, 10 + extra, slices)
    assert volume.geometry.spacing == pytest.approx((0.75, 0.5, gap))
    inside = abs(volume.array[0] - expected(volume)) < 2e-3
    assert inside.all() if not tilt else inside[:, extra:-extra].all()
    assert "resampled to" in volume.source.notes[0]


def test_what_no_slice_reaches_gets_the_smallest_value(tmp_path: Path) -> None:
    volume = read_dicom(export(tmp_path / "study", "axial", [0, 2, 4, 6], 0.5), RESAMPLE)
    assert volume.geometry.shape == (12, 16, 4)
    corner = volume.array[0][:, -6:, 0]  # the first slice ends there
    assert (corner == volume.array.min()).all()
    assert np.isfinite(volume.array).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("case", CASES)
def test_labels_come_back_to_the_slices_that_came(tmp_path: Path, direction: str, case: str) -> None:
    shifts, tilt, _, _ = CASES[case]
    volume = read_dicom(export(tmp_path / "study", direction, shifts, tilt), RESAMPLE)
    series = volume.source.series
    assert series is not None
    assert series.upright is not None
    labels = (expected(volume) > 0).astype(np.uint8)
    assert len(series.slices) == len(shifts)
    for number, item in enumerate(series.slices):
        assert item.plane is not None
        rows, columns = np.indices((item.rows, item.columns))
        points = np.asarray(item.plane.position) + rows[..., None] * 0.5 * np.asarray(item.plane.column)
        points = points + columns[..., None] * 0.75 * np.asarray(item.plane.row)
        found = series.upright.labels(labels, number, (item.rows, item.columns))
        sure = abs(ramp(points)) > 8  # farther from the border than a voxel
        assert np.array_equal(found[sure], (ramp(points) > 0)[sure])
        assert sure.any()


@pytest.mark.parametrize(
    ("shifts", "tilt", "reason"),
    [([0, 2, 4, 6, 20], 0.0, "a gap of 14 mm is more than 4 times"), ([0, 2, 4, 6], 3.0, "shifted by up to 36 pixels")],
)
def test_what_would_be_guesswork_is_refused_either_way(
    tmp_path: Path, shifts: list[float], tilt: float, reason: str
) -> None:
    folder = export(tmp_path / "study", "axial", shifts, tilt)
    for selection in (Selection(), RESAMPLE):
        with pytest.raises(DicomError, match=reason):
            read_dicom(folder, selection)


def test_an_irregular_series_can_be_chosen_beside_a_regular_one(tmp_path: Path) -> None:
    export(tmp_path / "both/one", "axial", [0, 2, 4, 8, 10])
    write_ct_export(np.zeros((4, 5, 3), np.int16), Geometry.plain((4, 5, 3)), tmp_path / "both/two", seed=7)
    series = scan(tmp_path / "both").series
    with pytest.raises(DicomError, match="largest series"):
        choose(series)
    assert choose(series, Selection("largest", "resample")).shape == (12, 10, 6)
    with pytest.raises(DicomError, match="2 series fit"):
        choose(series, RESAMPLE)


def test_info_names_the_grid_and_the_option(tmp_path: Path) -> None:
    found = describe(export(tmp_path / "study", "axial", [0, 2, 4, 8, 10]))
    assert not found.healthy
    assert any("12x10x6 voxels of 0.75 x 0.5 x 2 mm, add --irregular resample" in note for note in found.notes)


def test_regular_series_are_as_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1000, 1500, (8, 7, 6)).astype(np.int16)
    write_ct_export(values, Geometry.plain((8, 7, 6)), tmp_path / "study")
    volume = read_dicom(tmp_path / "study", RESAMPLE)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array[0], values)


@pytest.mark.parametrize("make", [lambda: Selection(irregular="guess"), lambda: Selection("x", "")])
def test_another_policy_is_an_error(make: Callable[[], Selection]) -> None:
    with pytest.raises(UsageError, match="refuse and resample"):
        make()
