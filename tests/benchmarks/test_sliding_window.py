"""What the sliding window adds to the bare network on the same windows."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from medunet.config.networks import UNetConfig
from medunet.engines.device import resolve_precision
from medunet.engines.torch import TorchEngine
from medunet.networks.registry import build_network
from medunet.sliding_window import WindowGrid, sliding_window

PATCH = (64, 64, 64)
SHAPE = (160, 160, 96)
ROUNDS = 9


@pytest.mark.benchmark
@pytest.mark.parametrize("labels", [3, 25])
def test_the_sliding_window_costs_little_more_than_the_network(labels: int) -> None:
    device = torch.device("cpu")
    network = build_network(UNetConfig(channels=(16, 32, 64, 128)), 1, labels)
    engine = TorchEngine(network, 3, device, resolve_precision("auto", device))
    image = torch.randn(1, *SHAPE)
    windows = [image[(slice(None), *window)][None].clone() for window in WindowGrid.over(SHAPE, PATCH, 0.5).windows()]
    engine(windows[0])

    bare, whole = [], []
    for _ in range(ROUNDS):  # alternating, so that a busy machine slows both
        start = time.perf_counter()
        for window in windows:
            engine(window)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        sliding_window(image, engine, PATCH)
        whole.append(time.perf_counter() - start)
    ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
    print(
        f"\nsliding window, {len(windows)} windows of {PATCH}, {labels} labels, {engine.precision}: "
        f"network {statistics.median(bare):.2f} s, whole {statistics.median(whole):.2f} s, ratio {ratio:.3f}"
    )
    assert ratio <= 1.15
