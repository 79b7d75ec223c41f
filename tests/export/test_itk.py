"""NRRD and MHA masks: read back as they were written, by this package and by others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from medunet.errors import OutputError, UsageError
from medunet.export.itk import write_itk
from medunet.export.nifti import write_nifti
from medunet.geometry import Geometry
from medunet.io.files import read_mask
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

RNG = np.random.default_rng(0)
OBLIQUE = np.array([[0.0, -0.8, 0, 10.123456789], [0.6, 0, -1.2, 20.0], [0.45, 0, 1.6, 30.0], [0, 0, 0, 1]])
ENDINGS = pytest.mark.parametrize("ending", [".nrrd", ".mha", ".NRRD"])
ODD = {"background": 0, "a": -1, "b": 300, "c": 40000}


def segmentation(geometry: Geometry | None = None, labels: dict[str, int] | None = None) -> Segmentation:
    geometry = geometry or Geometry.from_affine(OBLIQUE, (5, 6, 7))
    names = LabelMap.from_mapping(labels or {"background": 0, "liver": 4, "lesion": 205})
    indices = RNG.integers(0, len(names), geometry.shape).astype(np.uint8)
    return Segmentation(indices, geometry, names)


@ENDINGS
@pytest.mark.parametrize("labels", [None, ODD, {"background": 0, "a": 1, "b": 65535}], ids=["uint8", "int32", "uint16"])
def test_a_mask_and_its_grid_come_back(tmp_path: Path, ending: str, labels: dict[str, int] | None) -> None:
    mask = segmentation(labels=labels)
    values, geometry = read_mask(write_itk(mask, tmp_path / f"mask{ending}"))
    expected = mask.labels.to_values(mask.array)
    np.testing.assert_array_equal(values, expected)
    assert values.dtype == expected.dtype
    np.testing.assert_allclose(geometry.affine, mask.geometry.affine, atol=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == [f"mask{ending}"]


@ENDINGS
def test_a_picture_comes_back(tmp_path: Path, ending: str) -> None:
    mask = segmentation(Geometry.plain((9, 5), (0.5, 0.7)))
    values, geometry = read_mask(write_itk(mask, tmp_path / f"mask{ending}"))
    np.testing.assert_array_equal(values, mask.labels.to_values(mask.array))
    np.testing.assert_allclose(geometry.affine, mask.geometry.affine, atol=1e-12)


@ENDINGS
def test_itk_sees_the_mask_where_it_sees_the_nifti(tmp_path: Path, ending: str) -> None:
    mask = segmentation()
    ours = SimpleITK.ReadImage(str(write_itk(mask, tmp_path / f"mask{ending}")))
    nifti = SimpleITK.ReadImage(str(write_nifti(mask, tmp_path / "mask.nii.gz")))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(ours), SimpleITK.GetArrayFromImage(nifti))
    for index in ((0, 0, 0), (4, 0, 2), (1, 5, 6)):
        np.testing.assert_allclose(
            ours.TransformIndexToPhysicalPoint(index), nifti.TransformIndexToPhysicalPoint(index), atol=1e-4
        )
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / "mask.nii.gz").affine) == tuple(mask.geometry.axcodes)


@pytest.mark.parametrize("name", ["mask.mhd", "mask.nhdr", "mask.nii.gz", "mask"])
def test_endings_that_would_be_two_files_or_another_format_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} cannot be written; masks are \.nrrd or \.mha"):
        write_itk(segmentation(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mask.nrrd").mkdir()
    with pytest.raises(OutputError, match=r"mask\.nrrd cannot be written"):
        write_itk(segmentation(), tmp_path / "mask.nrrd")
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nrrd"]


def test_what_itk_says_about_a_failure_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Exception thrown in SimpleITK WriteImage: file.cxx:5:\nitk::ERROR: no space left")

    monkeypatch.setattr(SimpleITK, "WriteImage", fail)
    with pytest.raises(OutputError) as caught:
        write_itk(segmentation(), tmp_path / "mask.nrrd")
    assert caught.value.message == f"{tmp_path / 'mask.nrrd'} cannot be written: itk::ERROR: no space left."
    assert list(tmp_path.iterdir()) == []


SHRINKING_DISK = """
import os, resource, sys
from pathlib import Path
import numpy as np
from medunet.errors import OutputError
from medunet.export.itk import write_itk
from medunet.export.nifti import write_nifti
from medunet.geometry import Geometry
from medunet.io.volume import Segmentation
from medunet.labels import LabelMap

array = np.random.default_rng(0).integers(0, 2, (64, 64, 48)).astype(np.uint8)
labels = LabelMap.from_mapping({"background": 0, "organ": 1})
mask = Segmentation(array, Geometry.plain(array.shape, (1.0, 1.0, 1.0)), labels)
path = Path(sys.argv[1])
write = write_nifti if path.name.endswith((".nii", ".nii.gz")) else write_itk
size = os.path.getsize(write(mask, path))
path.unlink()
refused = 0
for limit in (size - 1, size - 3, size - 100, size - 3000, size // 2, 4096, 10):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write(mask, path)
    except OutputError:
        refused += 1
    if os.listdir(path.parent):
        sys.exit(f"{limit} of {size} bytes leave {os.listdir(path.parent)}")
print(refused)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii", ".nii.gz"])
def test_a_disk_without_room_for_the_last_bytes_leaves_no_half_file(tmp_path: Path, ending: str) -> None:
    """The size of files is limited in a process of its own; writing fails there as on a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", SHRINKING_DISK, tmp_path / f"mask{ending}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr
