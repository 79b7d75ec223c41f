"""Measures what one piece of work takes in memory, in a process of its own: `python memory_of.py JSON`.

The JSON has `network` (a section), `size`, `batch`, `training`, `precision` and `optimizer`. Prints the largest
resident size while the network was built and a few steps were made, less that before, after a tiny network has loaded
all libraries; and the seconds of the last step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import monai.networks.nets  # noqa: F401 - adapters load it when they build; here it is no cost of the network
import psutil
import torch

from medunet.config.load import parse_config
from medunet.engines.device import resolve_precision
from medunet.engines.torch import TorchEngine
from medunet.inference.memory import peak_bytes, reset_peak
from medunet.labels import LabelMap
from medunet.networks.registry import build_network
from medunet.training.parts import build_parts
from medunet.training.progress import Progress
from medunet.training.schedule import Clock
from medunet.training.step import Stepper

CPU = torch.device("cpu")
STEPS = {True: 3, False: 2}
"""Of training and of prediction; the heap has stopped growing by then."""
RATES = {"sgd": 0.01, "adamw": 1e-4}


def config_of(case: dict[str, Any]) -> Any:
    optimizer = {"name": case["optimizer"], "lr": RATES[case["optimizer"]]}
    section = {
        "name": "measured",
        "labels": {"background": 0, "a": 1, "b": 2},
        "network": case["network"],
        "train": {
            "patch_size": case["size"],
            "batch_size": case["batch"],
            "precision": case["precision"],
            "optimizer": optimizer,
        },
    }
    return parse_config(json.dumps(section))


def train(case: dict[str, Any]) -> list[float]:
    """Steps of a training as medunet makes them; their seconds."""
    config = config_of(case)
    parts = build_parts(config, CPU, labels=LabelMap.from_mapping(config.labels))
    update = Stepper(parts, config, Clock(config.train, 0.0), Progress())
    seconds = []
    for iteration in range(1, STEPS[True] + 1):
        batch = {
            "image": torch.randn(case["batch"], 1, *case["size"]),
            "label": torch.randint(0, 3, (case["batch"], 1, *case["size"]), dtype=torch.uint8),
        }
        start = time.perf_counter()
        update(SimpleNamespace(state=SimpleNamespace(iteration=iteration)), batch)
        seconds.append(time.perf_counter() - start)
    return seconds


def predict(case: dict[str, Any]) -> list[float]:
    """Windows as in prediction; their seconds."""
    config = config_of(case)
    network = build_network(config.network, 1, 3)
    engine = TorchEngine(network, config.network.dims, CPU, resolve_precision(case["precision"], CPU))
    seconds = []
    for _ in range(STEPS[False]):
        window = torch.randn(case["batch"], 1, *case["size"])
        start = time.perf_counter()
        engine(window)
        seconds.append(time.perf_counter() - start)
    return seconds


def main(case: dict[str, Any]) -> None:
    run = train if case["training"] else predict
    dims = len(case["size"])
    run({**case, "network": {"name": "unet", "dims": dims, "channels": [4, 8]}, "size": [16] * dims})
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    before = psutil.Process().memory_info().rss
    reset_peak()
    seconds = run(case)
    peak = peak_bytes()
    print(json.dumps({"bytes": None if peak is None else peak - before, "seconds": seconds[-1]}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
