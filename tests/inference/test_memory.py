"""Peak memory is that of the last case, where the system tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medunet.inference.memory import peak_bytes, reset_peak


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak")
def test_the_peak_is_measured_anew() -> None:
    reset_peak()
    before = peak_bytes()
    large = np.ones(8_000_000)
    peak = peak_bytes()
    assert before is not None
    assert peak is not None
    assert peak - before > 0.9 * large.nbytes
    del large
    reset_peak()
    after = peak_bytes()
    assert after is not None
    assert after < peak
