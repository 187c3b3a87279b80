"""Ctrl-C and SIGTERM become a flag once, and an ordinary signal after that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from minicnn.base.interrupt import Interrupt


class Fallen(Exception):
    """What the test's own handler raises."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal whose handler raises `Fallen`."""

    def fall(number: int, frame: object) -> None:
        raise Fallen

    before = signal.signal(request.param, fall)
    yield request.param
    signal.signal(request.param, before)


def test_the_first_signal_sets_the_flag(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.signal_name == number.name


def test_the_second_signal_falls_through(number: signal.Signals) -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), number)
        with pytest.raises(Fallen):
            os.kill(os.getpid(), number)
        assert interrupt.requested


def test_handlers_come_back_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Interrupt():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) is before
    with pytest.raises(Fallen):
        os.kill(os.getpid(), number)


def test_outside_the_main_thread_it_stays_out_of_the_way(
    number: signal.Signals,
) -> None:
    before = signal.getsignal(number)
    seen = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append((interrupt.requested, signal.getsignal(number)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
