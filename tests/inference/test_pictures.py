"""Folders of pictures: names, sizes and sub-folders stay; PNG unless something else is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from medunet.errors import UsageError
from medunet.evaluation.matching import match_files
from medunet.inference.batch import Options, predict
from medunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(picture_model: Path) -> Predictor:
    return Predictor(picture_model, device="cpu", engine="torch", precision="fp32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of all sizes, one of them broken."""
    rng = np.random.default_rng(0)
    sizes = {"a.png": (40, 50), "sub/b.jpg": (33, 71), "sub/b.png": (64, 32), "sub/deep/c.bmp": (9, 9)}
    for name, size in sizes.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "sub" / "bad.jpg").write_bytes(b"no picture")
    return tmp_path / "in"


def opened(path: Path) -> NDArray[Any]:
    with Image.open(path) as picture:
        return np.asarray(picture)


MASKS = {"a_mask.png": (40, 50), "sub/b.jpg_mask.png": (33, 71), "sub/b.png_mask.png": (64, 32),
         "sub/deep/c_mask.png": (9, 9)}  # fmt: skip


def test_masks_have_the_names_sizes_and_folders_of_their_pictures(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    out = folder / "masks"  # within the pictures
    for _ in range(2):  # the second run does not take masks for pictures
        reports = predict(predictor, folder, out)
        assert [report.status for report in reports] == ["done", "done", "done", "failed", "done"]
    found = {path.relative_to(out).as_posix(): opened(path) for path in out.rglob("*.png")}
    assert {name: mask.shape for name, mask in found.items()} == MASKS
    assert all(set(np.unique(mask)) <= {0, 255} for mask in found.values())
    alone = predictor(folder / "sub" / "b.jpg")
    assert np.array_equal(found["sub/b.jpg_mask.png"], alone.labels.to_values(alone.array).T)
    listed = json.loads((out / "predict.json").read_text())["cases"]
    assert [case["case"] for case in listed] == ["a", "sub/b.jpg", "sub/b.png", "sub/bad", "sub/deep/c"]
    skipped = predict(predictor, folder, out, Options(skip_existing=True))
    assert [report.status for report in skipped] == ["skipped", "skipped", "skipped", "failed", "skipped"]


def test_a_mask_of_another_picture_of_that_name_is_no_reason_to_skip(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    predict(predictor, folder, tmp_path / "out")
    (folder / "a.png").rename(folder / "a.bmp")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.bmp")
    first = predict(predictor, folder, tmp_path / "out", Options(skip_existing=True))[0]
    assert (first.case, first.status) == ("a", "done")
    assert opened(tmp_path / "out" / "a_mask.png").shape == (8, 8)


def test_other_formats_and_overlays_on_request(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    options = Options(formats=("nifti", "png"), overlay=True)
    (report,) = predict(predictor, folder / "a.png", tmp_path / "out", options)
    names = [Path(output["path"]).name for output in report.outputs]
    assert names == ["a_seg.nii.gz", "a_mask.png", "a_overlay.png"]
    assert opened(tmp_path / "out" / "a_overlay.png").ndim == 3
    (tmp_path / "out" / "a_seg.nii.gz").unlink()
    (pair,) = match_files(tmp_path / "out", folder).pairs
    assert (pair.case, pair.prediction, pair.reference) == ("a", tmp_path / "out" / "a_mask.png", folder / "a.png")


def test_one_picture_may_have_one_file(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (report,) = predict(predictor, folder / "a.png", tmp_path / "m" / "person.png", Options(overlay=True))
    assert [Path(output["path"]).name for output in report.outputs] == ["person.png", "person_overlay.png"]
    with pytest.raises(UsageError, match=r"mask.tif: no format has that ending"):
        predict(predictor, folder / "a.png", tmp_path / "mask.tif")


def test_volumes_get_nifti_and_are_refused_as_png(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    predictor = Predictor(tiny_model, device="cpu", engine="torch", precision="fp32")
    image = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    (report,) = predict(predictor, image, tmp_path / "out", Options(overlay=True))
    assert [Path(output["path"]).name for output in report.outputs] == ["case_01_seg.nii.gz", "case_01_overlay.png"]
    (refused,) = predict(predictor, image, tmp_path / "png", Options(formats=("png",)))
    assert refused.error == f"png holds pictures, but {image} is a volume of 24x24x16 voxels."
    assert not (tmp_path / "png" / "case_01_mask.png").exists()


def test_a_grey_tiff_is_a_picture_too(predictor: Predictor, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "g.tif", np.random.default_rng(0).integers(0, 65535, (30, 40), np.uint16))
    (report,) = predict(predictor, tmp_path / "g.tif", tmp_path / "out")
    assert report.status == "done", report.error
