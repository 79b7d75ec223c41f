"""Peak memory is that of the last case, where the system tells, and does not grow with the length of a volume."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medunet.inference.memory import PeakMeter

PROGRAM = """
import json
import numpy as np
from medunet.inference.memory import peak_bytes, reset_peak

reset_peak()
before = peak_bytes()
large = np.ones(8_000_000)
peak = peak_bytes()
del large
reset_peak()
print(json.dumps([before, peak, peak_bytes()]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_the_peak_is_measured_anew() -> None:
    """In a process of its own: a system that is short of memory takes idle pages away from a large one meanwhile."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, peak, after = json.loads(done.stdout)
    assert peak - before > 0.9 * 8 * 8_000_000
    assert after < peak


def test_spans_that_overlap_each_get_their_own_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = iter([5, 70, 30, 20, 10])
    monkeypatch.setattr("medunet.inference.memory.peak_bytes", lambda: next(peaks))
    monkeypatch.setattr("medunet.inference.memory.reset_peak", lambda: None)
    meter = PeakMeter()
    meter.begin("a")  # 5 is of the time before
    meter.begin("b")  # 70 is of a alone
    meter.begin("c")  # 30 is of a and b
    assert meter.end("a") == 70
    assert meter.end("b") == 30


def test_where_the_peak_is_unknown_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunet.inference.memory.peak_bytes", lambda: None)
    meter = PeakMeter()
    meter.begin("a")
    assert meter.end("a") is None


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_memory_does_not_grow_with_the_length_of_a_volume() -> None:
    script, classes = Path(__file__).with_name("streamed_memory.py"), 60
    peaks = {}
    for length in (320, 640):
        command = [sys.executable, str(script), str(length), str(classes)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[length] = json.loads(done.stdout)
    logits = 4 * classes * 64 * 64 * 640
    assert abs(peaks[640] - peaks[320]) < logits / 20
    assert peaks[640] < logits / 4
