"""What the sliding window adds to the bare network on the same windows."""

from __future__ import annotations

import itertools
import statistics
import time

import pytest
import torch

from medunet.config.networks import UNetConfig
from medunet.engines.device import resolve_precision
from medunet.engines.torch import TorchEngine
from medunet.networks.registry import build_network
from medunet.sliding_window.network import Way, network_logits
from medunet.sliding_window.spans import window_starts

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
    corners = itertools.product(*(window_starts(n, p, 0.5) for n, p in zip(SHAPE, PATCH, strict=True)))
    boxes = [tuple(slice(a, a + p) for a, p in zip(corner, PATCH, strict=True)) for corner in corners]
    windows = [image[(slice(None), *box)][None].clone() for box in boxes]
    engine(windows[0])

    bare, whole = [], []
    for _ in range(ROUNDS):  # alternating, so that a busy machine slows both
        start = time.perf_counter()
        for window in windows:
            engine(window)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        network_logits(image, engine, Way(PATCH))
        whole.append(time.perf_counter() - start)
    ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
    print(
        f"\nsliding window, {len(windows)} windows of {PATCH}, {labels} labels, {engine.precision}: "
        f"network {statistics.median(bare):.2f} s, whole {statistics.median(whole):.2f} s, ratio {ratio:.3f}"
    )
    assert ratio <= 1.15
