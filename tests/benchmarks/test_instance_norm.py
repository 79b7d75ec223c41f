"""What the network gains from instance norm that keeps the order of memory: in prediction, and in training."""

from __future__ import annotations

import copy
import statistics
import time

import pytest
import torch
from torch import nn

from medunet.config.networks import UNetConfig
from medunet.engines.device import resolve_precision
from medunet.engines.torch import TorchEngine
from medunet.networks.instance_norm import InstanceNorm
from medunet.networks.registry import build_network

ROUNDS = 9


def with_torch_norm(module: nn.Module) -> nn.Module:
    """The same network with torch's layers, same weights."""
    for name, child in module.named_children():
        if isinstance(child, InstanceNorm):
            layer = nn.InstanceNorm3d(len(child.weight), eps=1e-5, affine=True)
            layer.load_state_dict(child.state_dict())
            setattr(module, name, layer)
        else:
            with_torch_norm(child)
    return module


@pytest.mark.benchmark
def test_our_instance_norm_is_not_slower_than_torchs() -> None:
    device, config = torch.device("cpu"), UNetConfig(channels=(16, 32, 64, 128))
    torch.manual_seed(0)
    network = build_network(config, 1, 3)
    other = build_network(config, 1, 3)
    other.load_state_dict(network.state_dict())
    precision = resolve_precision("auto", device)
    ours = TorchEngine(network, 3, device, precision)
    theirs = TorchEngine(with_torch_norm(other), 3, device, precision)
    patch = torch.randn(1, 1, 64, 64, 64)
    torch.testing.assert_close(ours(patch), theirs(patch), rtol=0.1, atol=0.1)
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(ROUNDS):
        for name, engine in (("ours", ours), ("torch", theirs)):
            start = time.perf_counter()
            for _ in range(4):
                engine(patch)
            times[name].append((time.perf_counter() - start) / 4)
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["torch"], strict=True))
    medians = {name: round(1000 * statistics.median(values), 1) for name, values in times.items()}
    print(f"\none 64^3 patch, {precision}: ours {medians['ours']} ms, torch {medians['torch']} ms, ratio {ratio:.2f}")
    assert ratio <= 1.05


@pytest.mark.benchmark
def test_a_training_step_gains_too() -> None:
    torch.manual_seed(0)
    ours = build_network(UNetConfig(channels=(32, 64, 128, 256)), 1, 3).train()
    theirs = with_torch_norm(copy.deepcopy(ours))
    batch = torch.randn(4, 1, 40, 56, 40).contiguous(memory_format=torch.channels_last_3d)
    times: dict[str, list[float]] = {"ours": [], "torch": []}
    networks = {"ours": ours, "torch": theirs}
    for network in networks.values():
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for _ in range(ROUNDS // 2):
        for name, network in networks.items():
            start = time.perf_counter()
            sum(output.square().mean() for output in network(batch)).backward()
            times[name].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(times["ours"][1:], times["torch"][1:], strict=True))
    medians = {name: round(statistics.median(values[1:]), 2) for name, values in times.items()}
    print(f"\na step on 4 x 40x56x40, float32: ours {medians['ours']} s, torch {medians['torch']} s, {ratio:.2f}")
    assert ratio <= 1.0
