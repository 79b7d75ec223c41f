"""Series that a scanner or archive wrote well or badly: the volume comes back exactly, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medunet.demo.dicom_export import CT_FOLDER, write_ct_export
from medunet.errors import DicomError, ReadError
from medunet.geometry import Geometry
from medunet.io.dicom import is_dicom, read_dicom, read_series, scan
from medunet.io.dicom import pixels as pixels_module
from medunet.io.volume import Volume

LPS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
GRID = Geometry((8, 7, 6), (0.75, 0.5, 2.0), (30.0, 20.0, -40.0), LPS)
VALUES = np.random.default_rng(0).integers(-1000, 1500, GRID.shape).astype(np.int16)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with the six slices of `VALUES` and nothing else."""
    return write_ct_export(VALUES, GRID, tmp_path / "study", localizer=False) / CT_FOLDER


def in_order(folder: Path) -> list[Path]:
    """Files from the lowest slice to the highest."""
    return sorted(
        (path for path in folder.iterdir() if is_dicom(path)),
        key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]),
    )


def edit(path: Path, change: Callable[[Dataset], object]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def edit_all(folder: Path, change: Callable[[Dataset, int], object]) -> None:
    for index, path in enumerate(in_order(folder)):
        edit(path, lambda dataset, index=index: change(dataset, index))


def assert_exact(volume: Volume) -> None:
    assert volume.geometry.difference(GRID, tolerance_mm=1e-6) == ""
    assert np.array_equal(volume.array[0], VALUES)


def same_place_same_value(volume: Volume, values: np.ndarray, geometry: Geometry) -> None:
    """Every voxel that was written is found at its place in the patient."""
    indices = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), -1).reshape(-1, 3)
    homogeneous = np.concatenate([indices, np.ones((len(indices), 1))], axis=1)
    found = (homogeneous @ (np.linalg.inv(volume.geometry.affine) @ geometry.affine).T)[:, :3]
    assert np.abs(found - np.rint(found)).max() < 1e-5
    i, j, k = np.rint(found).astype(int).T
    assert np.array_equal(volume.array[0][i, j, k], values.reshape(-1))


# ------------------------------------------------------------------------------------------------------ geometry


def test_an_export_comes_back_voxel_for_voxel_on_its_grid(series: Path) -> None:
    volume = read_dicom(series)
    assert_exact(volume)
    assert volume.array.dtype == np.int16
    assert volume.geometry.spacing == GRID.spacing
    assert volume.source.kind == "dicom"
    assert volume.source.files == tuple(in_order(series))
    assert volume.source.series_uid == pydicom.dcmread(volume.source.files[0]).SeriesInstanceUID


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "LPI", "ASL", "PIR", "SRA"])
def test_stacks_along_any_axis_keep_every_voxel_in_its_place(tmp_path: Path, axcodes: str) -> None:
    change = GRID.reorientation(axcodes)
    values, geometry = change.apply(VALUES), GRID.reoriented(change)
    volume = read_dicom(write_ct_export(values, geometry, tmp_path / "study"))
    same_place_same_value(volume, values, geometry)


@settings(max_examples=25, deadline=None)
@given(
    axis=st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1),
    angle=st.floats(-3.1, 3.1),
    mirror=st.booleans(),
    spacing=st.tuples(*[st.floats(0.05, 9.0)] * 3),
    origin=st.tuples(*[st.floats(-900, 900)] * 3),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(2, 6)),
)
def test_any_rotated_or_mirrored_grid_comes_back(
    axis: tuple[float, ...],
    angle: float,
    mirror: bool,
    spacing: tuple[float, ...],
    origin: tuple[float, ...],
    shape: tuple[int, ...],
) -> None:
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    if mirror:
        rotation[:, 2] *= -1
    geometry = Geometry(shape, spacing, origin, tuple(map(tuple, rotation.tolist())))
    values = np.random.default_rng(1).integers(-1000, 1000, shape).astype(np.int16)
    with tempfile.TemporaryDirectory() as folder:
        volume = read_dicom(write_ct_export(values, geometry, Path(folder) / "study"))
    same_place_same_value(volume, values, geometry)


def test_instance_numbers_decide_nothing(series: Path) -> None:
    edit_all(series, lambda dataset, index: setattr(dataset, "InstanceNumber", (index * 5) % 6))
    assert_exact(read_dicom(series))
    edit_all(series, lambda dataset, _: delattr(dataset, "InstanceNumber"))
    assert_exact(read_dicom(series))


def test_slice_thickness_parts_nothing_and_is_no_spacing(series: Path) -> None:
    edit_all(series, lambda dataset, index: setattr(dataset, "SliceThickness", 1.5 + index % 2))
    assert_exact(read_dicom(series))


def test_a_gap_between_thin_slices_is_told(series: Path) -> None:
    edit_all(series, lambda dataset, _: setattr(dataset, "SliceThickness", 1.0))
    volume = read_dicom(series)
    assert_exact(volume)
    assert any("not imaged" in note for note in volume.source.notes)


def test_jitter_of_four_micrometres_is_no_irregularity(series: Path) -> None:
    def shake(dataset: Dataset, index: int) -> None:
        position = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [position[0], position[1], float(position[2]) + 0.004 * (-1) ** index]

    edit_all(series, shake)
    volume = read_dicom(series)
    assert np.array_equal(volume.array[0], VALUES)
    assert volume.geometry.difference(GRID, tolerance_mm=0.01) == ""


def test_decimal_strings_may_be_longer_than_the_standard_allows(series: Path) -> None:
    for path in in_order(series):
        raw = path.read_bytes()
        head = b"\x20\x00\x32\x00DS"
        start = raw.index(head)
        length = int.from_bytes(raw[start + 6 : start + 8], "little")
        x, y, z = (float(part) for part in raw[start + 8 : start + 8 + length].split(b"\\"))
        long = f"{x:.20f}\\{y:.20f}\\{z:.20f}".encode()
        long += b" " * (len(long) % 2)
        path.write_bytes(raw[: start + 6] + len(long).to_bytes(2, "little") + long + raw[start + 8 + length :])
    assert_exact(read_dicom(series))


@pytest.mark.parametrize("shift", [0.4, -3.0])
def test_a_tilted_gantry_is_refused_with_its_angle(series: Path, shift: float) -> None:
    def tilt(dataset: Dataset, index: int) -> None:
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y + shift * index, z]

    edit_all(series, tilt)
    angle = np.degrees(np.arctan2(abs(shift), 2.0))
    with pytest.raises(DicomError, match=f"tilted by {angle:.2f} degrees"):
        read_dicom(series)


def test_missing_slices_are_refused_with_place_and_number(series: Path) -> None:
    files = in_order(series)
    files[2].unlink()
    with pytest.raises(DicomError, match=r"1 slice is missing: a gap of 4 mm where 2 mm is usual, between -38 and -34"):
        read_dicom(series)


def test_unequal_gaps_are_refused_with_their_range(series: Path) -> None:
    def stretch(dataset: Dataset, index: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, float(z) + 0.7 * (index == 3)]

    edit_all(series, stretch)
    with pytest.raises(DicomError, match=r"gaps between slices run from 1.3 to 2.7 mm"):
        read_dicom(series)


def test_a_slice_that_is_moved_sideways_is_refused(series: Path) -> None:
    def move(dataset: Dataset) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [float(x) + 4, y, z]

    edit(in_order(series)[2], move)
    with pytest.raises(DicomError, match=r"4 mm beside its place"):
        read_dicom(series)


def test_a_single_slice_takes_its_stated_thickness_and_says_so(series: Path) -> None:
    for path in in_order(series)[1:]:
        path.unlink()
    volume = read_dicom(series)
    assert volume.geometry.shape == (8, 7, 1)
    assert volume.geometry.spacing == (0.75, 0.5, 2.0)
    assert "single slice" in volume.source.notes[0]
    edit(in_order(series)[0], lambda dataset: delattr(dataset, "SliceThickness"))
    with pytest.raises(DicomError, match="thickness is not stated"):
        read_dicom(series)


# ------------------------------------------------------------------------------------------------------- repeats


@pytest.mark.parametrize("new_uid", [False, True])
def test_equal_repeats_are_dropped_and_told(series: Path, new_uid: bool) -> None:
    copy = series / "again"
    shutil.copy(in_order(series)[3], copy)
    if new_uid:
        edit(copy, lambda dataset: setattr(dataset, "SOPInstanceUID", generate_uid()))
    volume = read_dicom(series)
    assert_exact(volume)
    assert "1 repeat(s)" in volume.source.notes[0]


def test_a_whole_series_twice_is_read_once(series: Path) -> None:
    for path in in_order(series):
        shutil.copy(path, series / f"copy_{path.name}")
    assert_exact(read_dicom(series))


def test_repeats_with_other_pixels_are_refused(series: Path) -> None:
    copy = series / "again"
    shutil.copy(in_order(series)[3], copy)
    edit(copy, lambda dataset: setattr(dataset, "PixelData", bytes(len(dataset.PixelData))))
    with pytest.raises(DicomError, match="2 images lie at some of the 6 positions"):
        read_dicom(series)


def test_repeats_with_another_slope_are_refused(series: Path) -> None:
    copy = series / "again"
    shutil.copy(in_order(series)[3], copy)
    edit(copy, lambda dataset: setattr(dataset, "RescaleSlope", 2))
    with pytest.raises(DicomError, match="2 images lie at some"):
        read_dicom(series)


def test_images_that_all_lie_at_one_position_are_no_volume(series: Path) -> None:
    edit_all(series, lambda dataset, _: setattr(dataset, "ImagePositionPatient", [0, 0, 0]))
    edit_all(series, lambda dataset, index: setattr(dataset, "AcquisitionNumber", index))
    with pytest.raises(DicomError, match="6 different images lie at one position"):
        read_dicom(series)


# -------------------------------------------------------------------------------------------------------- values


def test_each_slice_is_rescaled_by_its_own_slope(series: Path) -> None:
    def rescale(dataset: Dataset, index: int) -> None:
        dataset.RescaleSlope = 1.0 + 0.25 * index
        dataset.RescaleIntercept = -10.5 * index

    edit_all(series, rescale)
    stored = VALUES.astype(np.float64) + 1024
    expected = stored * (1 + 0.25 * np.arange(6)) - 10.5 * np.arange(6)
    volume = read_dicom(series)
    assert volume.array.dtype == np.float32
    assert np.allclose(volume.array[0], expected, rtol=1e-6, atol=0)


def test_whole_values_stay_whole_and_grow_wider_only_where_they_must(series: Path) -> None:
    edit(in_order(series)[4], lambda dataset: setattr(dataset, "RescaleIntercept", 70000))
    volume = read_dicom(series)
    assert volume.array.dtype == np.int32
    assert np.array_equal(volume.array[0, ..., :4], VALUES[..., :4])
    assert np.array_equal(volume.array[0, ..., 4], VALUES[..., 4].astype(int) + 71024)


def test_values_are_as_stored_where_no_rescaling_is_stated(series: Path) -> None:
    def strip(dataset: Dataset, index: int) -> None:
        del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType

    edit_all(series, strip)
    assert np.array_equal(read_dicom(series).array[0], VALUES + 1024)


def test_monochrome1_is_not_inverted(series: Path) -> None:
    edit_all(series, lambda dataset, _: setattr(dataset, "PhotometricInterpretation", "MONOCHROME1"))
    assert_exact(read_dicom(series))


@pytest.mark.parametrize("signed", [0, 1])
def test_unused_high_bits_are_ignored(series: Path, signed: int) -> None:
    values = np.clip(VALUES, -1000, 900)

    def soil(dataset: Dataset, index: int) -> None:
        stored = values[:, :, index].T.astype(np.int16) + (0 if signed else 1024)
        soiled = (stored.view(np.uint16) & 0x0FFF) | 0x5000
        dataset.PixelData = soiled.astype("<u2").tobytes()
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = signed, 12, 11
        dataset.RescaleIntercept = 0 if signed else -1024

    edit_all(series, soil)
    assert np.array_equal(read_dicom(series).array[0], values)


def _bare(path: Path) -> Dataset:
    """The data set without preamble, file meta information and memory of its encoding."""
    dataset = pydicom.dcmread(path)
    bare = Dataset()
    bare.update({element.tag: element for element in dataset})
    return bare


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_every_plain_transfer_syntax_is_read(series: Path, syntax: UID) -> None:
    for path in in_order(series):
        dataset = _bare(path)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    assert_exact(read_dicom(series))


@pytest.mark.parametrize("implicit", [False, True])
def test_files_without_preamble_and_meta_header_are_read(series: Path, implicit: bool) -> None:
    for path in in_order(series):
        _bare(path).save_as(path, implicit_vr=implicit, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    assert_exact(read_dicom(series))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_series_are_decoded(series: Path, syntax: UID, signed: bool) -> None:
    def compress(dataset: Dataset, index: int) -> None:
        if signed:
            dataset.PixelData = np.ascontiguousarray(VALUES[:, :, index].T).tobytes()
            dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
            dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.compress(syntax)

    edit_all(series, compress)
    assert_exact(read_dicom(series))


def test_without_the_faster_codec_the_other_one_decodes(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_all(series, lambda dataset, _: dataset.compress(JPEGLSLossless))
    monkeypatch.setattr(pixels_module, "_FASTER", {JPEGLSLossless: "no such codec"})
    assert_exact(read_dicom(series))


def test_a_missing_decoder_is_named_with_the_extra_that_brings_it(
    series: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        is_available = False

    edit_all(series, lambda dataset, _: dataset.compress(RLELossless))
    monkeypatch.setattr(pixels_module, "get_decoder", lambda _: Missing)
    with pytest.raises(DicomError, match=r"no decoder for it is installed\. .*pip install 'medunet\[codecs\]'"):
        read_dicom(series)


def test_a_transfer_syntax_that_nothing_decodes_is_named(series: Path) -> None:
    mpeg = "1.2.840.10008.1.2.4.100"
    edit_all(series, lambda dataset, _: dataset.compress(RLELossless))
    edit_all(series, lambda dataset, _: setattr(dataset.file_meta, "TransferSyntaxUID", mpeg))
    with pytest.raises(DicomError, match=r"MPEG2.*cannot be decoded"):
        read_dicom(series)


def test_compressed_pixels_that_are_damaged_are_refused(series: Path) -> None:
    edit_all(series, lambda dataset, _: dataset.compress(RLELossless))
    path = in_order(series)[2]
    raw = bytearray(path.read_bytes())
    start = raw.index(b"\xe0\x7f\x10\x00")
    raw[start + 40 : start + 60] = b"\xff" * 20
    path.write_bytes(raw)
    with pytest.raises((ReadError, DicomError)):
        read_dicom(series)


# ------------------------------------------------------------------------------------------------------ refusals


def _delete(keyword: str) -> Callable[[Dataset, int], None]:
    return lambda dataset, _: delattr(dataset, keyword)


def _set(**values: object) -> Callable[[Dataset, int], None]:
    def change(dataset: Dataset, index: int) -> None:
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    return change


def _with_lookup_table(dataset: Dataset, index: int) -> None:
    dataset.ModalityLUTSequence = [Dataset()]


def _rgb(dataset: Dataset, index: int) -> None:
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = bytes(3 * dataset.Rows * dataset.Columns)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_delete("ImagePositionPatient"), r"no Image Position \(Patient\) in the header"),
        (_delete("ImageOrientationPatient"), r"no Image Orientation \(Patient\) in the header"),
        (_delete("PixelSpacing"), "no Pixel Spacing in the header"),
        (_set(PixelSpacing=[0, 1]), "pixel spacing of 0 x 1 mm is impossible"),
        (_set(PixelSpacing=[-1, 1]), "pixel spacing of -1 x 1 mm is impossible"),
        (_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not two perpendicular unit vectors"),
        (_set(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]), "not two perpendicular unit vectors"),
        (_set(ImagePositionPatient=["0", "0", "1e300"]), "impossible"),
        (_set(SeriesInstanceUID=""), "without a Series Instance UID"),
        (_set(ImageType=["DERIVED", "PRIMARY", "MOSAIC"]), "a mosaic"),
        (_set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localizer"),
        (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "Secondary Capture Image Storage is no stack of slices"),
        (_set(SOPClassUID="1.2.3.4"), "an object of unknown class is no stack of slices"),
        (_set(NumberOfFrames=1, HighBit=15), "High Bit"),
        (_with_lookup_table, "lookup table"),
        (_rgb, r"colour or palette images \(RGB\)"),
    ],
)
def test_what_is_no_stack_of_slices_is_refused_with_its_reason(
    series: Path, change: Callable[[Dataset, int], None], reason: str
) -> None:
    edit_all(series, change)
    with pytest.raises(DicomError, match=reason):
        read_dicom(series)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(RescaleSlope=0), "Rescale Slope is 0"),
        (_set(Rows=0), "0 rows"),
        (_set(Rows=65535, Columns=65535), "65535 rows and 65535 columns"),
        (_set(Rows=9000, Columns=9000), "of the 162000000 bytes"),
        (_set(BitsAllocated=13), "12 bits stored of 13 allocated"),
        (_delete("PixelData"), "no pixel data"),
    ],
)
def test_files_that_promise_what_they_do_not_hold_are_left_out(
    series: Path, change: Callable[[Dataset, int], None], reason: str
) -> None:
    edit_all(series, change)
    with pytest.raises(DicomError, match=reason):
        read_dicom(series)


def test_a_series_that_is_refused_cannot_be_read_by_hand_either(series: Path) -> None:
    in_order(series)[2].unlink()
    (found,) = scan(series).series
    assert not found.plausible
    with pytest.raises(DicomError, match="missing"):
        read_series(found)


def test_a_file_that_vanishes_after_the_scan_is_an_error_and_no_black_slice(series: Path) -> None:
    (found,) = scan(series).series
    found.files[2].unlink()
    with pytest.raises(ReadError, match="cannot be decoded"):
        read_series(found)
