"""The optimizer: built from the config, its state for a checkpoint and back.

A checkpoint holds the state by the order of the network's parameters, in one group, however many rates there are: so
it can be resumed with other ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from monai.optimizers import Novograd
from torch import nn

from medunet.config.training import AdamConfig, NovoGradConfig, OptimizerConfig, SgdConfig
from medunet.training.rates import Pace

logger = logging.getLogger("medunet")


def build_optimizer(config: OptimizerConfig, groups: Sequence[Pace]) -> torch.optim.Optimizer:
    """With a group of parameters for each rate, in this order.

    Args:
        config: the `train.optimizer:` section.
        groups: the first learns at the rate of the schedule.
    """
    parameters = [{"params": list(group.parameters.values()), "lr": config.lr * group.factor} for group in groups]
    if isinstance(config, SgdConfig):
        return torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov and config.momentum > 0,
            weight_decay=config.weight_decay,  # not fused: torch's fails where some weights learn later than others
        )
    if isinstance(config, NovoGradConfig):
        novograd: torch.optim.Optimizer = Novograd(
            parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        return novograd
    kind = torch.optim.Adam if isinstance(config, AdamConfig) else torch.optim.AdamW
    return kind(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """As torch's `state_dict` of an optimizer that has all parameters in one group.

    Args:
        optimizer: its first group's options are kept.
        parameters: of the network, in its order.
    """
    state, order = optimizer.state_dict(), _order(optimizer, parameters)
    return {
        "state": {order[number]: values for number, values in state["state"].items()},
        "param_groups": [{**state["param_groups"][0], "params": sorted(order)}],
    }


def load_optimizer(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], state: dict[str, Any]) -> None:
    """Momentum and learning rate of a checkpoint; the other options stay those of the config.

    Args:
        optimizer: changed in place; another kind than that of the checkpoint starts without momentum.
        parameters: of the network, in its order.
        state: from `optimizer_state`.
    """
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    (saved,) = state["param_groups"]
    if set(saved) - {"params"} != set(own[0]):
        logger.warning("The checkpoint has the state of another optimizer, so this one starts without momentum.")
        return
    number = {place: number for number, place in enumerate(_order(optimizer, parameters))}
    optimizer.load_state_dict(
        {
            "state": {number[place]: values for place, values in state["state"].items()},
            "param_groups": [{**saved, "params": group["params"]} for group in optimizer.state_dict()["param_groups"]],
        }
    )
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update({**options, "lr": saved["lr"] * (options["lr"] / own[0]["lr"])})


def _order(optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter]) -> list[int]:
    """For each parameter, as torch counts them through the groups, its place in the network."""
    place = {id(parameter): index for index, parameter in enumerate(parameters)}
    return [place[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
