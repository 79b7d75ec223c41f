"""Labels from DICOM: segmentations of highdicom and structure sets of pydicom on the grid of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medunet.errors import DataError, DicomError, MedunetError, ReadError
from medunet.geometry import Geometry
from medunet.io.case import Case
from medunet.io.labelled import Remarks, read_case_image, read_case_label, sum_up
from medunet.io.read import read_volume
from medunet.io.selection import Selection
from medunet.io.volume import Volume
from medunet.labels import LabelMap

SHAPE = (24, 24, 16)
LABELS = LabelMap.from_mapping({"background": 0, "organ": 4, "core": [205, 9], "ignore": 255})
NESTED = LabelMap.from_mapping({"background": 0, "organ": [1, 2], "core": 2})

Write = Callable[..., Path]


def labelled(label: Path) -> Case:
    return Case("x", (Path("x"),), label)


def box(*sides: tuple[int, int]) -> NDArray[np.bool_]:
    result = np.zeros(SHAPE, bool)
    result[tuple(slice(*side) for side in sides)] = True
    return result


ORGAN, CORE = box((3, 14), (5, 20), (2, 9)), box((6, 10), (8, 12), (4, 6))
ASIDE = box((16, 20), (2, 8), (11, 14))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, write_study: Write) -> Path:
    return write_study(tmp_path_factory.mktemp("study") / "study", 1)


@pytest.fixture(scope="module")
def images(study: Path) -> Path:
    return study / "SER0003"


@pytest.fixture(scope="module")
def volume(images: Path) -> Volume:
    return read_volume(images)


@pytest.fixture(params=["BINARY", "FRACTIONAL", "LABELMAP", "RTSTRUCT"])
def draw(request: pytest.FixtureRequest, images: Path, draw_segments: Write, draw_contours: Write) -> Write:
    """Draws masks on `images` in one of the ways."""

    def write(path: Path, masks: dict[str, Any], **changes: Any) -> Path:
        if request.param == "RTSTRUCT":
            return draw_contours(images, path, masks, **changes)
        return draw_segments(images, path, masks, kind=request.param, **changes)

    return write


def test_structures_become_the_values_of_their_labels(draw: Write, volume: Volume, tmp_path: Path) -> None:
    path = draw(tmp_path / "anything.bin", {"Core": ASIDE, "ORGAN": ORGAN, "couch": box((0, 2), (0, 2), (0, 3))})
    truth = read_case_label(labelled(path), volume, LABELS)
    assert np.array_equal(truth.values, 4 * ORGAN + 205 * ASIDE)
    assert truth.geometry == volume.geometry
    assert truth.remarks == Remarks(unnamed=("couch",))


@pytest.mark.parametrize("kind", ["BINARY", "RTSTRUCT"])
def test_where_labels_overlap_the_inner_one_or_the_later_one_gets_the_voxels(
    kind: str, images: Path, volume: Volume, draw_segments: Write, draw_contours: Write, tmp_path: Path
) -> None:
    masks = {"core": CORE | ASIDE, "organ": ORGAN, "ignore": box((3, 5), (5, 7), (2, 3))}
    path = (draw_segments if kind == "BINARY" else draw_contours)(images, tmp_path / "a.dcm", masks)
    inside = read_case_label(labelled(path), volume, NESTED)
    assert np.array_equal(inside.values, np.where(CORE | ASIDE, 2, ORGAN))
    assert inside.remarks == Remarks(unnamed=("ignore",))
    apart = read_case_label(labelled(path), volume, LABELS)
    assert np.array_equal(apart.values, np.select([masks["ignore"], masks["core"], ORGAN], [255, 205, 4], 0))
    assert apart.remarks.contested == {("organ", "core"): int(CORE.sum())}
    turned = LabelMap.from_mapping({"background": 0, "core": 1, "organ": 2})
    assert np.array_equal(read_case_label(labelled(path), volume, turned).values, np.where(ORGAN, 2, masks["core"]))


def test_half_of_a_fractional_pixel_is_enough(
    images: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    shares = np.where(ORGAN, 0.5, np.where(ASIDE, 0.49, 0.0))
    path = draw_segments(images, tmp_path / "a.dcm", {"organ": shares}, kind="FRACTIONAL")
    assert np.array_equal(read_case_label(labelled(path), volume, LABELS).values, 4 * ORGAN)


def moved(path: Path, change: Callable[[Any], None]) -> Path:
    """A SEG with some change to where each of its frames lies."""
    dataset = pydicom.dcmread(path)
    for own in dataset.PerFrameFunctionalGroupsSequence:
        change(own.PlanePositionSequence[0])
    dataset.save_as(path)
    return path


def test_a_segmentation_between_the_slices_is_resampled_and_told(
    images: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    def up(place: Any) -> None:
        place.ImagePositionPatient[2] += 1.2

    path = moved(draw_segments(images, tmp_path / "a.dcm", {"organ": ORGAN}), up)
    truth = read_case_label(labelled(path), volume, LABELS)
    assert np.array_equal(truth.values, 4 * box((3, 14), (5, 20), (3, 10)))
    assert sum_up([truth.remarks, truth.remarks]) == [
        "The segmentation lies on another grid than its image and was resampled (2 cases)."
    ]


def test_a_segmentation_on_thicker_slices_is_not_left_with_gaps(
    study: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    thick = tmp_path / "thick"
    thick.mkdir()
    for file in (study / "SER0003").iterdir():
        dataset = pydicom.dcmread(file)
        if int(dataset.InstanceNumber) % 2 == 1:
            dataset.SeriesInstanceUID, dataset.SliceThickness = "1.2.3", "4"
            dataset.save_as(thick / file.name)
    path = draw_segments(thick, tmp_path / "a.dcm", {"organ": ORGAN[:, :, ::2]})
    truth = read_case_label(labelled(path), volume, LABELS)
    assert truth.remarks.notes
    assert truth.values[8, 10, 2:9].tolist() == [4] * 7


def test_thick_slices_that_overlap_are_put_in_their_places(
    images: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    path = draw_segments(images, tmp_path / "a.dcm", {"organ": ORGAN})
    dataset = pydicom.dcmread(path)
    measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SliceThickness = 5
    if "SpacingBetweenSlices" in measures:
        del measures.SpacingBetweenSlices
    dataset.save_as(path)
    truth = read_case_label(labelled(path), Volume(volume.array, volume.geometry), LABELS)
    assert np.array_equal(truth.values, 4 * ORGAN)
    assert truth.remarks.notes == ()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_nifti_image_of_any_axes_and_part_of_the_body_gets_the_voxels_where_they_lie(
    data: st.DataObject, images: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    if not path.exists():
        draw_segments(images, path, {"organ": ORGAN, "core": ASIDE})
    letters = data.draw(st.permutations([("R", "L"), ("A", "P"), ("S", "I")]))
    change = volume.geometry.reorientation("".join(pair[data.draw(st.integers(0, 1))] for pair in letters))
    start = [data.draw(st.integers(0, 5)) for _ in range(3)]
    shape = [data.draw(st.integers(8, 14)) for _ in range(3)]
    whole, grid = change.apply(4 * ORGAN + 205 * ASIDE), volume.geometry.reoriented(change)
    part = whole[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    image = Volume(np.zeros((1, *part.shape), np.float32), grid.cropped(start, part.shape))
    if not part.any():
        return
    truth = read_case_label(labelled(path), image, LABELS)
    assert np.array_equal(truth.values, part)
    assert all("beyond" in note for note in truth.remarks.notes)


@pytest.mark.parametrize("kind", ["BINARY", "RTSTRUCT"])
def test_labels_of_a_tilted_series_land_where_its_image_does(
    kind: str, images: Path, draw_segments: Write, draw_contours: Write, tmp_path: Path
) -> None:
    tilted = tmp_path / "tilted"
    tilted.mkdir()
    for file in images.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.ImagePositionPatient[1] += 0.3 * (int(dataset.InstanceNumber) - 1) * 1.5
        bright = (ORGAN * 1000)[:, :, int(dataset.InstanceNumber) - 1].T
        dataset.PixelData, dataset.BitsStored, dataset.HighBit = bright.astype("<u2").tobytes(), 16, 15
        dataset.RescaleIntercept = 0
        dataset.save_as(tilted / file.name)
    path = (draw_segments if kind == "BINARY" else draw_contours)(tilted, tmp_path / "a.dcm", {"organ": ORGAN})
    image = read_volume(tilted, selection=Selection(irregular="resample"))
    assert image.geometry.shape != SHAPE
    truth = read_case_label(labelled(path), image, LABELS)
    assert truth.geometry == image.geometry
    sure = np.abs(image.array[0] - 500) > 1
    assert np.array_equal((truth.values == 4)[sure], (image.array[0] > 500)[sure])
    assert np.count_nonzero(~sure) < 0.05 * np.count_nonzero(truth.values)


def test_a_folder_with_the_one_object_will_do(draw: Write, volume: Volume, images: Path, tmp_path: Path) -> None:
    draw(tmp_path / "one", {"organ": ORGAN})
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "image").write_bytes(next(images.iterdir()).read_bytes())
    assert np.array_equal(read_case_label(labelled(tmp_path), volume, LABELS).values, 4 * ORGAN)
    (tmp_path / "two").write_bytes((tmp_path / "one").read_bytes())
    with pytest.raises(DicomError, match=r"holds 2 segmentations or structure sets \(one, two\), and one is needed"):
        read_case_label(labelled(tmp_path), volume, LABELS)


def test_the_label_chooses_among_the_series_of_a_study(
    write_study: Write, draw_segments: Write, draw_contours: Write, tmp_path: Path
) -> None:
    root = write_study(tmp_path / "study", 3)
    other = root / "SER0004"
    other.mkdir()
    for file in (root / "SER0003").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = "1.2.3.4", f"1.2.3.4.{dataset.InstanceNumber}"
        dataset.RescaleIntercept = 500
        dataset.save_as(other / file.name)
    for draw in (draw_segments, draw_contours):
        label = draw(other, root / "label", {"organ": ORGAN})
        image = read_case_image(Case("a", (root,), label))
        assert image.source.series_uid == "1.2.3.4"
        assert np.array_equal(read_case_label(labelled(label), image, LABELS).values, 4 * ORGAN)
    first = read_volume(root / "SER0003")
    with pytest.raises(DicomError, match="was drawn on other slices than those of the series"):
        read_case_label(labelled(label), first, LABELS)
    with pytest.raises(DicomError, match="2 series fit"):
        read_case_image(Case("a", (root,)))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def no_frames(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    for keyword in ("NumberOfFrames", "PixelData", "PerFrameFunctionalGroupsSequence", "ContourSequence"):
        if keyword in dataset:
            delattr(dataset, keyword)
    for region in dataset.get("ROIContourSequence", ()):
        del region.ContourSequence
    dataset.save_as(path)


def of_another(keyword: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, "1.2.3")
        for place in dataset.get("ReferencedFrameOfReferenceSequence", ()):
            place.FrameOfReferenceUID = "1.2.3" if keyword == "FrameOfReferenceUID" else place.FrameOfReferenceUID
        dataset.save_as(path)

    return change


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (truncated, ReadError, "a.dcm cannot be read: it"),
        (no_frames, DataError, "holds no pixel data|holds no contours"),
        (of_another("PatientID"), DicomError, "a.dcm belongs to another patient than the series"),
        (of_another("FrameOfReferenceUID"), DicomError, "a.dcm lies in another frame of reference than the series"),
    ],
)
def test_what_does_not_fit_is_refused(
    draw: Write, volume: Volume, tmp_path: Path, spoil: Any, error: type[MedunetError], reason: str
) -> None:
    path = draw(tmp_path / "a.dcm", {"organ": ORGAN})
    spoil(path)
    with pytest.raises(error, match=reason):
        read_case_label(labelled(path), volume, LABELS)


def test_patients_are_not_named(images: Path, volume: Volume, draw_segments: Write, tmp_path: Path) -> None:
    path = draw_segments(images, tmp_path / "a.dcm", {"organ": ORGAN}, PatientID="Secret")
    with pytest.raises(DicomError) as caught:
        read_case_label(labelled(path), volume, LABELS)
    assert "Secret" not in str(caught.value)
    assert "DEMO" not in str(caught.value)


def test_frames_far_from_the_image_are_refused(
    images: Path, volume: Volume, draw_segments: Write, tmp_path: Path
) -> None:
    def away(place: Any) -> None:
        place.ImagePositionPatient[2] += 1000

    path = moved(draw_segments(images, tmp_path / "a.dcm", {"organ": ORGAN}), away)
    with pytest.raises(DicomError, match=r"No frame of a\.dcm lies within the image"):
        read_case_label(labelled(path), volume, LABELS)


def test_contours_of_thinner_slices_are_refused(
    images: Path, volume: Volume, draw_contours: Write, tmp_path: Path
) -> None:
    path = draw_contours(images, tmp_path / "a.dcm", {"organ": ORGAN})
    dataset = pydicom.dcmread(path)
    drawn = dataset.ROIContourSequence[0].ContourSequence
    for number, contour in enumerate(drawn[:15]):
        contour.ContourData = [
            value + (0.5 if axis % 3 == 2 and number % 2 else 0) for axis, value in enumerate(contour.ContourData)
        ]
    dataset.save_as(path)
    with pytest.raises(DicomError, match=r"lie 0\.5 mm apart on one slice"):
        read_case_label(labelled(path), volume, LABELS)


def test_images_and_pictures_are_no_labels_of_volumes(
    images: Path, volume: Volume, draw: Write, tmp_path: Path
) -> None:
    with pytest.raises(DicomError, match="is none"):
        read_case_label(labelled(next(images.iterdir())), volume, LABELS)
    picture = Volume(np.zeros((1, 4, 4), np.uint8), Geometry.plain((4, 4)))
    with pytest.raises(DicomError, match="the image is a picture"):
        read_case_label(labelled(draw(tmp_path / "a.dcm", {"organ": ORGAN})), picture, LABELS)


def test_mask_files_are_read_as_they_are(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), 7, np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    truth = read_case_label(labelled(tmp_path / "a.nii.gz"), volume, LABELS)
    assert truth.values.tolist() == np.full((3, 4, 5), 7).tolist()
    assert truth.remarks == Remarks()


def test_many_cases_are_told_in_few_sentences() -> None:
    pair = ("organ", "core")
    remarks = [Remarks(("couch", "table"), {pair: 5}, ("It was cut.",)), Remarks(("couch",), {pair: 2}), Remarks()]
    assert sum_up(remarks) == [
        "Structures that no label has the name of count as background (number of cases): couch (2), table (1).",
        "organ and core overlap in 7 voxels of 2 cases; core, the later label, got them.",
        "It was cut (1 case).",
    ]
