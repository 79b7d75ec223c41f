"""Work in threads: results in order, few at a time, errors where they belong; warnings silenced for all of them."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable

import pytest

from medunet.io.dicom.elements import quiet
from medunet.io.dicom.threads import in_order


@pytest.fixture(autouse=True)
def _three_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)


def slow_at_first(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0.0)
    return number


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(in_order(slow_at_first, range(40))) == list(range(40))
    assert list(in_order(slow_at_first, [])) == []


def test_few_items_are_taken_ahead() -> None:
    taken: list[int] = []

    def noted(number: int) -> int:
        taken.append(number)
        return number

    results = in_order(noted, range(100))
    assert next(results) == 0
    time.sleep(0.05)
    assert len(taken) <= 6
    results.close()
    assert len(taken) <= 6


def test_an_error_is_raised_in_its_turn_and_nothing_runs_on() -> None:
    threads = threading.active_count()

    def broken(number: int) -> int:
        if number in (3, 4):
            raise ValueError(str(number))
        return slow_at_first(number)

    seen = []
    with pytest.raises(ValueError, match="3"):  # noqa: PT012
        for number in in_order(broken, range(40)):
            seen.append(number)
    assert seen == [0, 1, 2]
    assert threading.active_count() == threads


def in_threads(work: Callable[[], None], number: int = 4) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not failures


def test_silent_threads_do_not_wait_for_each_other() -> None:
    together = threading.Barrier(4, timeout=5)

    def work() -> None:
        with quiet():
            together.wait()
            warnings.warn("unheard", stacklevel=1)

    in_threads(work)


def test_warnings_are_heard_again_once_the_last_thread_is_done() -> None:
    before = list(warnings.filters)

    def work() -> None:
        for _ in range(200):
            with quiet(), quiet():
                warnings.warn("unheard", stacklevel=1)

    in_threads(work)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_the_silence_ends_with_an_error() -> None:
    before = list(warnings.filters)
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert warnings.filters == before
