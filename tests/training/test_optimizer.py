"""The state of an optimizer in a checkpoint: by the network's order, whatever the groups."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medunet.networks.registry import build_network
from medunet.training.optimizer import build_optimizer, load_optimizer, optimizer_state
from medunet.training.rates import paces

OPTIMIZERS = ["sgd", "adam", "adamw", "novograd"]
HALVES = [{"layers": "encoder*", "factor": 0.1}, {"layers": "*.bias", "factor": 3.0}]
Made = Callable[..., tuple[nn.Module, torch.optim.Optimizer]]


@pytest.fixture
def made(make_config: Callable[..., Any]) -> Made:
    def make(name: str, rates: list[dict[str, Any]]) -> tuple[nn.Module, torch.optim.Optimizer]:
        changes = {"train.optimizer": {"name": name, "lr": 0.01}, "train.rates": rates, "network.channels": [4, 8]}
        config = make_config(Path("unused"), changes)
        torch.manual_seed(0)
        network = build_network(config.network, 1, 2)
        return network, build_optimizer(config.train.optimizer, paces(network, config))

    return make


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    torch.save(state, buffer := io.BytesIO())
    copy: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return copy


def momenta(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [optimizer.state[parameter] for parameter in network.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_groups_learn_at_their_rates(made: Made, name: str) -> None:
    _, optimizer = made(name, HALVES)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.001, 0.03])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_rates_the_state_is_torchs_own(made: Made, name: str) -> None:
    """So that checkpoints of runs that know no rates can be read."""
    network, optimizer = made(name, [])
    step(network, optimizer, 1)
    own, state = optimizer.state_dict(), optimizer_state(optimizer, network.parameters())
    assert state["param_groups"] == own["param_groups"]
    assert state["state"].keys() == own["state"].keys()
    assert all(state["state"][number] is not None for number in own["state"])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("before", "after"), [([], HALVES), (HALVES, []), (HALVES, HALVES[:1]), (HALVES, HALVES)])
def test_a_state_comes_back_to_its_parameters_with_other_rates_too(
    made: Made, name: str, before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    network, optimizer = made(name, before)
    step(network, optimizer, 1)
    state = through_a_file(optimizer_state(optimizer, network.parameters()))
    again, other = made(name, after)
    load_optimizer(other, again.parameters(), state)
    for old, new in zip(momenta(network, optimizer), momenta(again, other), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(torch.as_tensor(old[key]), torch.as_tensor(new[key])) for key in old)
    rates = [0.01 * factor for factor in (1.0, *(entry["factor"] for entry in after))]
    assert [group["lr"] for group in other.param_groups] == pytest.approx(rates)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_optimizer_makes_the_same_steps_bit_for_bit(made: Made, name: str) -> None:
    network, optimizer = made(name, HALVES)
    step(network, optimizer, 1)
    state = through_a_file(optimizer_state(optimizer, network.parameters()))
    again, other = made(name, HALVES)
    again.load_state_dict(network.state_dict())
    load_optimizer(other, again.parameters(), state)
    for seed in (2, 3):
        step(network, optimizer, seed)
        step(again, other, seed)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_parameters_that_never_had_a_gradient_have_no_state(made: Made) -> None:
    network, optimizer = made("adamw", HALVES)
    for parameter in list(network.parameters())[-2:]:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = through_a_file(optimizer_state(optimizer, network.parameters()))
    total = len(list(network.parameters()))
    assert sorted(state["state"]) == [total - 2, total - 1]
    again, other = made("adamw", [])
    load_optimizer(other, again.parameters(), state)
    assert [parameter in other.state for parameter in again.parameters()] == [False] * (total - 2) + [True] * 2
