"""Objects for the exports of real scanners beside the checkout: valid, and read back by others to the same voxels."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medunet.errors import MedunetError
from medunet.export.algorithm import Algorithm
from medunet.export.formats import FORMATS, Making
from medunet.io.dicom import Series, read_series, scan
from medunet.io.dicom.segments import is_seg, read_seg
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

FOLDER = Path(__file__).resolve().parents[3] / "../shared/data/dicom"
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="the real scans are not beside this checkout"),
]
LABELS = LabelMap.from_mapping({"background": 0, "body": 1, "liver_tumour": 2, "hole": 3})
ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
CASES = (
    [path.name for path in sorted(FOLDER.iterdir()) if path.is_dir() and path.name != "hostile"]
    if (FOLDER.is_dir())
    else []
)
NOTHING = {"mono1_nonsquare_dx", "mr_12bit", "mr_rgb_j2k", "siemens_sr_in_folder", "transfer_syntaxes_mosaic"}
"""Exports without any volume, and `ct_notavolume4` with none that can be told apart."""
UNREADABLE = {
    "liver_1frame.dcm": "states 1 frames and describes 3",
    "seg_image_sm_control_labelmap.dcm": r"no Image Position \(Patient\)",  # of a microscope
}
LARGE = {"ct_ge_tilt_varspace", "ct_philips_study_noext", "enh_mr_siemens_xa30"}
LABELMAP_UNKNOWN = ("Information Object Not found", "SegmentNumber of 0")


def volumes(case: str) -> list[Series]:
    """Up to two series of a case that can be read, resampled where they must be."""
    series = [each.on_upright_grid() for each in scan(FOLDER / case).series]
    return [each for each in series if each.plausible][:2]


def made_up(series: Series) -> Segmentation:
    """Bright voxels, brighter ones, a hole of another label, a lone voxel in a corner."""
    volume = read_series(series)
    image = ndimage.gaussian_filter(volume.array[0].astype(np.float32), (3, 3, 0))  # no thousands of holes
    mask = np.zeros(image.shape, np.uint8)
    mask[image > np.percentile(image, 80)] = 1
    mask[image > np.percentile(image, 95)] = 2
    mask[tuple(slice(size // 2 - 2, size // 2 + 2) for size in image.shape[:2])] = 3
    mask[0, 0] = 0
    mask[0, 0, 0] = 3
    return Segmentation(mask, volume.geometry, LABELS, volume.source)


def errors(path: Path) -> set[str]:
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, errors="replace"
    )
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


def on_slices(segmentation: Segmentation) -> list[np.ndarray]:
    """(rows, columns) per slice that came, as the mask lies on them."""
    from medunet.export.dicom.origin import Origin

    return [plane for _, plane in Origin.of(segmentation, ALGORITHM).planes()]


def test_the_cases_are_those_that_are_known() -> None:
    assert len(CASES) == 24
    assert {case for case in CASES if not volumes(case)} == NOTHING | {"ct_notavolume4"}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case in LARGE else [])
        for case in CASES
        if case not in NOTHING | {"ct_notavolume4"}
    ],
)
def test_every_object_is_valid_and_comes_back(case: str, tmp_path: Path) -> None:
    for series in volumes(case):
        segmentation = made_up(series)
        members = np.arange(len(LABELS)).reshape(-1, 1, 1, 1) == segmentation.array
        making = Making(ALGORITHM, members.astype(np.float32), tuple(FORMATS))
        names = [name for name, each in FORMATS.items() if each.dicom]
        paths = {
            name: FORMATS[name].write(segmentation, tmp_path / f"case{FORMATS[name].suffix}", making) for name in names
        }
        if shutil.which("dciodvfy"):
            known = errors(series.files[0])
            for name, path in paths.items():
                found = errors(path) - known
                if name == "dicom-seg-labelmap":
                    found = {line for line in found if not any(text in line for text in LABELMAP_UNKNOWN)}
                assert found == set(), (name, found)
        truth = on_slices(segmentation)
        for name in ("dicom-seg", "dicom-seg-labelmap"):
            assert_frames(paths[name], series, truth)
        assert_grid(paths["dicom-seg-grid"], segmentation)
        assert highdicom.sr.srread(paths["dicom-sr"]).content.get_volumetric_roi_measurement_groups()


def assert_frames(path: Path, series: Series, truth: list[np.ndarray]) -> None:
    """Every frame holds its segment on the slice that it refers to, and no other slice holds any."""
    seg = highdicom.seg.segread(path)
    places = {(item.sop_uid, item.frame): number for number, item in enumerate(series.slices)}
    found = [np.zeros_like(plane) for plane in truth]
    labelmap = seg.SegmentationType == "LABELMAP"
    for number, frame in enumerate(seg.PerFrameFunctionalGroupsSequence):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        index = int(source.ReferencedFrameNumber) - 1 if "ReferencedFrameNumber" in source else None
        pixels = seg.get_stored_frame(number + 1)
        place = found[places[source.ReferencedSOPInstanceUID, index]]
        value = pixels if labelmap else frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.copyto(place, value, where=pixels > 0, casting="unsafe")
    assert all(np.array_equal(one, other) for one, other in zip(found, truth, strict=True))


def assert_grid(path: Path, segmentation: Segmentation) -> None:
    """highdicom makes a volume of it, at the same place."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ segmentation.geometry.affine
    where = np.argwhere(volume.array) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    index = (where - lps[:3, 3]) @ np.linalg.inv(lps[:3, :3]).T
    assert np.abs(index - np.rint(index)).max() < 0.02
    found = np.zeros(segmentation.array.shape, np.uint8)
    found[tuple(np.rint(index).astype(int).T)] = volume.array[volume.array > 0]
    assert np.array_equal(found, segmentation.array)


@pytest.mark.skipif(shutil.which("plastimatch") is None, reason="plastimatch is not installed")
@pytest.mark.parametrize("case", ["ct_philips_study_noext", "dicomdir_cd", "pet_slope_nonsquare"])
def test_plastimatch_fills_the_contours(case: str, tmp_path: Path) -> None:
    series = volumes(case)[0]
    segmentation = made_up(series)
    path = FORMATS["rtstruct"].write(segmentation, tmp_path / "rt.dcm", Making(ALGORITHM))
    (tmp_path / "ct").mkdir()
    for number, file in enumerate(series.files):
        (tmp_path / "ct" / f"{number}.dcm").symlink_to(file.resolve())
    command = ["plastimatch", "convert", "--input", path, "--referenced-ct", tmp_path / "ct"]
    done = [*map(str, command), "--output-prefix", str(tmp_path / "out"), "--prefix-format", "nii.gz"]
    subprocess.run(done, capture_output=True, check=True)
    for label in LABELS.foreground:
        image = nibabel.load(tmp_path / "out" / f"{label.name}.nii.gz")
        to_theirs = np.linalg.inv(image.affine) @ segmentation.geometry.affine
        truth = segmentation.array == label.index
        where = np.rint(np.argwhere(truth) @ to_theirs[:3, :3].T + to_theirs[:3, 3]).astype(int)
        values = np.asarray(image.dataobj) > 0
        shared = values[tuple(where.T)].sum()
        assert 2 * shared / (values.sum() + truth.sum()) > 0.99, label.name


def foreign_segmentations() -> list[Path]:
    return [path for path in sorted(FOLDER.rglob("*")) if path.is_file() and is_seg(path)] if FOLDER.is_dir() else []


def test_there_are_segmentations_of_others() -> None:
    assert len(foreign_segmentations()) >= 3


@pytest.mark.parametrize("path", foreign_segmentations(), ids=lambda path: path.name)
def test_segmentations_of_others_are_read_as_highdicom_reads_them(path: Path) -> None:
    if path.name in UNREADABLE:
        with pytest.raises(MedunetError, match=UNREADABLE[path.name]):
            read_seg(path)
        return
    found = read_seg(path)
    seg = highdicom.seg.segread(path)
    volume = seg.get_volume()
    to_ours = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ found.geometry.affine) @ volume.affine
    members = found.labels.membership
    values = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    for number, name in zip(seg.segment_numbers, found.labels.names[1:], strict=True):
        where = np.argwhere(values[..., list(seg.segment_numbers).index(number)] >= 0.5)
        index = where @ to_ours[:3, :3].T + to_ours[:3, 3]
        assert np.abs(index - np.rint(index)).max(initial=0) < 0.02
        truth = np.zeros(found.array.shape, bool)
        truth[tuple(np.rint(index).astype(int).T)] = True
        assert np.array_equal(members[found.labels.names.index(name)][found.array], truth), name
