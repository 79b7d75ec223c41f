"""The first signal is heard, the second one stops at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from medunet.training.stop import StopFlag

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_sets_the_flag_and_the_second_is_not_caught(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    stop = StopFlag()
    with stop.listening():
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.signal == number
        assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert {each: signal.getsignal(each) for each in SIGNALS} == before
    assert "Stopping after this step; once more to stop at once." in caplog.text


def test_a_second_ctrl_c_ends_what_runs() -> None:
    stop = StopFlag()

    def twice() -> None:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert stop.signal == signal.SIGTERM


def test_without_a_signal_everything_is_as_before() -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with StopFlag().listening():
        assert {each: signal.getsignal(each) for each in SIGNALS} != before
    assert {each: signal.getsignal(each) for each in SIGNALS} == before


def test_an_error_gives_the_signals_back() -> None:
    before = {each: signal.getsignal(each) for each in SIGNALS}
    with pytest.raises(ZeroDivisionError), StopFlag().listening():
        raise ZeroDivisionError
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
