"""Peak memory is that of the last case, where the system tells."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
