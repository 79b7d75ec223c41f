"""Activation checkpointing of a single network; that it changes no number is tested over the table in test_contract."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medunet.config.networks import UNetConfig
from medunet.networks.contract import Network
from medunet.networks.recompute import recompute_stages
from medunet.networks.registry import build_network


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return build_network(UNetConfig(dims=2, channels=(4, 8, 8), norm="batch"), 1, 3)


def count(network: nn.Module) -> list[int]:
    """Calls of every convolution."""
    calls: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_stages_are_computed_twice_in_training_and_once_otherwise(network: Network) -> None:
    image = torch.randn(2, 1, 16, 16)
    calls = count(network)
    network.train()(image).mean().backward()
    once = len(calls)
    recompute_stages(network)
    calls.clear()
    network.train()(image).mean().backward()
    assert once < len(calls) < 2 * once + 1
    calls.clear()
    with torch.no_grad():
        network(image)
    network.eval()(image)
    assert len(calls) == 2 * once


def test_running_statistics_see_every_batch_once(network: Network) -> None:
    recompute_stages(network)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    for _ in range(3):
        network.train()(torch.randn(2, 1, 16, 16)).mean().backward()
    assert int(norm.num_batches_tracked) == 3
    assert norm.momentum == nn.BatchNorm2d(1).momentum
