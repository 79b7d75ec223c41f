"""Exports of real scanners beside the checkout: exactly what their headers say, or a refusal; never a wrong volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry
from medunet.io.dicom import Series, read_dicom, read_series, scan
from medunet.io.selection import Selection

FOLDER = Path(__file__).resolve().parents[2] / "../shared/data/dicom"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real scans are not beside this checkout"),
]
EXACT = {
    "ct_philips_study_noext",
    "dicomdir_cd",
    "enh_ct_2f",
    "enh_mr_hyperfine_nonsq",
    "enh_mr_philips",
    "enh_mr_siemens_xa30",
    "legacy_enh_ct_3f",
    "mr_j2k",
    "mr_jpegll",
    "mr_rle",
    "pet_slope_nonsquare",
}
"""Exports with one regular volume, which has to be found without being named."""
REFUSED = {
    "ct_ge_gap4": "1 slice is missing: a gap of 10 mm where 5 mm is usual",
    "ct_ge_tilt_varspace": r"tilted by 18.50 degrees .*gaps between slices run from 1.081 to 6.999 mm",
    "ct_notavolume4": "4 different images lie at one position",
    "fragmented_jpeg": "2 series fit",
    "hostile": "no DICOM image",
    "mono1_nonsquare_dx": "Digital X-Ray Image Storage - For Presentation is no stack of slices",
    "mr_12bit": "a mosaic",
    "mr_philips_4d": r"(?s)holds 3 volumes.*temporal position 3",
    "mr_philips_orient_mixed4": r"(?s)holds 2 volumes.*axial.*sagittal",
    "mr_rgb_j2k": "Secondary Capture Image Storage is no stack of slices",
    "siemens_sr_in_folder": "no DICOM image",
    "transfer_syntaxes_mosaic": "a mosaic",
}
SINGLE_SLICE = {"misc_single", "seg_ct_highdicom"}
"""Loose files, one of them a CT slice of stated thickness: a volume of one slice."""


def expected_cases() -> dict[str, list[dict[str, Any]]]:
    path = FOLDER / "expected.json"
    return json.loads(path.read_text()) if path.is_file() else {}


CASES = expected_cases()


def is_one_volume(truth: dict[str, Any]) -> bool:
    return bool(truth.get("regular")) and truth.get("repeats") == 1.0 and truth["modality"] != "SEG"


def assert_as_stated(array: np.ndarray, geometry: Geometry, truth: dict[str, Any]) -> None:
    (rows, columns), affine = truth["matrix_sizes"][0], np.asarray(truth["affine_ras_ijk"])
    assert geometry.shape == (columns, rows, truth["unique_positions"])
    stated = Geometry.from_affine(affine, geometry.shape)
    assert geometry.difference(stated, tolerance_mm=0.01) == ""
    values = array.astype(np.float64)
    assert values.min() == pytest.approx(truth["min"], rel=1e-6)
    assert values.max() == pytest.approx(truth["max"], rel=1e-6)
    assert values.mean() == pytest.approx(truth["mean"], rel=1e-5, abs=1e-4)
    assert np.abs(values).sum() == pytest.approx(truth["sum_abs"], rel=1e-6)


def test_every_case_is_accounted_for() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == EXACT | set(REFUSED) | SINGLE_SLICE
    assert len(folders) == 25


@pytest.mark.parametrize("case", sorted(EXACT))
def test_the_one_volume_of_an_export_is_found_and_read_exactly(case: str) -> None:
    (truth,) = [series for series in CASES[case] if is_one_volume(series)]
    volume = read_dicom(FOLDER / case)
    assert volume.source.series_uid == truth["series_uid"]
    assert_as_stated(volume.array[0], volume.geometry, truth)


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_is_no_volume_is_refused_with_its_reason(case: str) -> None:
    with pytest.raises((DicomError, ReadError), match=REFUSED[case]):
        read_dicom(FOLDER / case)


@pytest.mark.parametrize("case", sorted(SINGLE_SLICE))
def test_a_single_slice_is_read_with_a_note(case: str) -> None:
    volume = read_dicom(FOLDER / case)
    (truth,) = [series for series in CASES[case] if series["series_uid"] == volume.source.series_uid]
    assert volume.geometry.shape == (128, 128, 1)
    assert volume.geometry.spacing == (0.661468, 0.661468, 5.0)
    assert np.abs(volume.array.astype(float)).sum() == truth["sum_abs"]
    assert "single slice" in volume.source.notes[0]


@pytest.mark.parametrize(("case", "count"), [("mr_philips_4d", 3), ("mr_philips_orient_mixed4", 2)])
def test_each_volume_of_a_series_has_a_number(case: str, count: int) -> None:
    (truth, *_) = CASES[case]
    means = []
    for number in range(1, count + 1):
        volume = read_dicom(FOLDER / case, Selection(volume=number))
        assert volume.source.series is not None
        assert volume.source.series.number == number
        assert_part(volume.source.series, truth)
        means.append(volume.array.mean(dtype=np.float64))
    assert len(set(means)) == count
    with pytest.raises(DicomError, match=f"There is no volume {count + 1}"):
        read_dicom(FOLDER / case, Selection(volume=count + 1))


def test_colours_of_j2k_captures_are_their_luma() -> None:
    volume = read_dicom(FOLDER / "mr_rgb_j2k", Selection(colour="grey"))
    assert volume.geometry.shape == (52, 77, 4)
    assert volume.geometry.spacing[:2] == (3.0, 3.0)
    for k, path in enumerate(volume.source.files):
        colours = pydicom.dcmread(path).pixel_array.astype(float)
        luma = colours @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(volume.array[0, :, :, k], luma.T, atol=1e-4)


@pytest.mark.parametrize("case", sorted(CASES))
def test_every_series_of_every_export_is_exact_or_has_a_reason(case: str) -> None:
    found = scan(FOLDER / case).series
    for truth in CASES[case]:
        for series in (s for s in found if s.uid == truth["series_uid"]):
            if not series.plausible:
                assert series.verdict
            elif is_one_volume(truth):
                assert_as_stated(read_series(series).array[0], read_series(series).geometry, truth)
            else:
                assert_part(series, truth)


def assert_part(series: Series, truth: dict[str, Any]) -> None:
    """A series that holds several volumes, or one slice: each part lies within what the whole series states."""
    several = truth["orientations"] > 1 or truth.get("repeats", 1.0) > 1.0
    single = series.shape[2] == 1
    assert several or single
    volume = read_series(series)
    assert volume.array.min() >= truth["min"]
    assert volume.array.max() <= truth["max"] + 1e-3
    assert series.shape[2] <= truth["unique_positions"]
