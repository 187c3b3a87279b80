"""Ctrl-C and SIGTERM become a flag once, and an ordinary signal after that."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from signal import Signals

import pytest

from minicnn.base.errors import Stopped
from minicnn.base.interrupt import Interrupt, raising


class Fallen(Exception):
    """What the test's own handler raises."""


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def number(request: pytest.FixtureRequest) -> Iterator[Signals]:
    """A signal whose handler raises `Fallen`."""

    def fall(number: int, frame: object) -> None:
        raise Fallen

    before = signal.signal(request.param, fall)
    yield request.param
    signal.signal(request.param, before)


def test_the_first_sets_the_flag_the_second_falls_through(number: Signals) -> None:
    with Interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.signal_name == number.name
        with pytest.raises(Fallen):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("catching", [Interrupt, raising])
def test_handlers_come_back_afterwards(
    catching: type[Interrupt], number: Signals
) -> None:
    with catching():
        pass
    with pytest.raises(Fallen):
        os.kill(os.getpid(), number)


def test_each_signal_stops_work_with_nothing_to_save(number: Signals) -> None:
    with raising():
        for _ in range(2):
            with pytest.raises(Stopped, match=number.name):
                os.kill(os.getpid(), number)


def test_outside_the_main_thread_it_stays_out_of_the_way(number: Signals) -> None:
    before = signal.getsignal(number)
    seen = []

    def work() -> None:
        with Interrupt() as interrupt:
            seen.append((interrupt.requested, signal.getsignal(number)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
