"""Neighbours overlap, no more than three of them, and an interruption loses nothing that was computed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest

from medunet.inference.pipeline import run, stoppable, until_stopped

PATIENCE = 30  # seconds until a test that waits in vain fails


class Traced:
    """Notes when its stages begin and end; a stage waits for the events it is told to."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number = number
        self.log = log
        self.begun = {stage: threading.Event() for stage in ("read", "compute", "write")}
        self.waits: dict[str, list[threading.Event]] = {}
        self.threads: dict[str, threading.Thread] = {}

    def _do(self, stage: str) -> None:
        self.threads[stage] = threading.current_thread()
        self.log.append(f"+{stage} {self.number}")
        self.begun[stage].set()
        for event in self.waits.get(stage, ()):
            assert event.wait(PATIENCE), f"{stage} of {self.number} waits in vain"
        self.log.append(f"-{stage} {self.number}")

    def read(self) -> None:
        self._do("read")

    def compute(self) -> None:
        self._do("compute")

    def write(self) -> None:
        self._do("write")


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def works(log: list[str]) -> list[Traced]:
    return [Traced(number, log) for number in range(5)]


def test_the_next_is_read_and_the_last_is_written_while_one_is_computed(works: list[Traced]) -> None:
    for number in range(1, 4):
        works[number].waits["compute"] = [works[number + 1].begun["read"], works[number - 1].begun["write"]]
    children: list[psutil.Process] = []
    done: list[int] = []

    def tell(work: Traced) -> None:
        children.extend(psutil.Process().children())
        done.append(work.number)

    run(works, tell)
    assert done == [0, 1, 2, 3, 4]
    assert children == []
    assert {work.threads["compute"] for work in works} == {threading.main_thread()}


def test_the_one_after_the_next_is_not_read_yet(works: list[Traced], log: list[str]) -> None:
    run(iter(works), lambda _: None)
    for number in range(3):
        assert log.index(f"-read {number + 1}") < log.index(f"+read {number + 2}")
        assert log.index(f"-read {number + 1}") < log.index(f"+compute {number + 1}")
        assert log.index(f"+read {number + 2}") > log.index(f"-compute {number}")
        assert log.index(f"-write {number}") < log.index(f"+write {number + 1}")
        assert log.index(f"-write {number}") < log.index(f"+compute {number + 2}")


def test_one_at_a_time_is_possible(works: list[Traced], log: list[str]) -> None:
    run(works, lambda work: log.append(f"done {work.number}"), ahead=False)
    stages = ("+read", "-read", "+compute", "-compute", "+write", "-write", "done")
    assert log == [f"{stage} {number}" for number in range(5) for stage in stages]
    assert {thread for work in works for thread in work.threads.values()} == {threading.main_thread()}


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_works_are_done_too(works: list[Traced], count: int) -> None:
    done: list[int] = []
    run(works[:count], lambda work: done.append(work.number))
    assert done == list(range(count))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_being_written_is_written_and_told_before_an_error_ends_the_run(
    works: list[Traced], log: list[str], error: type[BaseException]
) -> None:
    def broken() -> None:
        assert works[1].begun["write"].wait(PATIENCE)
        raise error

    works[2].compute = broken  # type: ignore[method-assign]
    done: list[int] = []
    with pytest.raises(error):
        run(works, lambda work: done.append(work.number))
    assert done == [0, 1]
    assert "-write 1" in log
    assert "+compute 3" not in log
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("medunet-")] == []


def test_works_are_made_when_their_turn_comes(log: list[str]) -> None:
    made: list[int] = []

    def source() -> Iterator[Traced]:
        for number in range(4):
            made.append(number)
            yield Traced(number, log)

    seen: list[int] = []
    run(source(), lambda _: seen.append(len(made)))
    assert seen[0] <= 3


def told(code: str) -> str:
    """What a program prints; in a process of its own, which a signal that nobody takes may end."""
    head = "import signal\nfrom medunet.inference.pipeline import stoppable\n"
    done = subprocess.run([sys.executable, "-c", head + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_sigterm_is_an_interruption_once_and_only_inside() -> None:
    code = (
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
        "try:\n"
        "    with stoppable(): signal.raise_signal(signal.SIGTERM)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped', signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    assert told(code).splitlines() == ["True", "stopped True"]


def test_a_handler_of_the_caller_is_left_alone() -> None:
    code = (
        "signal.signal(signal.SIGTERM, lambda number, _: print('handled', number))\n"
        "with stoppable(): signal.raise_signal(signal.SIGTERM)\n"
    )
    assert told(code) == f"handled {int(signal.SIGTERM)}"


def test_in_another_thread_signals_are_left_alone() -> None:
    seen: list[object] = []

    def look() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_the_first_signal_is_noted_and_the_second_ends() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with until_stopped() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGTERM)
        assert stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
