"""How long `medunet --help` takes, measured against what it cannot do without: typer and rich."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

REPEATS = 10


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


@pytest.mark.benchmark
def test_help_takes_at_most_twice_the_imports_it_needs() -> None:
    medunet = str(Path(sys.executable).with_name("medunet"))
    bare, full = [], []
    for _ in range(REPEATS):
        bare.append(seconds(sys.executable, "-c", "import typer, rich"))
        full.append(seconds(medunet, "--help"))
    ratio = median(full) / median(bare)
    print(f"\nmedunet --help {median(full):.3f} s, import typer, rich {median(bare):.3f} s, ratio {ratio:.2f}")
    assert ratio <= 2.0
