"""`medunet convert`, as it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom

from medunet.demo.dicom_export import write_ct_export
from medunet.geometry import Geometry


def test_there_and_back(cli: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-1000, 1500, (8, 7, 6)).astype(np.int16)
    write_ct_export(values, Geometry.plain((8, 7, 6)), tmp_path / "export")
    image = cli("convert", tmp_path / "export", "-o", tmp_path / "image.nii.gz")
    assert (image.code, image.out) == (0, f"{tmp_path / 'image.nii.gz'}\n")
    loaded = nibabel.load(tmp_path / "image.nii.gz")
    assert np.array_equal(loaded.dataobj, values)
    nibabel.save(nibabel.Nifti1Image((values > 0).astype(np.uint8), loaded.affine), tmp_path / "mask.nii.gz")
    call = ("convert", tmp_path / "mask.nii.gz", "-o", tmp_path / "mask.dcm", "--labels", "liver=1")
    refused = cli(*call)
    assert refused.code == 2
    assert "--reference SERIES" in refused.err
    assert cli(*call, "--reference", tmp_path / "export").code == 0
    assert pydicom.dcmread(tmp_path / "mask.dcm").SegmentSequence[0].SegmentLabel == "liver"
    assert cli("convert", tmp_path / "mask.dcm", "-o", tmp_path / "back.nii.gz").code == 0
    assert (np.asarray(nibabel.load(tmp_path / "back.nii.gz").dataobj) == 1).sum() == (values > 0).sum()
    wrong = cli(*call, "--reference", tmp_path / "export", "--series", "bone")
    assert wrong.code == 1
    assert "No series has the UID" in wrong.err
