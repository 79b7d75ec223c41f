"""One volume, stored in four ways, gives one mask."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medunet.demo.dicom_export import write_ct_export
from medunet.demo.phantom import make_patient
from medunet.geometry import Geometry
from medunet.inference.predictor import Predictor


def reference_masks(predictor: Predictor, image: np.ndarray, geometry: Geometry, folder: Path) -> dict[str, np.ndarray]:
    """Masks of the volume as RAS, LPS and ASR NIfTI and as DICOM, all brought back to RAS."""
    masks = {}
    for axcodes in ("RAS", "LPS", "ASR"):
        change = geometry.reorientation(axcodes)
        stored = nibabel.Nifti1Image(change.apply(image), geometry.reoriented(change).affine)
        path = folder / f"{axcodes}.nii.gz"
        nibabel.save(stored, path)
        mask = predictor(path)
        masks[axcodes] = mask.geometry.reorientation("RAS").apply(mask.array)
        assert mask.geometry.axcodes == axcodes
    mask = predictor(write_ct_export(image, geometry, folder / "export"))
    masks["DICOM"] = mask.geometry.reorientation("RAS").apply(mask.array)
    return masks


def test_ras_lps_asr_and_dicom_give_the_same_mask(tiny_model: Path, tmp_path: Path) -> None:
    patient = make_patient(5, shape=(40, 36, 20), spacing=(8.0, 8.0, 10.0))
    predictor = Predictor(tiny_model, device="cpu", tta=False)
    masks = reference_masks(predictor, patient.image, patient.geometry, tmp_path)
    assert masks["RAS"].any()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, masks["RAS"], err_msg=name)


@pytest.mark.data
def test_a_real_ct_gives_the_same_mask_however_it_is_stored(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "headneck_ct" / "imagesTr"
    if not folder.is_dir():
        pytest.skip("the real scans (../shared/data/headneck_ct) are not there")
    image = nibabel.load(sorted(folder.glob("*.nii.gz"))[0])
    array = np.asarray(image.dataobj)[::2, ::2, ::2].round().astype(np.int16)
    affine = image.affine.copy()
    affine[:3, :3] *= 2
    geometry = Geometry.from_affine(affine, array.shape)
    change = geometry.reorientation("RAS")
    predictor = Predictor(tiny_model, device="cpu")
    masks = reference_masks(predictor, change.apply(array), geometry.reoriented(change), tmp_path)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, masks["RAS"], err_msg=name)
