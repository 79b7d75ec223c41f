"""SIGINT and SIGTERM: the step that runs is finished and everything is saved."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger("medunet")


class StopFlag:
    """Set by SIGINT or SIGTERM while `listening`; a second signal stops at once.

    Attributes:
        signal: its number; 0: none came to this process.
        agreed: what several processes agreed on; None: there is one, and its signal counts.
    """

    def __init__(self) -> None:
        self.signal: int = 0
        self.agreed: bool | None = None

    def __bool__(self) -> bool:
        return self.signal != 0 if self.agreed is None else self.agreed

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch the signals (in the main thread only; elsewhere they belong to the caller)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def catch(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.signal = number
            for each, handler in before.items():
                signal.signal(each, handler)
            logger.warning("Stopping after this step; once more to stop at once.")

        for number in before:
            signal.signal(number, catch)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
