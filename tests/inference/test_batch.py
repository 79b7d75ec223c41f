"""Folders in, masks and predict.json out; one bad case does not stop the others."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import yaml

from medunet.demo.dicom_export import write_ct_export
from medunet.errors import OutputError, UsageError
from medunet.geometry import Geometry
from medunet.inference.batch import CaseReport, Options, predict
from medunet.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor(tiny_model, device="cpu", precision="fp32")


@pytest.fixture
def folder(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Three images, the second one cut off, and a file that is no image."""
    target = tmp_path / "in"
    target.mkdir()
    for number in (1, 2, 3):
        shutil.copy(tiny_dataset / "imagesTr" / f"case_{number:02d}.nii.gz", target / f"case_{number:02d}.nii.gz")
    bad = target / "case_02.nii.gz"
    bad.write_bytes(bad.read_bytes()[:5000])
    (target / "readme.txt").write_text("nothing to see")
    return target


def by_status(reports: list[CaseReport]) -> dict[str, str]:
    return {report.case: report.status for report in reports}


def test_a_bad_case_is_reported_and_the_others_are_written(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    out = tmp_path / "out"
    reports = predict(predictor, folder, out, progress=lambda done, total, _: steps.append((done, total)))
    assert by_status(reports) == {"case_01": "done", "case_02": "failed", "case_03": "done"}
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert sorted(path.name for path in out.iterdir()) == ["case_01_seg.nii.gz", "case_03_seg.nii.gz", "predict.json"]
    assert "case_02.nii.gz cannot be read as NIfTI" in reports[1].error
    assert reports[1].outputs == []


def test_several_cases_end_with_a_line_about_the_machine(
    predictor: Predictor, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medunet")

    def lines() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("Mean and peak of ")]

    predict(predictor, folder / "case_01.nii.gz", tmp_path / "one")
    predict(predictor, folder, tmp_path / "silent", Options(monitor=0))
    assert lines() == []
    predict(predictor, folder, tmp_path / "out")
    (line,) = lines()
    assert "CPU" in line
    assert "; 2 done, 1 failed, 0 waiting, " in line


def test_images_that_are_not_segmented_are_a_warning_and_a_note_of_the_report(
    predictor: Predictor, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "case_04.mgz").write_bytes(b"x")
    (folder / "more").mkdir()
    shutil.copy(folder / "case_01.nii.gz", folder / "more" / "case_05.nii.gz")
    out = folder / "masks"
    out.mkdir()
    (out / "old.heic").write_bytes(b"x")
    predict(predictor, folder, out)
    kind = "1 file is of a kind that is not read: case_04.mgz."
    place = "1 volume in a sub-folder was left out: more/case_05.nii.gz. Give each sub-folder as an input of its own."
    written = json.loads((out / "predict.json").read_text())["notes"]
    for note in (kind, place):
        assert caplog.messages.count(note) == 1
        assert note in written
    predict(predictor, folder / "case_01.nii.gz", tmp_path / "one")
    assert caplog.messages.count(kind) == 1


def test_predict_json_says_what_was_done(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    predict(predictor, folder, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert report["labels"] == {"background": 0, "organ": 4, "core": 205}
    assert report["models"][0]["weights_sha256"] == predictor.models[0].id
    assert {"torch", "medunet", "python"} <= report["versions"].keys()
    assert (report["device"], report["precision"], report["tta"]) == ("cpu", "float32", False)
    good, bad, _ = report["cases"]
    assert good["input"] == str(folder / "case_01.nii.gz")
    assert good["seconds"] > 0
    assert good["peak_memory_bytes"] is None or good["peak_memory_bytes"] > 1_000_000
    (output,) = good["outputs"]
    assert hashlib.sha256(Path(output["path"]).read_bytes()).hexdigest() == output["sha256"]
    mask = np.asarray(nibabel.load(output["path"]).dataobj)
    for name, value in (("organ", 4), ("core", 205)):
        assert good["volumes_ml"][name] == pytest.approx((mask == value).sum() * 1.5 * 1.5 * 2 / 1000, abs=1e-3)
    assert bad["error"]
    assert bad["hint"] == "Copy or export it again."
    assert bad["outputs"] == []


def test_predict_json_names_no_value_that_masks_never_hold(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    spec = yaml.safe_load((model / "model.yaml").read_text())
    spec["labels"]["ignore"] = 255
    (model / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    predict(Predictor(model, device="cpu"), folder, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert report["labels"] == {"background": 0, "organ": 4, "core": 205}


def test_an_empty_mask_is_remarked_on(tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    spec = yaml.safe_load((model / "model.yaml").read_text())
    spec["postprocess"] = [{"name": "remove_small", "label": label, "ml": 1000.0} for label in ("organ", "core")]
    (model / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    image = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    (report,) = predict(Predictor(model, device="cpu"), image, tmp_path / "out")
    assert report.status == "done"
    assert report.warnings == ["No structure was found; the mask is empty."]
    assert report.volumes_ml == {"organ": 0.0, "core": 0.0}


def test_flags_are_in_the_report_and_on_the_terminal(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    (tmp_path / "in").mkdir()
    shutil.copy(tiny_dataset / "imagesTr" / "case_01.nii.gz", tmp_path / "in" / "usual.nii.gz")
    coarse = nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([1.5, 1.5, 2.6, 1.0]))
    nibabel.save(coarse, tmp_path / "in" / "coarse.nii.gz")
    predict(predictor, tmp_path / "in", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "predict.json").read_text())
    odd, usual = report["cases"]
    message = "The spacing is 2.6 mm head-foot (training saw 2 mm)."
    assert odd["flags"] == [{"name": "spacing", "structure": None, "message": message}]
    assert odd["warnings"] == usual["flags"] == report["notes"] == []
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [f"coarse: {message}"]


def test_a_model_that_does_not_say_what_training_saw_flags_nothing_and_says_so(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    spec = yaml.safe_load((model / "model.yaml").read_text())
    del spec["seen"]
    (model / "model.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    predict(Predictor(model, device="cpu"), tiny_dataset / "imagesTr" / "case_01.nii.gz", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert report["notes"] == ["The model does not say what training saw, so that unusual cases are not flagged."]
    assert report["cases"][0]["flags"] == []


def test_one_file_goes_to_one_file_without_a_report_beside_it(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path
) -> None:
    source = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    predict(predictor, source, tmp_path / "deep" / "liver.nii.gz", Options(report=tmp_path / "report.json"))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["liver.nii.gz"]
    assert json.loads((tmp_path / "report.json").read_text())["cases"][0]["status"] == "done"


def test_several_formats_hold_the_same_mask(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    reports = predict(predictor, folder, tmp_path / "out", Options(formats=("nifti", "nrrd", "nifti")))
    assert [Path(output["path"]).name for output in reports[0].outputs] == ["case_01_seg.nii.gz", "case_01_seg.nrrd"]
    one, two = (SimpleITK.ReadImage(output["path"]) for output in reports[0].outputs)
    assert np.array_equal(SimpleITK.GetArrayFromImage(one), SimpleITK.GetArrayFromImage(two))
    assert np.allclose(one.GetOrigin(), two.GetOrigin())
    assert np.allclose(one.GetDirection(), two.GetDirection())


@pytest.mark.parametrize("target", ["out", "out/case_01_seg.nii.gz"])
def test_probabilities_are_written_beside_the_mask(
    predictor: Predictor, tiny_dataset: Path, target: str, tmp_path: Path
) -> None:
    source = tiny_dataset / "imagesTr" / "case_01.nii.gz"
    (tmp_path / "out").mkdir()
    (report,) = predict(predictor, source, tmp_path / target, Options(probabilities=True))
    mask, probabilities = (nibabel.load(output["path"]) for output in report.outputs)
    assert Path(report.outputs[1]["path"]).name == "case_01_prob.nii.gz"
    assert probabilities.shape == (24, 24, 16, 3)
    assert np.array_equal(probabilities.affine, mask.affine)
    assert np.allclose(probabilities.get_fdata().sum(axis=3), 1, atol=1e-5)


def test_existing_masks_are_skipped_and_stay_in_the_report(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out", Options(skip_existing=True)
    first = predict(predictor, folder, out, options)
    stamp = (out / "case_01_seg.nii.gz").stat().st_mtime_ns
    shutil.copy(folder / "case_01.nii.gz", folder / "case_02.nii.gz")
    second = predict(predictor, folder, out, options)
    assert by_status(second) == {"case_01": "skipped", "case_02": "done", "case_03": "skipped"}
    assert second[0].outputs == first[0].outputs
    assert (out / "case_01_seg.nii.gz").stat().st_mtime_ns == stamp


def test_a_case_without_its_probabilities_is_not_skipped(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    predict(predictor, folder, tmp_path / "out")
    again = predict(predictor, folder, tmp_path / "out", Options(skip_existing=True, probabilities=True))
    assert by_status(again)["case_01"] == "done"
    assert (tmp_path / "out" / "case_01_prob.nii.gz").is_file()


@pytest.mark.parametrize(
    ("options", "output", "message"),
    [
        (Options(formats=("tiff",)), "out", '"tiff" is no output format'),
        (Options(formats=()), "out", "No output format"),
        (Options(), "out/mask.nii.gz", "is one file, but there are 3 cases"),
        (Options(), "out/mask.tif", "cannot be written to"),
        (Options(), "out/mask.mhd", "cannot be written to"),
        (Options(formats=("nrrd",)), "out/mask.nii.gz", "has not the ending of the format nrrd"),
        (Options(), "in", "is input and output"),
    ],
    ids=["format", "no format", "several cases", "picture", "two files", "format and ending", "over the input"],
)
def test_an_output_that_cannot_be_is_refused_before_anything_is_written(
    predictor: Predictor, folder: Path, options: Options, output: str, message: str, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message):
        predict(predictor, folder, tmp_path / output, options)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_image_is_not_overwritten_by_its_mask(predictor: Predictor, folder: Path) -> None:
    source = folder / "case_01.nii.gz"
    before = source.read_bytes()
    with pytest.raises(UsageError, match="is input and output"):
        predict(predictor, source, folder / "../in/case_01.nii.gz")
    assert source.read_bytes() == before


def test_a_file_in_the_way_of_the_output_folder_is_an_error(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        predict(predictor, folder, tmp_path / "out")


def test_a_defect_in_one_case_is_reported_as_one(
    predictor: Predictor, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Predictor.__call__

    def broken(self: Predictor, source: Any, **more: Any) -> Any:
        if "case_01" in str(source.source.path):
            raise ZeroDivisionError("division by zero")
        return original(self, source, **more)

    monkeypatch.setattr(Predictor, "__call__", broken)
    reports = predict(predictor, folder, tmp_path / "out")
    assert by_status(reports) == {"case_01": "failed", "case_02": "failed", "case_03": "done"}
    assert reports[0].error == "Something unexpected went wrong: ZeroDivisionError: division by zero"


def test_studies_below_a_folder_are_cases_of_their_own(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path
) -> None:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz").as_reoriented([[0, -1], [1, -1], [2, 1]])
    geometry = Geometry.from_affine(image.affine, image.shape)
    for seed, name in enumerate(("patient.01", "patient.02")):
        write_ct_export(np.asarray(image.dataobj), geometry, tmp_path / "in" / name, seed=seed)
    shutil.copy(tiny_dataset / "imagesTr" / "case_02.nii.gz", tmp_path / "in")
    reports = predict(predictor, tmp_path / "in", tmp_path / "out")
    assert by_status(reports) == {"case_02": "done", "patient.01": "done", "patient.02": "done"}
    assert any("Scout" in warning for warning in reports[1].warnings)
    masks = [nibabel.load(tmp_path / "out" / f"patient.0{n}_seg.nii.gz") for n in (1, 2)]
    assert np.array_equal(masks[0].dataobj, masks[1].dataobj)
    assert np.asarray(masks[0].dataobj).any()


SLOW_WRITER = """
import sys
import nibabel
from medunet.inference.batch import predict
from medunet.inference.predictor import Predictor

original = nibabel.save

def cut_off(image, path):
    import os, signal
    original(image, path)
    if "case_03" in str(path):
        os.truncate(path, 300)
        os.kill(os.getpid(), signal.SIGKILL)

nibabel.save = cut_off
predict(Predictor(sys.argv[1], device="cpu"), sys.argv[2], sys.argv[3])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_prediction_leaves_whole_files_only(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", SLOW_WRITER, tiny_model, folder, out],
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == -9
    visible = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert visible == ["case_01_seg.nii.gz", "predict.json"]
    report = json.loads((out / "predict.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["done", "failed"]
    assert np.asarray(nibabel.load(out / "case_01_seg.nii.gz").dataobj).any()


def test_a_full_disk_fails_the_case_and_leaves_nothing(
    predictor: Predictor, tiny_dataset: Path, tmp_path: Path, full_disk: Callable[[str], None]
) -> None:
    full_disk("_seg.part")
    (report,) = predict(predictor, tiny_dataset / "imagesTr" / "case_01.nii.gz", tmp_path / "out")
    assert report.status == "failed"
    assert "No space left on device" in report.error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predict.json"]
