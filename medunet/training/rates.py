"""Layers that learn at another rate: `train.rates`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from medunet.config.schema import Config
from medunet.errors import UsageError
from medunet.training.outline import called, outline


@dataclass(frozen=True)
class Pace:
    """Parameters that learn at one rate; an optimizer has a group for each.

    Attributes:
        layers: the pattern that names them; "" for all that no pattern names.
        factor: times the rate of the schedule.
        parameters: by name.
    """

    layers: str
    factor: float
    parameters: Mapping[str, nn.Parameter]


def paces(network: nn.Module, config: Config) -> tuple[Pace, ...]:
    """Every parameter once; the first group learns at the rate of the schedule, the others follow as in `train.rates`.

    Of several patterns that name a parameter the last counts; a group may be left without parameters.

    Raises:
        UsageError: a pattern names no parameter, or all parameters are named.
    """
    rates, parameters = config.train.rates, dict(network.named_parameters())
    owner = dict.fromkeys(parameters, -1)
    for index, entry in enumerate(rates):
        owner.update(dict.fromkeys(called(list(parameters), entry.layers, "train.rates", config.network.name), index))
    if -1 not in owner.values():
        raise UsageError(
            "train.rates names every layer, so none learns at the rate of train.optimizer.lr.",
            "Change train.optimizer.lr instead, or leave some layers out.",
        )
    kinds = [(-1, "", 1.0), *((index, entry.layers, entry.factor) for index, entry in enumerate(rates))]
    return tuple(
        Pace(layers, factor, {name: value for name, value in parameters.items() if owner[name] == index})
        for index, layers, factor in kinds
    )


def check_rates(config: Config) -> None:
    """Make sure, without memory for the network, that `train.rates` names layers and leaves some out.

    Raises:
        UsageError: as `paces`.
    """
    if config.train.rates:
        paces(outline(config), config)


def paces_in_words(groups: tuple[Pace, ...]) -> str:
    """How many parameters learn at which rate, for the log; empty where all learn alike."""
    total = sum(len(group.parameters) for group in groups)
    return ", ".join(
        f"{group.layers} at {group.factor:g} times the rate ({len(group.parameters)} of {total} parameters)"
        for group in groups[1:]
    )
