"""`medunet quantize`: an int8 form is measured on held-out cases, kept or thrown away, and used if it is asked for."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from medunet.errors import DatasetError, DeviceError, UsageError
from medunet.inference import int8
from medunet.inference.choice import INT8
from medunet.inference.int8 import quantize
from medunet.inference.predictor import Predictor

HELD_OUT = 2


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy, since forms are written into it."""
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("cache", "engines"))


def forms(run: Path) -> list[Path]:
    return sorted((run / "model" / "engines").glob(f"*{INT8}*"))


def test_a_good_form_is_kept_and_segments_as_it_was_measured(
    run: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "BOUND", 0.1)
    told: list[tuple[int, int]] = []
    trial = quantize(run, progress=lambda *numbers: told.append(numbers))
    assert trial.kept
    assert trial.cases == HELD_OUT
    assert told == [(number, 6) for number in range(1, 7)]
    assert set(trial.dice) == set(trial.window_seconds) == {"openvino", INT8}
    assert len(forms(run)) == 1
    held_out = json.loads((run / "splits.json").read_text())[0]["val"]
    plain, small = (Predictor(run / "model", engine=name) for name in ("openvino", INT8))
    changed = voxels = 0
    for name in held_out:
        image = tiny_dataset / "imagesTr" / f"{name}.nii.gz"
        one, other = plain(image), small(image)
        assert (one.engine, other.engine) == ("openvino", INT8)
        changed += int(np.count_nonzero(one.array != other.array))
        voxels += one.array.size
    assert changed / voxels == pytest.approx(trial.changed)
    assert trial.changed < 0.02


def test_a_form_that_loses_too_much_is_thrown_away(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "BOUND", -1)
    assert not quantize(run).kept
    assert forms(run) == []
    with pytest.raises(UsageError, match="no int8 form"):
        Predictor(run / "model", engine=INT8)


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, run / "model"):
        with pytest.raises(UsageError, match="no run of one fold"):
            quantize(folder)


def test_cases_of_the_run_that_are_gone_are_told(
    run: Path,
    write_dataset,
    tmp_path: Path,  # type: ignore[no-untyped-def]
) -> None:
    other = write_dataset(tmp_path / "other", count=5)
    with pytest.raises(DatasetError, match=r"1 cases of the run are not in .*case_05"):
        quantize(run, data=other)


def test_without_nncf_it_says_how_to_get_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(DeviceError, match="NNCF is not installed"):
        quantize(run)
    assert forms(run) == []
