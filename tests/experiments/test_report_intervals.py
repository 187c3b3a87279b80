"""The report's intervals: hand-worked numbers, tables, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minicnn.experiments.report import intervals

# Sums of a few floats of size 1, in another order.
ROUNDING = 1e-12


@pytest.mark.parametrize(
    ("df", "t"),
    # Two-sided 5 % points, from any table of Student's t.
    [(1, 12.706), (2, 4.303), (3, 3.182), (7, 2.365), (10, 2.228), (120, 1.980)],
)
def test_student_t_is_that_of_the_tables(df: int, t: float) -> None:
    assert intervals.t_quantile(df) == pytest.approx(t, abs=5e-4)


def test_an_interval_worked_by_hand() -> None:
    found = intervals.of_mean([1, 2, 3])
    # t(2) = 4.3027, standard error 1/√3; the bootstrap reaches no farther than 1 .. 3.
    reach = 4.30265 / math.sqrt(3)
    assert found.mean == 2
    assert found.low == pytest.approx(2 - reach, abs=1e-4)
    assert found.high == pytest.approx(2 + reach, abs=1e-4)


def test_the_bootstrap_is_taken_where_it_is_wider() -> None:
    """99 zeros and a 10: the 97.5 % point of the resamples has the 10 three times.

    That is 0.3, and beyond Student's t: 0.1 + 1.984 · 0.1.
    """
    found = intervals.of_mean([0.0] * 99 + [10.0])
    assert found.high == pytest.approx(0.3, abs=ROUNDING)
    assert found.low == pytest.approx(0.1 - 0.19842, abs=1e-4)
    values = (np.random.default_rng(2).exponential(size=200) ** 3).tolist()
    assert intervals.of_mean(values) == intervals.of_mean(values)  # always one draw


def test_a_difference_of_two_samples_has_welchs_interval() -> None:
    left, right = [1.0, 2.0, 3.0], [4.0, 6.0, 8.0, 10.0]
    found = intervals.of_difference(left, right)
    # Squared errors 1/3 and 20/3/4; Welch's degrees of freedom 4.37, rounded down to 4.
    reach = 2.77645 * math.sqrt(1 / 3 + 5 / 3)
    assert found.mean == -5
    assert found.low == pytest.approx(-5 - reach, abs=1e-4)
    assert found.high == pytest.approx(-5 + reach, abs=1e-4)


def test_the_two_samples_of_a_difference_are_resampled_apart() -> None:
    """Two samples of 99 zeros and a 10, though they are alike.

    Of the difference of two Poisson counts of mean 1, 3.8 % is 3 or more and 0.9 % is 4
    or more, so that its 97.5 % point is 3 tens in 100; Student's t reaches 0.28.
    """
    values = [0.0] * 99 + [10.0]
    found = intervals.of_difference(values, values)
    assert found.mean == 0
    assert found.low == pytest.approx(-0.3, abs=ROUNDING)
    assert found.high == pytest.approx(0.3, abs=ROUNDING)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_units_have_no_interval(count: int) -> None:
    values = [1.0, 2.0, 3.0]
    for found in (
        intervals.of_mean(values[:count]),
        intervals.of_difference(values[:count], values),
        intervals.of_difference(values, values[:count]),
    ):
        assert found.low is None
        assert found.high is None


@pytest.mark.parametrize("count", [3, 4, 8])
def test_intervals_of_few_units_cover_the_truth(count: int) -> None:
    """In at least 94 of 100 studies; the bootstrap alone would in 74, 79 and 88."""
    rng = np.random.default_rng(1)
    studies = rng.normal(7, 2, (400, count))
    held = [intervals.of_mean(each) for each in studies.tolist()]
    covered = sum(each.low < 7 < each.high for each in held)  # type: ignore[operator]
    assert covered >= 0.94 * len(studies)
