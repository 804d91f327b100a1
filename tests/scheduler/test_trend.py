"""When room runs out: the mean, its interval, and when nothing can be said."""

from __future__ import annotations

import pytest

from compute.scheduler.trend import LEAST_DAYS, MOST_DAYS, trend


def test_six_days_are_not_enough_history() -> None:
    assert trend(free=100, daily=[1] * (LEAST_DAYS - 1)) is None
    assert trend(free=100, daily=[]) is None


def test_a_steady_rate_has_no_spread() -> None:
    found = trend(free=100, daily=[5] * 10)
    assert found is not None
    assert (found.days, found.per_day, found.low, found.high) == (10, 5, 5, 5)
    assert (found.expected, found.soonest, found.latest) == (20, 20, 20)


def test_the_interval_is_that_of_students_t() -> None:
    found = trend(free=700, daily=[4, 6, 5, 7, 3, 5, 5])
    assert found is not None
    # Mean 5, sample deviation sqrt(10/6), t(0.95; 6) = 1.943.
    assert found.per_day == 5
    assert found.high - found.per_day == pytest.approx(1.943 * (10 / 6) ** 0.5 / 7**0.5)
    assert found.expected == 140
    assert found.soonest == pytest.approx(700 / found.high)
    assert found.latest == pytest.approx(700 / found.low)


def test_days_that_go_up_and_down_may_never_fill_it() -> None:
    found = trend(free=100, daily=[50, -40, 30, -20, 10, -25, 5])
    assert found is not None
    assert found.expected == pytest.approx(70)
    assert found.soonest is not None
    assert found.soonest < 70
    assert found.latest is None


def test_what_shrinks_is_not_used_up() -> None:
    found = trend(free=100, daily=[-5] * 7)
    assert found is not None
    assert (found.expected, found.soonest, found.latest) == (None, None, None)


def test_only_the_last_days_count() -> None:
    found = trend(free=10, daily=[1000] * 50 + [1] * MOST_DAYS)
    assert found is not None
    assert (found.days, found.per_day) == (MOST_DAYS, 1)
