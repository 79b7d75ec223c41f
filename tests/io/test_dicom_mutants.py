"""Damaged DICOM files end in a volume, a mask or a sentence; never in a crash, a hang, a traceback or much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "dicom_mutants.py"
DATA = Path(__file__).resolve().parents[2] / "../shared/data/dicom"


def outcome(*arguments: object) -> dict[str, Any]:
    """What the script tells, which is run beside pytest because decoders may end its process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def assert_all_ended_well(told: dict[str, Any], count: int) -> None:
    assert told["failures"] == []
    assert told["mutants"]["read"] + told["mutants"]["refused"] == count
    assert min(told["mutants"].values()) > count / 5  # the damage is neither too small nor too great
    assert told["peak_mb"] < 1000
    assert not told["torch"]


def test_some_hundred_mutants_end_well() -> None:
    assert_all_ended_well(outcome(30_000, 255), 255)


def test_a_crash_is_counted_and_named(tmp_path: Path) -> None:
    """The guard sees what it looks for: a decoder that takes its process down."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if sys.argv[0].endswith('dicom_mutants.py'):\n"
        "    import medunet.io.dicom.pixels as pixels\n"
        "    parent, original = os.getpid(), pixels.pixel_array\n"
        "    pixels.pixel_array = lambda *a, **b: original(*a, **b) if os.getpid() == parent else os.abort()\n"
    )
    path = os.pathsep.join([str(tmp_path), str(SCRIPT.parents[2])])
    done = subprocess.run(
        [sys.executable, SCRIPT, "0", "17"],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert any(failure["what"] == ["SIGABRT"] for failure in told["failures"])
    assert sum(told["mutants"].values()) == 17


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_twenty_thousand_mutants_end_well() -> None:
    assert_all_ended_well(outcome(0, 20_000), 20_000)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not DATA.is_dir(), reason="the real scans are not beside this checkout")
def test_mutants_of_real_exports_end_well() -> None:
    told = outcome(100_000, 6_000, DATA)
    assert told["failures"] == []
    assert told["seeds"] > 40
