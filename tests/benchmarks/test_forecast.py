"""The forecast of memory against what fresh processes take: every network, 2D and 3D, training and prediction.

In bf16 only where the CPU computes it natively: elsewhere a training step takes minutes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medunet.engines.device import cpu_has_bf16
from medunet.networks.forecast import Work, forecast
from medunet.networks.overview import usual_patch
from medunet.networks.registry import NETWORKS

MEASURE = Path(__file__).with_name("memory_of.py")
SIDES = {2: 256, 3: 64}
REPEATS = 3
"""The heap never falls out the same way twice; small figures differ by a tenth and more."""
PRECISIONS = {"fp32": torch.float32, **({"bf16": torch.bfloat16} if cpu_has_bf16() else {})}


def measured(case: dict[str, Any]) -> int:
    """Median over fresh processes, in bytes."""
    found = []
    for _ in range(REPEATS if not case["training"] else 1):
        done = subprocess.run([sys.executable, MEASURE, json.dumps(case)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["bytes"])
    return int(statistics.median(found))


@pytest.mark.benchmark
@pytest.mark.skipif(sys.platform != "linux", reason="how memory is counted and given is that of Linux")
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("training", [True, False], ids=["training", "prediction"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_forecast_is_within_a_quarter_of_the_measured(name: str, dims: int, training: bool, precision: str) -> None:
    options = NETWORKS[name].options(name=name, dims=dims)  # type: ignore[call-arg]
    patch = usual_patch(options, (SIDES[dims],) * dims)
    batch = 2 if training and dims == 2 else 1
    case = {
        "network": {"name": name, "dims": dims},
        "size": patch,
        "batch": batch,
        "training": training,
        "precision": precision,
        "optimizer": "sgd",
    }
    told = forecast(options, 1, 3, Work(size=patch, batch=batch, training=training, precision=PRECISIONS[precision]))
    took = measured(case)
    ratio = told.total_bytes / took
    print(
        f"\n{name}, {patch} x {batch}, {'training' if training else 'prediction'}, {precision}: forecast "
        f"{told.total_bytes / 2**20:.0f} MiB ({told.tensor_bytes / 2**20:.0f} of tensors), measured "
        f"{took / 2**20:.0f} MiB, ratio {ratio:.2f}"
    )
    assert 0.75 < ratio < 1.25
