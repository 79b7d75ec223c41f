"""`medunet predict`: paths on stdout, exit codes, and the options as the batch gets them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medunet.demo.dicom_export import write_ct_export
from medunet.geometry import Geometry


@pytest.fixture
def folder(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Two good images."""
    (tmp_path / "in").mkdir()
    for number in (1, 2):
        shutil.copy(tiny_dataset / "imagesTr" / f"case_{number:02d}.nii.gz", tmp_path / "in")
    return tmp_path / "in"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


def test_stdout_is_the_paths_of_the_masks_and_nothing_else(
    cli: Any, tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    done = cli("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out", "-d", "cpu")
    assert done.code == 0
    assert done.out.splitlines() == [str(tmp_path / "out" / f"case_0{n}_seg.nii.gz") for n in (1, 2)]
    forecasts = [line for line in done.err.splitlines() if "windows; about" in line and "of memory, with torch" in line]
    assert forecasts == done.err.splitlines()[:-1]
    assert len(forecasts) == 2
    assert done.err.splitlines()[-1].startswith("Mean and peak of ")
    silent = cli("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out", "-d", "cpu", "--monitor", 0)
    assert len(silent.err.splitlines()) == 2


def test_torch_does_not_load_its_compiler_for_a_mask(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    """It would take a second of every call."""
    image, mask = folder / "case_01.nii.gz", tmp_path / "mask.nii.gz"
    command = ["predict", "-m", tiny_model, "-i", image, "-o", mask, "-d", "cpu"]
    code = (
        f"import sys; sys.argv = {['medunet', *map(str, command)]}\n"
        "from medunet.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert mask.is_file()


def test_one_bad_case_ends_with_3_and_the_others_are_written(
    cli: Any, tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    truncate(folder / "case_01.nii.gz")
    done = cli("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out")
    assert done.code == 3
    assert done.out == f"{tmp_path / 'out' / 'case_02_seg.nii.gz'}\n"
    assert "case_01 failed:" in done.err
    assert done.err.endswith("medunet: 1 of 2 cases failed.\n")
    assert "Traceback" not in done.err
    cases = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert [case["status"] for case in cases] == ["failed", "done"]
    assert "cannot be read as NIfTI" in cases[0]["error"]


def test_all_cases_bad_end_with_1(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    for image in folder.iterdir():
        truncate(image)
    done = cli("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith("medunet: 2 of 2 cases failed.\n")


def test_one_bad_file_ends_with_1_and_one_sentence(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    truncate(folder / "case_01.nii.gz")
    done = cli("predict", "-m", tiny_model, "-i", folder / "case_01.nii.gz", "-o", tmp_path / "mask.nii.gz")
    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "mask.nii.gz").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"-i": "missing.nii.gz"}, "There is no input"),
        ({"-m": "missing"}, "There is no model"),
        ({"-f": "tiff"}, '"tiff" is no output format'),
        ({"-d": "quantum"}, '"quantum" is no device'),
        ({"--engine": "magic"}, "magic"),
        ({"--set": "postprocess=[{name: fill_holes, label: organn}]"}, "Did you mean organ?"),
        ({"--set": "postprocess.0.ml=-1"}, "postprocess"),
        ({"--set": "inference.overlap=2"}, "must be a number of at least 0 and less than 1"),
        ({"--set": "network.dims=2"}, "only inference, postprocess and terms can"),
        ({"--monitor": "often"}, '--monitor is "often"; it must be a time. Write 90s'),
        ({"--set": "overlap"}, "must be written as key=value"),
        ({"--ray": "nowhere"}, '"nowhere" is no address of a Ray cluster'),
        ({"--memory-limit": "lots"}, '"lots" is no size of memory'),
        ({"-o": "mask.tif"}, "A mask cannot be written to"),
        ({"-o": "mask.nii.gz"}, "is one file, but there are 2 cases"),
    ],
    ids=lambda value: " ".join(value.values()) if isinstance(value, dict) else "",
)
def test_a_wrong_call_ends_with_2(
    cli: Any,
    tiny_model: Path,
    folder: Path,
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"-m": tiny_model, "-i": folder, "-o": tmp_path / "out", **changes}
    done = cli("predict", *(part for option in options.items() for part in option))
    assert done.code == 2, done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_device_that_is_absent_ends_with_1(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    done = cli("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out", "-d", "cuda:9")
    assert done.code == 1
    assert 'The device "cuda:9" was asked for' in done.err
    assert not (tmp_path / "out").exists()


def test_a_limit_that_is_too_small_is_refused_with_a_number(
    cli: Any, tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    arguments = ("predict", "-m", tiny_model, "-i", folder, "-o", tmp_path / "out", "--memory-limit")
    done = cli(*arguments, "20MB")
    assert done.code == 1
    assert "of memory at least; 20 MB may be taken" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predict.json"]
    assert cli(*arguments, "4GB").code == 0


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_report_says_what_computed_and_what_was_expected(
    cli: Any, tiny_model: Path, folder: Path, tmp_path: Path, engine: str
) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    assert cli("predict", "-m", model, "-i", folder, "-o", tmp_path / "out", "--engine", engine).code == 0
    for case in json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]:
        assert case["engine"] == engine
        assert case["forecast_memory_bytes"] > 50_000_000


def test_options_reach_the_batch(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    arguments = (
        *("predict", "-m", tiny_model, "-m", tiny_model, "-i", folder, "-o", tmp_path / "out", "--tta"),
        *("-f", "nifti, nrrd", "--save-probabilities", "--report", report, "--skip-existing"),
    )
    first, second = cli(*arguments), cli(*arguments)
    names = [Path(line).name for line in first.out.splitlines()]
    assert names[:3] == ["case_01_seg.nii.gz", "case_01_seg.nrrd", "case_01_prob.nii.gz"]
    assert (second.code, second.out) == (0, first.out)
    content = json.loads(report.read_text())
    assert content["tta"] is True
    assert len(content["models"]) == 2
    assert [case["status"] for case in content["cases"]] == ["skipped", "skipped"]
    assert not (tmp_path / "out" / "predict.json").exists()


def test_uncertainty_is_written_and_told(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ("predict", "-m", tiny_model, "-i", folder / "case_01.nii.gz", "--save-uncertainty", "-d", "cpu")
    assert cli(*arguments, "-o", tmp_path / "one").code == 0
    assert cli(*arguments, "-m", tiny_model, "-o", tmp_path / "two", "--tta").code == 0
    assert not (tmp_path / "one" / "case_01_disagreement.nii.gz").exists()
    image = nibabel.load(folder / "case_01.nii.gz")
    for name, highest in (("entropy", 1.0), ("disagreement", 0.0)):  # a model does not disagree with itself
        found = nibabel.load(tmp_path / "two" / f"case_01_{name}.nii.gz")
        assert found.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine)
        values = np.asarray(found.dataobj)
        assert 0 <= values.min() <= values.max() <= highest + 1e-6
    (case,) = json.loads((tmp_path / "two" / "predict.json").read_text())["cases"]
    assert len(case["outputs"]) == 3
    for numbers in case["uncertainty"].values():
        assert 0 <= numbers["entropy"] <= 1
        assert numbers["disagreement"] == 0


def test_steps_are_set_for_one_prediction(cli: Any, tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    image, out = folder / "case_01.nii.gz", tmp_path / "mask.nii.gz"
    arguments = ("predict", "-m", tiny_model, "-i", image, "-o", out, "--report", tmp_path / "report.json")
    before = (tiny_model / "model.yaml").read_bytes()
    step = "{name: remove_small, labels: [organ, core], ml: 1000}"
    done = cli(*arguments, "--set", f"postprocess=[{step}]", "--set", "inference.overlap=0.125")
    assert done.code == 0
    assert not np.asarray(nibabel.load(out).dataobj).any()
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["overlap"] == 0.125
    assert content["postprocess"] == [{"name": "remove_small", "labels": ["organ", "core"], "ml": 1000.0}]
    assert (tiny_model / "model.yaml").read_bytes() == before
    assert cli(*arguments).code == 0
    assert np.asarray(nibabel.load(out).dataobj).any()


def test_a_series_of_an_export_is_chosen(cli: Any, tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    geometry = Geometry.from_affine(image.affine, image.shape)
    values = np.asarray(image.dataobj)
    for number, description in enumerate(("thin", "thick")):
        write_ct_export(values, geometry, tmp_path / "in" / description, seed=number, description=description)
    export = tmp_path / "in" / "thick"
    done = cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "mask.nii.gz", "--series", "thick")
    assert (done.code, done.out) == (0, f"{tmp_path / 'mask.nii.gz'}\n")
    assert "thick: " in done.err  # what was left out
    none = cli("predict", "-m", tiny_model, "-i", export, "-o", tmp_path / "none.nii.gz", "--series", "bone")
    assert none.code == 1
    assert "No series has the UID" in none.err
    assert not (tmp_path / "none.nii.gz").exists()


def test_quiet_says_only_what_failed(cli: Any, tiny_model: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    image = nibabel.load(tiny_dataset / "imagesTr" / "case_01.nii.gz")
    write_ct_export(np.asarray(image.dataobj), Geometry.from_affine(image.affine, image.shape), tmp_path / "in")
    done = cli("-q", "predict", "-m", tiny_model, "-i", tmp_path / "in", "-o", tmp_path / "mask.nii.gz")
    assert (done.code, done.err) == (0, "")
