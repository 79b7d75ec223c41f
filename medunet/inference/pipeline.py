"""Pieces of work in three stages, of which neighbours overlap: in threads, without a child process.

While one is computed, the next is read and the last is written. No more: at most three are in memory. Knows nothing
of images.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Generic, Protocol, TypeVar


class Work(Protocol):
    """Something done in three stages, each of which keeps its own mistakes: what one raises ends the run."""

    def read(self) -> None:
        """Get what is computed from; called in a thread of its own."""

    def compute(self) -> None:
        """Called in the thread of the caller."""

    def write(self) -> None:
        """Put the result where it belongs; called in a thread of its own."""


W = TypeVar("W", bound=Work)


def run(works: Iterable[W], done: Callable[[W], None], *, ahead: bool = True) -> None:
    """Do all works, in order.

    An exception, KeyboardInterrupt among them, ends the run when what is being written is written and told.

    Args:
        works: made one by one, when their turn to be read comes.
        done: called in the thread of the caller with every work that was written, in order.
        ahead: let neighbours overlap; False takes no more memory than one work does.
    """
    if ahead:
        _run_overlapped(works, done)
        return
    for work in works:
        work.read()
        work.compute()
        work.write()
        done(work)


def _run_overlapped(works: Iterable[W], done: Callable[[W], None]) -> None:
    source = iter(works)
    with ThreadPoolExecutor(1, "medunet-read") as reader, ThreadPoolExecutor(1, "medunet-write") as writer:
        behind = _Behind(writer, done)
        try:
            reading = _start(reader, source)
            while reading is not None:
                work, future = reading
                future.result()
                reading = _start(reader, source)
                work.compute()
                behind.settle()
                behind.start(work)
        finally:
            behind.settle()


def _start(reader: ThreadPoolExecutor, source: Iterator[W]) -> tuple[W, Future[None]] | None:
    work = next(source, None)
    return None if work is None else (work, reader.submit(work.read))


class _Behind(Generic[W]):
    """The one work that is being written."""

    def __init__(self, writer: ThreadPoolExecutor, done: Callable[[W], None]) -> None:
        self._writer = writer
        self._done = done
        self._now: tuple[W, Future[None]] | None = None

    def start(self, work: W) -> None:
        self._now = work, self._writer.submit(work.write)

    def settle(self) -> None:
        """Wait until it is written, and tell."""
        if self._now is None:
            return
        work, future = self._now
        future.result()
        self._now = None
        self._done(work)


@contextmanager
def until_stopped() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM and Ctrl-C: yields whether one came. A second one ends the run at once. In the main thread only.

    A flag and no `threading.Event`, which must not be set by a handler that may interrupt its own waiting.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if came:
            raise KeyboardInterrupt
        came.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C, once; in the main thread only, and only where nobody else handles it."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
