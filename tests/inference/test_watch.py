"""A folder that is watched: what lies there and what comes is done once, through kills, bad files and full disks."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medunet.errors import OutputError, UsageError
from medunet.export import formats as module
from medunet.inference.batch import Options, predict
from medunet.inference.predictor import Predictor
from medunet.inference.watch import KEPT, Tally, watch


@pytest.fixture(scope="module")
def predictor(picture_model: Path) -> Predictor:
    return Predictor(picture_model, device="cpu", engine="torch", precision="fp32")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)).save(path)
    return path


class Watcher:
    """What was told, in the order in which it came."""

    def __init__(self) -> None:
        self.cases: list[tuple[str, str]] = []
        self.tally = Tally()

    def wait(self, count: int, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while len(self.cases) < count:
            assert time.monotonic() < end, self.cases
            time.sleep(0.02)


@contextmanager
def watching(predictor: Predictor, inbox: Path, out: Path, options: Options | None = None) -> Iterator[Watcher]:
    stop, seen = threading.Event(), Watcher()

    def run() -> None:
        seen.tally = watch(
            predictor, inbox, out, options, settle=0.2, stop=stop,
            told=lambda report: seen.cases.append((report.case, report.status)),
        )  # fmt: skip

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(timeout=30)
    assert not thread.is_alive()


def masks(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*_mask.png"))


def test_what_is_there_and_what_comes_is_done_once(predictor: Predictor, inbox: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    draw(inbox / "a.png")
    draw(inbox / "sub" / "b.jpg")
    with watching(predictor, inbox, out) as seen:
        seen.wait(2)
        draw(inbox / "sub" / "c.png", 1)
        seen.wait(3)
        draw(inbox / "a.jpg")  # the name of a mask that is there
        seen.wait(4)
        time.sleep(0.5)
    assert seen.cases == [(name, "done") for name in ("a", "sub/b", "sub/c", "a.jpg")]
    assert masks(out) == ["a.jpg_mask.png", "a_mask.png", "sub/b_mask.png", "sub/c_mask.png"]
    alone = predictor(inbox / "sub" / "c.png")
    written = np.asarray(Image.open(out / "sub" / "c_mask.png"))
    assert np.array_equal(written, alone.labels.to_values(alone.array).T)
    with watching(predictor, inbox, out) as again:
        time.sleep(0.6)
    assert again.cases == []
    listed = json.loads((out / "predict.json").read_text())["cases"]
    assert [(case["case"], case["status"]) for case in listed] == seen.cases
    draw(inbox / "a.png", 2)  # another picture of the same name
    with watching(predictor, inbox, out) as third:
        third.wait(1)
    assert third.cases == [("a", "done")]


def test_a_file_is_not_read_before_it_is_whole(predictor: Predictor, inbox: Path, tmp_path: Path) -> None:
    content = draw(tmp_path / "whole.png").read_bytes()
    with watching(predictor, inbox, tmp_path / "out") as seen:
        with open(inbox / "slow.png", "wb") as file:
            for part in (content[:1000], content[1000:2000], content[2000:3000], content[3000:]):
                file.write(part)
                file.flush()
                time.sleep(0.1)
        seen.wait(1)
    assert seen.cases == [("slow", "done")]


def test_a_bad_file_is_told_once_and_tried_again_when_it_changes(
    predictor: Predictor, inbox: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = draw(inbox / "good.png").read_bytes()
    (inbox / "bad.png").write_bytes(content[:500])
    with watching(predictor, inbox, tmp_path / "out") as seen:
        seen.wait(2)
        time.sleep(0.5)
        assert sorted(seen.cases) == [("bad", "failed"), ("good", "done")]
    with watching(predictor, inbox, tmp_path / "out") as again:
        time.sleep(0.5)
        assert again.cases == []
        (inbox / "bad.png").write_bytes(content)
        again.wait(1)
    assert again.cases == [("bad", "done")]
    assert caplog.text.count("bad failed") == 1


def test_a_full_disk_is_no_fault_of_the_file(
    predictor: Predictor, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medunet.inference.watch._FIRST_PAUSE", 0.4)
    original, full = module.FORMATS["png"].write, [True]

    def write(*what: Any) -> Path:
        if full:
            raise OutputError("The disk is full.")
        return original(*what)

    monkeypatch.setitem(module.FORMATS, "png", module.Format("_mask.png", (".png",), write, flat=True))
    draw(inbox / "a.png")
    with watching(predictor, inbox, tmp_path / "out") as seen:
        seen.wait(1)
        full.clear()
        seen.wait(2)
    assert seen.cases == [("a", "failed"), ("a", "done")]


def test_studies_come_as_folders_and_volumes_as_nifti(
    tiny_model: Path, write_study: Callable[..., Path], inbox: Path, tmp_path: Path
) -> None:
    predictor = Predictor(tiny_model, device="cpu", engine="torch", precision="fp32")
    with watching(predictor, inbox, tmp_path / "out") as seen:
        shutil.copytree(write_study(tmp_path / "study", 3), inbox / "patient")
        seen.wait(1)
    assert seen.cases == [("patient", "done")]
    assert (tmp_path / "out" / "patient_seg.nii.gz").is_file()


def test_a_batch_that_was_done_before_is_not_done_again(predictor: Predictor, inbox: Path, tmp_path: Path) -> None:
    draw(inbox / "a.png")
    predict(predictor, inbox, tmp_path / "out")
    with watching(predictor, inbox, tmp_path / "out") as seen:
        time.sleep(0.6)
        draw(inbox / "b.png")
        seen.wait(1)
    assert seen.cases == [("b", "done")]


def test_the_report_has_an_end_and_the_log_a_line(
    predictor: Predictor, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert KEPT >= 100
    monkeypatch.setattr("medunet.inference.watch.KEPT", 2)
    for name in "abcd":
        draw(inbox / f"{name}.png")
    caplog.set_level(logging.INFO, logger="medunet")
    with watching(predictor, inbox, tmp_path / "out", Options(monitor=0.05)) as seen:
        seen.wait(4)
        time.sleep(0.2)
    listed = json.loads((tmp_path / "out" / "predict.json").read_text())["cases"]
    assert [case["case"] for case in listed] == ["c", "d"]
    assert (seen.tally.done, seen.tally.failed) == (4, 0)
    lines = [record.message for record in caplog.records if "waiting" in record.message]
    assert any("4 done, 0 failed, 0 waiting" in line and "CPU" in line and "RAM" in line for line in lines)


def test_what_cannot_be_watched_is_refused(predictor: Predictor, inbox: Path, tmp_path: Path) -> None:
    for source, output in ((inbox / "a.png", "out"), (inbox, "mask.png"), (inbox, "in")):
        with pytest.raises(UsageError):
            watch(predictor, source, tmp_path / output)
    with watching(predictor, inbox, tmp_path / "out"):
        time.sleep(0.3)
        with pytest.raises(UsageError, match="Another medunet"):
            watch(predictor, inbox, tmp_path / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")
def test_nothing_is_lost_or_done_twice_through_a_kill_and_a_stop_ends_well(
    picture_model: Path, inbox: Path, tmp_path: Path
) -> None:
    for number in range(60):
        draw(inbox / f"{number:02d}.png", number)
    out = tmp_path / "out"

    def start() -> subprocess.Popen[str]:
        main = "from medunet.cli.main import main; main()"
        options = ["-m", picture_model, "-i", inbox, "-o", out, "-d", "cpu", "--engine", "torch", "--settle", "0.1"]
        return subprocess.Popen(
            [sys.executable, "-c", main, "predict", "--watch", *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    first = start()
    assert first.stdout is not None
    before = [first.stdout.readline().strip() for _ in range(20)]
    first.kill()
    before += first.communicate()[0].split()
    stamps = {path: Path(path).stat().st_mtime_ns for path in before}
    second = start()
    assert second.stdout is not None
    after = [second.stdout.readline().strip() for _ in range(60 - len(masks(out)))]
    second.send_signal(signal.SIGTERM)
    rest, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    after += rest.split()
    assert len(masks(out)) == 60
    assert len(set(after)) == len(after)
    assert not set(before) & set(after)
    assert {path: Path(path).stat().st_mtime_ns for path in before} == stamps
