"""The network of a configuration without memory for its weights, and its parameters by pattern of their names.

For checks before a training, and for the keys that name layers: `train.freeze`, `train.rates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch

from medunet.config.derived import network_channels
from medunet.config.schema import Config
from medunet.errors import UsageError
from medunet.labels import LabelMap
from medunet.networks.contract import Network
from medunet.networks.registry import build_network

_SHOWN = 6


def outline(config: Config) -> Network:
    """The network on the device "meta": names and shapes, no values."""
    with torch.device("meta"):
        outputs = LabelMap.from_mapping(config.labels).outputs
        return build_network(config.network, network_channels(config.data.modality, config.preprocess), outputs)


def called(names: Sequence[str], pattern: str, key: str, network: str) -> list[str]:
    """The names that a pattern fits.

    Args:
        names: of all parameters.
        pattern: `*`, `?` and `[...]`; capitals count.
        key: of the configuration that holds the pattern, for messages.
        network: what the network is called, for messages.

    Raises:
        UsageError: it fits none.
    """
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise UsageError(
            f'{key} names the layers "{pattern}", but no parameter of {network} is called so.',
            f"They are {', '.join(names[:_SHOWN])}, ... ({len(names)} in all); * stands for any letters.",
        )
    return found
