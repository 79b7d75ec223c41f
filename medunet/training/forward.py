"""The network as a training step calls it: shared by several processes, compiled where the config wishes."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from medunet.config.schema import Config
from medunet.engines.device import is_out_of_memory
from medunet.training.parts import Parts

logger = logging.getLogger("medunet")


class Forward:
    """`forward(image)` gives the network's outputs.

    Of several processes each holds a copy of the network; their gradients are averaged in the backward pass
    (DistributedDataParallel), and buffers are those of the first process. Names of weights stay: all else uses
    `parts.network` itself.

    Args:
        parts: the network and the processes.
        config: whether it is compiled.
    """

    def __init__(self, parts: Parts, config: Config) -> None:
        self._parts = parts
        wish = config.train.compile
        self._compile = wish is True or (wish == "auto" and parts.device.type == "cuda")
        self._shared: DistributedDataParallel | None = None
        self._called: Any = None

    def renew(self) -> None:
        """To be called when other weights learn than before: they alone are averaged."""
        self._shared = self._called = None

    def __call__(self, image: Tensor) -> Any:
        """Outputs in training mode; where torch cannot compile the network, it is run as it is from then on."""
        if self._called is None:
            self._called = torch.compile(self._plain()) if self._compile else self._plain()
        plain = self._plain()
        if self._called is plain:
            return plain(image)
        try:
            return self._called(image)
        except Exception as error:  # whatever the compiler stumbles over; real errors come again below
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            logger.warning("torch cannot compile this network here, so it runs as it is: %s", reason)
            self._compile, self._called = False, plain
            return plain(image)

    def exchange(self, *, now: bool) -> AbstractContextManager[Any]:
        """Around forward and backward pass: whether gradients are averaged after it, or summed up for the next one."""
        if now or not self._parts.ranks.many:
            return nullcontext()
        self._plain()
        return nullcontext() if self._shared is None else self._shared.no_sync()

    def _plain(self) -> Any:
        """The network, not compiled."""
        parts = self._parts
        if not parts.ranks.many:
            return parts.network
        if self._shared is None:
            # Of kernels of one voxel torch writes the same layout in two ways.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            places = [parts.device] if parts.device.type == "cuda" else None
            self._shared = DistributedDataParallel(parts.network, device_ids=places)
        return self._shared
