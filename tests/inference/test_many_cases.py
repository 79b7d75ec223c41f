"""Folders of cases: killed and resumed, stopped, on a disk that fills up; neighbours overlap and do not disturb."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest
import SimpleITK

from medunet.inference.batch import Options, predict
from medunet.inference.predictor import Predictor

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TIMES = ("seconds", "peak_memory_bytes", "forecast_memory_bytes", "status")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals and limits of POSIX")


@pytest.fixture(scope="module")
def predictor(tiny_model: Path) -> Predictor:
    return Predictor(tiny_model, device="cpu", precision="fp32")


@pytest.fixture
def folder(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Six images."""
    return shutil.copytree(tiny_dataset / "imagesTr", tmp_path / "in")


def report_of(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "predict.json").read_text())
    return content


def lasting(out: Path) -> list[dict[str, Any]]:
    """The cases of a report without what differs from run to run."""
    text = (out / "predict.json").read_text().replace(str(out), "OUT")
    return [{key: value for key, value in case.items() if key not in TIMES} for case in json.loads(text)["cases"]]


def masks(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*_seg.*")}


def check_true(out: Path) -> None:
    """Every visible file is whole, and every entry is that of a file as it is."""
    for path in out.glob("*.nii.gz"):
        if not path.name.startswith("."):
            np.asarray(nibabel.load(path).dataobj)
    for path in out.glob("*.nrrd"):
        if not path.name.startswith("."):
            SimpleITK.ReadImage(str(path))
    for case in report_of(out)["cases"]:
        for output in case["outputs"]:
            assert hashlib.sha256(Path(output["path"]).read_bytes()).hexdigest() == output["sha256"]


@pytest.mark.parametrize("ahead", [True, False], ids=["overlapped", "one at a time"])
def test_overlap_changes_no_result_and_no_order(
    predictor: Predictor, folder: Path, tmp_path: Path, ahead: bool
) -> None:
    bad = folder / "case_03.nii.gz"
    bad.write_bytes(bad.read_bytes()[:5000])
    steps: list[tuple[int, str]] = []
    reports = predict(
        predictor,
        folder,
        tmp_path / "out",
        Options(ahead=ahead),
        progress=lambda done, _, last: steps.append((done, last.case if last else "")),
    )
    assert steps == [(0, ""), *((n + 1, f"case_{n:02d}") for n in range(6))]
    assert [report.status for report in reports] == ["done", "done", "done", "failed", "done", "done"]
    for report in reports:
        if report.status == "done":
            alone = predictor(folder / f"{report.case}.nii.gz")
            written = np.asarray(nibabel.load(report.outputs[0]["path"]).dataobj)
            assert np.array_equal(written, alone.labels.to_values(alone.array))
            assert report.seconds > 0
            assert report.peak_memory_bytes is None or report.peak_memory_bytes > 1_000_000


def test_neighbours_really_overlap(
    predictor: Predictor, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a nap in each stage, six cases take 8 naps instead of 18; no child helps."""
    nap, children = 0.3, []
    original, save = Predictor.__call__, nibabel.save
    read = sys.modules["medunet.inference.inputs"].read_volume

    def slow_read(*what: Any, **more: Any) -> Any:
        time.sleep(nap)
        return read(*what, **more)

    def slow_call(self: Predictor, *what: Any, **more: Any) -> Any:
        time.sleep(nap)
        children.extend(psutil.Process().children())
        return original(self, *what, **more)

    def slow_save(*what: Any) -> None:
        time.sleep(nap)
        save(*what)

    monkeypatch.setattr("medunet.inference.inputs.read_volume", slow_read)
    monkeypatch.setattr(Predictor, "__call__", slow_call)
    monkeypatch.setattr(nibabel, "save", slow_save)
    seconds = {}
    for ahead in (True, False):
        start = time.monotonic()
        reports = predict(predictor, folder, tmp_path / f"out {ahead}", Options(ahead=ahead))
        seconds[ahead] = time.monotonic() - start
        assert all(3 * nap < report.seconds < 3 * nap + seconds[ahead] / 4 for report in reports)
    assert seconds[True] < seconds[False] - 5 * nap
    assert children == []


def test_a_changed_mask_and_a_half_set_of_outputs_are_predicted_again(
    predictor: Predictor, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, options = tmp_path / "out", Options(formats=("nifti", "nrrd"), skip_existing=True)
    predict(predictor, folder, out, options)
    before, wanted = report_of(out), masks(out)
    shutil.copy(out / "case_01_seg.nii.gz", out / "case_02_seg.nii.gz")
    (out / "case_04_seg.nrrd").unlink()
    reports = predict(predictor, folder, out, options)
    assert [report.status for report in reports] == ["skipped", "skipped", "done", "skipped", "done", "skipped"]
    assert masks(out) == wanted
    assert "case_02: " in caplog.text
    kept, again = report_of(out)["cases"][0], before["cases"][0]
    assert kept == {**again, "status": "skipped"}
    assert kept["volumes_ml"]
    assert kept["seconds"] > 0


def start(*arguments: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medunet", "predict", *map(str, arguments)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until `condition`, or until the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    predictor: Predictor, folder: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    formats = ("nifti", "nrrd")
    for number in range(6, 12):
        shutil.copy(folder / f"case_{number % 6:02d}.nii.gz", folder / f"case_{number:02d}.nii.gz")
    model = predictor.models[0].path
    predict(Predictor(model, device="cpu", engine="torch"), folder, whole, Options(formats=formats))
    call = ("-m", model, "-i", folder, "-o", out, "-d", "cpu", "--engine", "torch", "-f", ",".join(formats))
    moments, killed = random.Random(time.time_ns()), 0
    for _ in range(3):
        process = start(*call, "--skip-existing")
        report = out / "predict.json"
        before = report.read_bytes() if report.exists() else b""
        wait_for(lambda: report.exists() and report.read_bytes() != before, process)  # noqa: B023
        time.sleep(moments.uniform(0, 0.4))
        process.kill()
        process.communicate()
        killed += process.returncode == -9
        check_true(out)
    last = start(*call, "--skip-existing")
    _, said = last.communicate()
    assert last.returncode == 0, said
    check_true(out)
    assert killed >= 1
    assert masks(out) == masks(whole)
    assert lasting(out) == lasting(whole)
    assert {case["status"] for case in report_of(out)["cases"]} <= {"done", "skipped"}


STOPPED = """
import os, signal, sys, time
import nibabel
from medunet.cli.main import main
from medunet.inference.predictor import Predictor

save, call = nibabel.save, Predictor.__call__

def slow(image, path):
    time.sleep(0.7)
    save(image, path)

def stopped(self, volume, **more):
    if "case_03" in str(volume.source.path):
        os.kill(os.getpid(), signal.NAME)
    return call(self, volume, **more)

nibabel.save, Predictor.__call__ = slow, stopped
main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_stopped_run_finishes_what_it_writes_and_ends_with_130(
    predictor: Predictor, folder: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED.replace("NAME", name))
    arguments = ("predict", "-m", predictor.models[0].path, "-i", folder, "-o", out, "-d", "cpu")
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr.endswith("\nmedunet: stopped.\n")
    assert len(done.stderr.splitlines()) <= 5  # the forecasts of the cases that were begun, and how the machine was
    names = sorted(path.name for path in out.iterdir())
    assert names == [*(f"case_0{n}_seg.nii.gz" for n in range(3)), "predict.json"]
    assert [(case["case"], case["status"]) for case in report_of(out)["cases"]] == [
        (f"case_0{n}", "done") for n in range(3)
    ]
    check_true(out)


LIMITED = """
import resource, sys
from medunet.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
main()
"""


def full_by_limit(arguments: list[str]) -> list[str]:
    return [sys.executable, "-c", LIMITED, *arguments]


def full_by_disk(arguments: list[str]) -> list[str]:
    """A disk of 1 MB in a name space of its own; what is left on it is copied to OUT.left."""
    out = arguments[arguments.index("-o") + 1]
    Path(out).mkdir()
    Path(f"{out}.left").mkdir()
    mount = 'mount -t tmpfs -o size=1000k none "$0"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount, out], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    work = f'{mount} && {{ "$@"; code=$?; cp -a "$0"/. "$0.left"; exit $code; }}'
    return ["unshare", "-rm", "sh", "-c", work, out, sys.executable, "-m", "medunet", *arguments]


def test_what_a_killed_run_left_half_written_goes(predictor: Predictor, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    stays = out / ".case_77_seg.part-4ad82b8e.nii.gz"  # of a case of another call
    for name in (".case_01_seg.part-4ad82b8e.nii.gz", ".predict.part-0a0a0a0a.json", stays.name):
        (out / name).write_bytes(b"")
    predict(predictor, folder, out, Options())
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [stays.name]


@pytest.mark.parametrize("full", [full_by_limit, full_by_disk])
def test_a_disk_that_fills_up_fails_the_case_that_does_not_fit(
    predictor: Predictor,
    folder: Path,
    tmp_path: Path,
    blob: Callable[..., Any],
    full: Callable[[list[str]], list[str]],
) -> None:
    image, _ = blob(7, (72, 72, 48))
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2.0, 1.0])), folder / "case_02.nii.gz")
    for number in (4, 5):
        (folder / f"case_{number:02d}.nii.gz").unlink()
    out = tmp_path / "out"
    arguments = ["predict", "-m", predictor.models[0].path, "-i", folder, "-o", out, "-d", "cpu"]
    done = subprocess.run(
        full([*map(str, arguments), "--save-probabilities"]),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    reason = "File too large" if full is full_by_limit else "No space left on device"
    assert f"case_02 failed: {out / 'case_02_prob.nii.gz'} cannot be written: {reason}." in done.stderr
    assert "Traceback" not in done.stderr
    left = out if full is full_by_limit else tmp_path / "out.left"
    report = report_of(left)
    assert [case["status"] for case in report["cases"]] == ["done", "done", "failed", "done"]
    names = {Path(output["path"]).name for case in report["cases"] for output in case["outputs"]}
    assert {path.name for path in left.iterdir()} == {*names, "predict.json"}
    for name in names:
        np.asarray(nibabel.load(left / name).dataobj)
