"""Layers that keep their weights for the first epochs, or throughout."""

from __future__ import annotations

import math

from torch import nn

from medunet.config.network_options import EncoderOptions
from medunet.config.schema import Config
from medunet.errors import UsageError
from medunet.networks.contract import Network
from medunet.training.outline import called, outline


class Frozen:
    """Holds and lets go what `train.freeze` and `network.frozen_epochs` name.

    A layer all of whose parameters are held is put into evaluation mode too: no dropout in it, and the running
    statistics of batch norm stay as they are.

    Args:
        network: under training.
        config: the whole configuration.

    Raises:
        UsageError: a pattern names no parameter, or nothing would learn in the first epoch.
    """

    def __init__(self, network: Network, config: Config) -> None:
        self._network = network
        self._until = _ends(network, config)
        self._epoch = -1
        self._asleep: list[nn.Module] = []

    def hold(self, epoch: int) -> bool:
        """Set every parameter and layer for an epoch, from 0; call it after `train()`. True if anything changed."""
        changed = bool(self._until) and epoch != self._epoch and self._set(epoch)
        for layer in self._asleep:
            layer.eval()
        return changed

    def _set(self, epoch: int) -> bool:
        self._epoch = epoch
        held = {name for name, end in self._until.items() if epoch < end}
        changed = False
        for name, parameter in self._network.named_parameters():
            changed = changed or parameter.requires_grad == (name in held)
            parameter.requires_grad_(name not in held)
        self._asleep = []
        for prefix, layer in self._network.named_modules():
            names = [f"{prefix}.{name}" for name, _ in layer.named_parameters()]
            if names and held.issuperset(names):
                self._asleep.append(layer)
        return changed


def check_frozen(config: Config) -> None:
    """Make sure, without memory for the network, that `train.freeze` names layers and leaves some to learn.

    Raises:
        UsageError: as `Frozen`.
    """
    if config.train.freeze:  # `network.frozen_epochs` alone leaves the decoder
        _ends(outline(config), config)


def _ends(network: Network, config: Config) -> dict[str, float]:
    """By name of a held parameter, the first epoch (from 0) in which it learns."""
    names = [name for name, _ in network.named_parameters()]
    result: dict[str, float] = {}
    options = config.network
    if isinstance(options, EncoderOptions) and options.frozen_epochs:
        encoder = network.encoder_module()
        held = set() if encoder is None else {id(parameter) for parameter in encoder.parameters()}
        result = {name: float(options.frozen_epochs) for name, value in network.named_parameters() if id(value) in held}
    for entry in config.train.freeze:
        found = called(names, entry.layers, "train.freeze", options.name)
        end = math.inf if entry.epochs is None else float(entry.epochs)
        result.update({name: max(end, result.get(name, 0.0)) for name in found})
    if result.keys() >= set(names):
        raise UsageError(
            "train.freeze holds every layer in the first epoch, so nothing would learn.", "Leave some layers out."
        )
    return result
