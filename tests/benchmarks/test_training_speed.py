"""Iterations per second of `medunet train` and of nnU-Net's trainer, with nnU-Net's plan for the hippocampus.

Needs the data (HIPPOCAMPUS=folder) and nnU-Net in an environment of its own (`make peer-nnunet`). The two take turns,
each in a process of its own, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PEER = HERE.parents[1] / ".peers" / "nnunet" / "bin" / "python"
STEPS = int(os.environ.get("STEPS", "12"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
WARM_UP = 2
"""Steps at the start of each process that do not count."""


def run(python: Path | str, script: str, *arguments: object) -> dict[str, Any]:
    command = [str(python), str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


@pytest.mark.benchmark
@pytest.mark.timeout(0)
@pytest.mark.skipif("HIPPOCAMPUS" not in os.environ, reason="HIPPOCAMPUS=folder of Task04_Hippocampus is not set")
@pytest.mark.skipif(not PEER.exists(), reason="nnU-Net is not installed: make peer-nnunet")
def test_steps_are_faster_than_nnunet_s(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = os.environ["HIPPOCAMPUS"]
    work = Path(os.environ.get("WORK", "") or tmp_path_factory.mktemp("speed"))
    ours: list[float] = []
    theirs: list[float] = []
    shares: list[float] = []
    for _ in range(ROUNDS):
        peer = run(PEER, "nnunet_steps.py", data, work, STEPS)
        own = run(sys.executable, "medunet_steps.py", data, work, STEPS)
        assert (own["patch"], own["batch"]) == (peer["patch"], peer["batch"])
        # nnU-Net's coarsest output, which its loss weighs with 0, has no layer here.
        assert own["parameters"] == pytest.approx(peer["parameters"], rel=1e-4)
        theirs += peer["seconds"][WARM_UP:]
        ours += own["seconds"][WARM_UP:]
        shares.append(own["wait_share"])
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(
        f"\n{own['batch']} x {own['patch']}, {own['parameters']:,} parameters, {own['device']}: nnU-Net "
        f"{statistics.median(theirs):.2f} s per step, medunet ({own['precision']}) {statistics.median(ours):.2f} s, "
        f"{ratio:.2f} times as fast; waiting for patches {100 * statistics.median(shares):.1f} %"
    )
    assert ratio > 1
