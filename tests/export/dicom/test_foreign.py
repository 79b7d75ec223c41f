"""What other people's programs make of our objects: dicom3tools checks them, plastimatch fills the contours."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medunet.demo.dicom_export import CT_FOLDER
from medunet.export.algorithm import Algorithm
from medunet.export.dicom.rtstruct import write_rtstruct
from medunet.export.dicom.seg import write_seg
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

ALGORITHM = Algorithm("Abdomen net", "0123456789abcdef" * 4)
Make = Callable[..., Segmentation]


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} (Debian: {package}) is not installed")


@needs("dciodvfy", "dicom3tools")
@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_the_standard_s_rules_hold(segmented: Make, tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(segmented(), tmp_path / "object.dcm", ALGORITHM)
    done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if line.startswith("Error")] == []
    assert said[0] in ("Segmentation", "RTStructureSet")


@needs("plastimatch", "plastimatch")
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
        found = nibabel.load(tmp_path / "out" / f"{label.name}.nii.gz")
        assert found.shape == array.shape
        to_theirs = np.linalg.inv(found.affine) @ segmentation.geometry.affine
        where = np.argwhere(array == label.index) @ to_theirs[:3, :3].T + to_theirs[:3, 3]
        truth = np.zeros(found.shape, dtype=bool)
        truth[tuple(np.rint(where).astype(int).T)] = True
        assert np.array_equal(np.asarray(found.dataobj) > 0, truth), label.name
