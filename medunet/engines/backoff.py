"""An engine that goes on with less when its device runs out of memory: fewer windows at a time, then the CPU.

Only out-of-memory is taken for out-of-memory. What was computed before is not lost: the window in hand is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from medunet.engines.contract import Engine, checked
from medunet.errors import OutOfMemoryError

logger = logging.getLogger("medunet")


class BackingOff:
    """An engine, and what it becomes.

    Args:
        engine: that runs first.
        on_cpu: makes one that computes on the CPU.
    """

    def __init__(self, engine: Engine, on_cpu: Callable[[], Engine]) -> None:
        self._engine = engine
        self._on_cpu = on_cpu
        self._most: int | None = None

    @property
    def name(self) -> str:
        """Of the library that computes now."""
        return self._engine.name

    @property
    def device(self) -> torch.device:
        """Where it computes now."""
        return self._engine.device

    @property
    def precision(self) -> torch.dtype:
        """Type of its arithmetic now."""
        return self._engine.precision

    @property
    def at_once(self) -> int:
        """Windows that it computes side by side."""
        return self._engine.at_once

    def __call__(self, patches: Tensor) -> Tensor:
        """See `Engine`.

        Raises:
            OutOfMemoryError: the CPU has no memory for a single window, either.
            ModelError: a logit is infinite or NaN.
        """
        while True:
            try:
                return checked(self._run(patches), self.precision)
            except OutOfMemoryError as error:
                self._back_off(len(patches), error)

    def working_bytes(self, shape: tuple[int, ...]) -> int:
        """See `Engine`."""
        return self._engine.working_bytes(shape)

    def _run(self, patches: Tensor) -> Tensor:
        parts = patches.split(self._most or len(patches))
        return self._engine(patches) if len(parts) == 1 else torch.cat([self._engine(part) for part in parts])

    def _back_off(self, asked: int, error: OutOfMemoryError) -> None:
        now = min(asked, self._most or asked)
        if now > 1:
            self._most = now // 2
            logger.warning("%s Going on with %d at a time.", error.message, self._most)
        elif self._engine.device.type != "cpu":
            self._engine = self._on_cpu()
            logger.warning("%s Going on with the CPU, which takes longer.", error.message)
        else:
            raise error
