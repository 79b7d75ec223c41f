"""The operations of a network, recorded on one window, from which other libraries' forms are made."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medunet.errors import DeviceError
from medunet.networks.contract import Network

ONE_AT_A_TIME = threading.Lock()
"""Held while a network is recorded or exported: torch keeps what it does then in variables of the whole process."""


class _Inside(nn.Module):
    """`Network.interior` as the module's forward, which is what is recorded."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: Tensor) -> Tensor:
        return self.network.interior(patches)


def recorded(network: Network, shape: Sequence[int]) -> torch.jit.ScriptModule:
    """The operations of `Network.interior` on windows (B, C_in, *patch) of just this shape.

    Raises:
        DeviceError: torch cannot record them.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sizes become constants, as they shall, and that the recorder is old
            traced = torch.jit.trace(_Inside(network.eval()), torch.zeros(tuple(shape)), check_trace=False)
    except RuntimeError as error:
        raise DeviceError(f"torch cannot record this network: {error}", "Use --engine torch.") from error
    return traced  # type: ignore[no-any-return]
