"""Progress away from a terminal: plain lines, a rate, the time that is left."""

from __future__ import annotations

import pytest

from minicnn.base import progress
from minicnn.base.progress import Progress, duration


class Clock:
    """A clock that moves only when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(progress, "time", Clock())
    return progress.time


def test_it_speaks_every_ten_seconds_and_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(1000, "images", "preparing") as bar:
        for _ in range(5):
            clock.now += 4
            bar.update(200, note="loss 2.31")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "preparing: 600/1000, 50 images/s, 8 s left, loss 2.31",
        "preparing: 1000/1000, 50 images/s, 0 s left, loss 2.31",
    ]


def test_units_done_before_are_no_part_of_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(1000, "steps", "training", initial=900) as bar:
        clock.now += 10
        bar.update(50)
    assert bar.rate() == 5.0
    err = capsys.readouterr().err
    assert err.splitlines()[0] == "training: 950/1000, 5 steps/s, 10 s left"


def test_no_work_says_nothing_but_messages_and_no_rate_gives_no_time(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(10, "images", "preparing", initial=10) as bar:
        clock.now += 60
        bar.message("note: three files are odd")
    assert capsys.readouterr() == ("", "note: three files are odd\n")
    with Progress(10, "images", "preparing") as bar:
        clock.now += 60
        bar.update(0)
    assert "unknown time left" in capsys.readouterr().err


def test_on_a_terminal_it_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(10, "images", "preparing") as bar:
        bar.update(4, note="loss 2.31")
        bar.message("note: hello")
        bar.update(6)
    err = capsys.readouterr().err
    for text in ("preparing: 100%", "10/10", "loss 2.31", "note: hello\n"):
        assert text in err


def test_a_passing_part_that_is_soon_over_says_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(10, "images", "evaluation", passing=True) as bar:
        clock.now += 9
        bar.update(10)
    assert capsys.readouterr() == ("", "")
    with Progress(10, "images", "evaluation", passing=True) as bar:
        clock.now += 12
        bar.update(6)
        clock.now += 8
        bar.update(4)
    assert capsys.readouterr().err.splitlines() == [
        "evaluation: 6/10, 0 images/s, 8 s left",
        "evaluation: 10/10, 0 images/s, 0 s left",
    ]


def test_a_passing_part_has_a_bar_under_the_other_that_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress(10, "images", "training") as bar:
        bar.update(4)
        with Progress(5, "images", "evaluation", passing=True) as part:
            part.update(5)
        passed = capsys.readouterr().err
        bar.update(6)
    # One line down, and back up when it is erased.
    assert "\n\revaluation:" in passed
    assert passed.endswith("\x1b[A")
    left = capsys.readouterr().err
    assert "training: 100%" in left
    assert "evaluation" not in left
    assert left.endswith("\n")


def test_durations() -> None:
    texts = {
        0.4: "0 s",
        42: "42 s",
        59.6: "1 min 00 s",
        3599.6: "1 h 00 min",
        185: "3 min 05 s",
        7800: "2 h 10 min",
        356400: "4 d 03 h",
        float("inf"): "unknown time",
        float("nan"): "unknown time",
    }
    assert [duration(seconds) for seconds in texts] == list(texts.values())
