"""Signals and workers; the loop itself is tested by runs (test_run, test_resume)."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from medunet.training.session import StopFlag, automatic_workers

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_sets_the_flag_and_the_second_is_not_caught(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    stop = StopFlag()
    with stop.listening():
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number
        assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_without_a_signal_everything_is_as_before() -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with StopFlag().listening():
        assert {each: signal.getsignal(each) for each in SIGNALS} != before
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_in_another_thread_signals_belong_to_the_caller() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def listen() -> None:
        with StopFlag().listening():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("wish", "device", "cores", "expected"),
    [("auto", "cpu", 16, 0), ("auto", "cuda", 16, 8), ("auto", "cuda", 4, 3), ("auto", "cuda", 1, 1), (5, "cpu", 2, 5)],
)
def test_workers_suit_the_device(wish: int | str, device: str, cores: int, expected: int) -> None:
    assert automatic_workers(wish, torch.device(device), lambda: cores) == expected
