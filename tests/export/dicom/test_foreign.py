"""What other people's programs make of our objects: dicom3tools checks them, others read them back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK

from medunet.demo.dicom_export import CT_FOLDER
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.rtstruct import write_rtstruct
from medunet.export.formats import FORMATS, Making
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
DICOM = [name for name, each in FORMATS.items() if each.dicom]
KNOWN_TO_DCIODVFY = [name for name in DICOM if name != "dicom-seg-labelmap"]
"""dicom3tools of 2022 does not know Label Map Segmentation (Supplement 243), nor did any release by mid-2026."""
Make = Callable[..., Segmentation]


def found(program: str) -> str | None:
    """Path of a program, also of one that a package put beside this Python."""
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(found(program) is None, reason=f"{program} ({package}) is not installed")


def call(program: str, *arguments: object) -> str:
    """What a program says; it must not fail."""
    command = [found(program) or program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def checked(path: Path) -> list[str]:
    """Lines of dciodvfy."""
    done = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False, errors="replace"
    )
    return (done.stdout + done.stderr).splitlines()


def written(segmentation: Segmentation, folder: Path, *names: str) -> dict[str, Path]:
    """The mask in these formats, with probabilities that are sure of it."""
    members = np.arange(len(segmentation.labels)).reshape(-1, 1, 1, 1) == segmentation.array
    making = Making(ALGORITHM, members.astype(np.float32), names)
    return {name: FORMATS[name].write(segmentation, folder / f"case{FORMATS[name].suffix}", making) for name in names}


@needs("dciodvfy", "Debian: dicom3tools")
@pytest.mark.parametrize("name", KNOWN_TO_DCIODVFY)
@pytest.mark.parametrize("empty", [False, True])
def test_the_standard_s_rules_hold(segmented: Make, mask: np.ndarray, tmp_path: Path, name: str, empty: bool) -> None:
    said = checked(written(segmented(mask * (not empty)), tmp_path, name)[name])
    assert [line for line in said if line.startswith("Error")] == []
    assert any(
        kind in said for kind in ("Segmentation", "RTStructureSet", "Comprehensive3DSR", "MultiframeTrueColorSCImage")
    )


@needs("dciodvfy", "Debian: dicom3tools")
def test_label_maps_are_still_unknown_to_dciodvfy(segmented: Make, tmp_path: Path) -> None:
    """All that it has to say of them is that, and that a segment is numbered 0, which is the background's number."""
    (path,) = written(segmented(), tmp_path, "dicom-seg-labelmap").values()
    errors = [line for line in checked(path) if line.startswith("Error")]
    assert all("Information Object Not found" in line or "SegmentNumber of 0" in line for line in errors)


@needs("dcentvfy", "Debian: dicom3tools")
def test_all_objects_and_the_images_are_of_one_patient_and_study(segmented: Make, study: Path, tmp_path: Path) -> None:
    names = [name for name in DICOM if name != "dicom-seg-grid"]  # which is dicom-seg once more, of regular slices
    files = [*written(segmented(), tmp_path, *names).values(), *(study / CT_FOLDER).iterdir()]
    done = subprocess.run(["dcentvfy", *map(str, files)], capture_output=True, text=True, check=False)
    assert [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line] == []


@needs("segimage2itkimage", "pip: dcmqi")
@pytest.mark.parametrize("name", ["dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "dicom-seg-grid"])
def test_dcmqi_reads_the_same_voxels(segmented: Make, mask: np.ndarray, tmp_path: Path, name: str) -> None:
    segmentation = segmented()
    (path,) = written(segmentation, tmp_path, name).values()
    out = tmp_path / "dcmqi"
    out.mkdir()
    call("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", out, "--outputType", "nii")
    files = sorted(out.glob("*.nii.gz"), key=lambda file: int(file.name.split(".")[0].split("-")[-1]))
    total = np.zeros_like(mask)
    if name == "dicom-seg-labelmap":
        total = onto(nibabel.load(files[0]), segmentation)
    else:
        assert len(files) == 3
        for number, file in enumerate(files, start=1):
            total[onto(nibabel.load(file), segmentation) > 0] = number
    assert np.array_equal(total, mask)


def onto(image: nibabel.Nifti1Image, segmentation: Segmentation) -> np.ndarray:
    """Values of a mask at the voxels of ours; 0 outside."""
    values, shape = np.asarray(image.dataobj), segmentation.array.shape
    to_theirs = np.linalg.inv(image.affine) @ segmentation.geometry.affine
    where = np.indices(shape).reshape(3, -1).T @ to_theirs[:3, :3].T + to_theirs[:3, 3]
    index = np.rint(where).astype(int)
    assert np.abs(where - index).max() < 1e-2
    inside = ((index >= 0) & (index < values.shape)).all(axis=1)
    result = np.zeros(len(index), dtype=values.dtype)
    result[inside] = values[tuple(index[inside].T)]
    return result.reshape(shape)


@pytest.mark.parametrize("name", ["dicom-seg", "dicom-seg-fractional"])
def test_simpleitk_reads_the_same_frames(segmented: Make, mask: np.ndarray, tmp_path: Path, name: str) -> None:
    segmentation = segmented()
    (path,) = written(segmentation, tmp_path, name).values()
    frames = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    series = segmentation.source.series
    assert series is not None
    places = {item.sop_uid: number for number, item in enumerate(series.slices)}
    total = np.zeros_like(mask)
    for pixels, frame in zip(frames, pydicom.dcmread(path).PerFrameFunctionalGroupsSequence, strict=True):
        place = places[frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        total[:, :, place][pixels.T > 0] = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    assert np.array_equal(total, mask)


@needs("dsrdump", "Debian: dcmtk")
@pytest.mark.parametrize("beside", [("dicom-seg",), ()])
def test_dcmtk_shows_the_report(segmented: Make, tmp_path: Path, beside: tuple[str, ...]) -> None:
    path = written(segmented(), tmp_path, "dicom-sr", *beside)["dicom-sr"]
    shown = call("dsrdump", path)
    assert "Comprehensive 3D SR Document" in shown
    assert shown.count('"Volume")=') == 3
    assert shown.count('"Referenced Segment")=') == 3 * len(beside)


@needs("tid1500reader", "pip: dcmqi")
def test_dcmqi_reads_the_volumes_of_the_report(segmented: Make, tmp_path: Path) -> None:
    segmentation = segmented()
    path = written(segmentation, tmp_path, "dicom-sr", "dicom-seg")["dicom-sr"]
    call("tid1500reader", "--inputDICOM", path, "--outputMetadata", tmp_path / "out.json")
    groups = json.loads((tmp_path / "out.json").read_text())["Measurements"]
    read = {group["TrackingIdentifier"]: float(group["measurementItems"][0]["value"]) for group in groups}
    ml = segmentation.volumes_ml()
    assert read == pytest.approx({name: 1000 * value for name, value in ml.items()}, rel=1e-6)
    assert [group["ReferencedSegment"] for group in groups] == [1, 2, 3]


@needs("plastimatch", "Debian: plastimatch")
def test_plastimatch_fills_the_contours_to_the_mask(segmented: Make, study: Path, tmp_path: Path) -> None:
    """A ring keeps its hole, and what is one voxel large does not vanish."""
    labels = LabelMap.from_mapping({"background": 0, "ring": 1, "disk": 2, "line": 3, "voxel": 4})
    segmentation = segmented()
    i, j = np.indices(segmentation.geometry.shape[:2])
    array = np.zeros(segmentation.geometry.shape, dtype=np.uint8)
    distance = np.hypot(i - 7, j - 7)
    array[(distance <= 6) & (distance >= 3)] = 1
    array[distance <= 1] = 2
    array[2:18, 15] = 3
    array[17, 3, 4] = 4
    write_rtstruct(segmented(array, labels), tmp_path / "rt.dcm", ALGORITHM)
    command = ["plastimatch", "convert", "--input", tmp_path / "rt.dcm", "--referenced-ct", study / CT_FOLDER]
    subprocess.run(
        [*map(str, command), "--output-prefix", str(tmp_path / "out"), "--prefix-format", "nii.gz"],
        capture_output=True,
        check=True,
    )
    for label in labels.foreground:
        image = nibabel.load(tmp_path / "out" / f"{label.name}.nii.gz")
        assert image.shape == array.shape
        assert np.array_equal(onto(image, segmentation) > 0, array == label.index), label.name
