"""Says where weights and a network differ. Knows nothing of files or of what the layers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

SHOWN = 3
"""Differences that a message names; the others are counted."""


def differences(weights: Mapping[str, Tensor], network: nn.Module) -> list[str]:
    """Every difference in names and shapes, as part of a sentence: of the network's layers in its order, then others.

    Args:
        weights: as in a file.
        network: whose `state_dict` they should fit.
    """
    wanted = network.state_dict()
    found = [
        difference(name, weights.get(name), value)
        for name, value in wanted.items()
        if name not in weights or weights[name].shape != value.shape
    ]
    return found + [f"{name} is in the file only" for name in weights if name not in wanted]


def difference(name: str, there: Tensor | None, here: Tensor) -> str:
    """What is wrong with one tensor, given that of the file and that of the network."""
    if there is None:
        return f"{name} {tuple(here.shape)} is missing from the file"
    return f"{name} is {tuple(there.shape)} in the file and {tuple(here.shape)} in the network"


def first_of(found: Sequence[str]) -> str:
    """The first differences and the number of the others."""
    more = len(found) - SHOWN
    return ", ".join([*found[:SHOWN], *([f"and {more} more"] if more > 0 else [])])
