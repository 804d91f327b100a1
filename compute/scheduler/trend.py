"""When room runs out at the recent rate, with an interval; or that nobody can say yet.

The rate is the mean of the daily net changes; the interval is where it lies with 90 % confidence if the days are
independent (Student's t). Growth comes in steps and follows weeks, so days are not quite independent: the interval is a
lower bound of what is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

LEAST_DAYS: Final = 7
MOST_DAYS: Final = 28
# Two-sided 90 %, for 6 to 27 degrees of freedom: any table of Student's t.
_T90: Final = (
    *(1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753, 1.746),
    *(1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703),
)


@dataclass(frozen=True, slots=True)
class Trend:
    """A rate a day, from `days` whole days, with its interval; and the days until `free` is used up.

    `soonest` and `latest` are the ends of the interval in days; None: at that end of it, it does not grow. `expected` None:
    it does not grow at the mean rate.
    """

    days: int
    per_day: float
    low: float
    high: float
    expected: float | None
    soonest: float | None
    latest: float | None


def trend(*, free: int, daily: Sequence[int]) -> Trend | None:
    """Return when `free` is used up, from the net changes of whole days, oldest first; None for fewer than LEAST_DAYS."""
    days = list(daily)[-MOST_DAYS:]
    if len(days) < LEAST_DAYS:
        return None
    mean = math.fsum(days) / len(days)
    deviation = math.sqrt(math.fsum((day - mean) ** 2 for day in days) / (len(days) - 1))
    margin = _T90[len(days) - LEAST_DAYS] * deviation / math.sqrt(len(days))
    low, high = mean - margin, mean + margin
    return Trend(
        days=len(days),
        per_day=mean,
        low=low,
        high=high,
        expected=_until(free, mean),
        soonest=_until(free, high),
        latest=_until(free, low),
    )


def _until(free: int, per_day: float) -> float | None:
    return free / per_day if per_day > 0 else None
