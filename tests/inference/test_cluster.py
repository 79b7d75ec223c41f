"""On a Ray cluster of two nodes the masks are those of one machine, also when a node dies over a case."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import psutil
import pytest

from medunet.errors import DeviceError, UsageError
from medunet.inference.batch import predict
from medunet.inference.cluster import predict_on_cluster
from medunet.inference.predictor import Predictor

SCRIPT = Path(__file__).with_name("two_nodes.py")
LOOPBACK = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}
ENVIRONMENT = {**os.environ, **LOOPBACK}

PATIENCE = 240  # seconds; Ray starts slowly on a busy machine

needs_ray = pytest.mark.skipif(
    sys.platform == "win32" or importlib.util.find_spec("ray") is None, reason="Ray is not installed (medunet[ray])"
)


@dataclass
class TwoNodes:
    """The process that keeps the cluster."""

    process: subprocess.Popen[str]
    address: str

    def kill_second(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("kill\n")
        self.process.stdin.flush()


class Run:
    """A running `medunet -v predict --ray`; its output goes to files, which can be read meanwhile."""

    def __init__(self, log: Path, address: str, model: Path, source: Path, out: Path, *more: str) -> None:
        arguments = ["-v", "predict", "--ray", address, "-m", model, "-i", source, "-o", out, "-d", "cpu", *more]
        self._said, self._complained = log.with_suffix(".out"), log.with_suffix(".err")
        with open(self._said, "w") as said, open(self._complained, "w") as complained:
            command = [sys.executable, "-m", "medunet", *map(str, arguments)]
            self.process = subprocess.Popen(command, env=ENVIRONMENT, stdout=said, stderr=complained)

    def said(self) -> str:
        return self._said.read_text()

    def complained(self) -> str:
        return self._complained.read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, self.complained()
            assert time.monotonic() < end, self.complained()
            time.sleep(0.02)

    def code(self) -> int:
        return self.process.wait(PATIENCE)


@pytest.fixture
def two_nodes() -> Iterator[TwoNodes]:
    process = subprocess.Popen(
        [sys.executable, SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    family: list[psutil.Process] = []
    with process.stdin, process.stdout:
        try:
            address = process.stdout.readline().strip()
            family = psutil.Process(process.pid).children(recursive=True)
            assert address.startswith("127.0.0.1:")
            yield TwoNodes(process, address)
            process.stdin.close()
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.kill()


@pytest.fixture
def folder(tmp_path: Path, blob: Callable[..., Any]) -> Path:
    """Six images, large enough that a case takes a second or more."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        image, _ = blob(number, (72, 72, 48))
        nibabel.save(
            nibabel.Nifti1Image(image, np.diag([1.5, 1.5, 2.0, 1.0])), tmp_path / "in" / f"case_{number}.nii.gz"
        )
    return tmp_path / "in"


def masks(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.glob("*_seg.nii.gz")}


def entries(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "predict.json").read_text())["cases"]
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Starts `medunet predict --ray`; what is still running at the end is ended."""
    runs: list[Run] = []

    def begin(address: str, model: Path, source: Path, out: Path, *more: str) -> Run:
        runs.append(Run(tmp_path / f"log {len(runs)}", address, model, source, out, *more))
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()


@needs_ray
@pytest.mark.slow
def test_a_node_that_dies_over_a_case_changes_no_mask(
    tiny_model: Path, folder: Path, tmp_path: Path, two_nodes: TwoNodes, start: Callable[..., Run]
) -> None:
    here, out = tmp_path / "here", tmp_path / "out"
    predict(Predictor(tiny_model, device="cpu"), folder, here)
    run = start(two_nodes.address, tiny_model, folder, out)
    run.wait_for(lambda: len(set(re.findall(r"goes to node (\w+)", run.complained()))) == 2)
    two_nodes.kill_second()
    assert run.code() == 0, run.complained()
    assert "the worker on it died; it is done again on another" in run.complained()
    assert "Traceback" not in run.complained()
    assert masks(out) == masks(here)
    assert run.said().splitlines() == [str(out / f"case_{number}_seg.nii.gz") for number in range(6)]
    assert [case["status"] for case in entries(out)] == ["done"] * 6
    for mine, theirs in zip(entries(out), entries(here), strict=True):
        assert mine["volumes_ml"] == theirs["volumes_ml"]
        assert mine["outputs"][0]["sha256"] == theirs["outputs"][0]["sha256"]


@needs_ray
@pytest.mark.slow
def test_a_stopped_run_on_a_cluster_is_resumed(
    tiny_model: Path, folder: Path, tmp_path: Path, two_nodes: TwoNodes, start: Callable[..., Run]
) -> None:
    bad = folder / "case_0.nii.gz"
    bad.write_bytes(bad.read_bytes()[:5000])
    out = tmp_path / "out"
    run = start(two_nodes.address, tiny_model, folder, out)
    run.wait_for(lambda: (out / "predict.json").exists() and len(entries(out)) >= 2)
    run.process.send_signal(signal.SIGTERM)
    assert run.code() == 130, run.complained()
    assert run.complained().endswith("medunet: stopped.\n")
    before = {case["case"]: case for case in entries(out)}
    assert 2 <= len(before) < 6
    again = start(two_nodes.address, tiny_model, folder, out, "--skip-existing")
    assert again.code() == 3, again.complained()
    assert entries(out)[0]["status"] == "failed"
    for case in entries(out)[1:]:
        if case["case"] in before:
            assert case == {**before[case["case"]], "status": "skipped"}
        else:
            assert case["status"] == "done"


def call(model: Path, folder: Path, address: str, device: str = "cpu") -> Any:
    return predict_on_cluster([model], folder, folder.parent / "out", address=address, settings={"device": device})


def test_without_ray_a_sentence_says_how_to_get_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        call(tiny_model, tmp_path, "auto")
    assert 'pip install "medunet[ray]"' in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("address", ["", "here", "ray://here:10001", "host:", ":6379", "a b:1"])
def test_an_address_that_is_none_is_refused(tiny_model: Path, tmp_path: Path, address: str) -> None:
    with pytest.raises(UsageError, match="is no address of a Ray cluster"):
        call(tiny_model, tmp_path, address)


def test_one_certain_gpu_cannot_be_asked_for(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="cannot be chosen on a cluster"):
        call(tiny_model, tmp_path, "auto", "cuda:1")


class NoConnection:
    """Ray before it is connected."""

    @staticmethod
    def is_initialized() -> bool:
        return False


def test_a_cluster_that_does_not_answer_is_a_sentence(
    tiny_model: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.inference.cluster._import_ray", NoConnection)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        port = taken.getsockname()[1]
        begin = time.monotonic()
        with pytest.raises(DeviceError, match=f"No Ray cluster answers at 127.0.0.1:{port}"):
            predict_on_cluster([tiny_model], tiny_dataset / "imagesTr", tmp_path / "out", address=f"127.0.0.1:{port}")
    assert time.monotonic() - begin < 10
