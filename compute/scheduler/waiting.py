"""How much of what is going to come back is needed: of things in the order in which they come, the first so many, and the
smallest part of those. For questions that more can never turn from yes to no."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

State = TypeVar("State")
Item = TypeVar("Item")


def first_enough(
    start: State, items: Sequence[Item], add: Callable[[State, Sequence[Item]], State], enough: Callable[[State], bool]
) -> int | None:
    """Return how many of the items have to come, from the first on, until there is enough; None where all do not suffice.

    Twice as many are tried each time, then half of what is left; `add` is given only those that a state lacks, so that
    each item is added about twice in all. Not asked of `start` itself.
    """
    held, low, high = start, 0, 1
    while True:
        high = min(high, len(items))
        if high == low:
            return None
        more = add(held, items[low:high])
        if enough(more):
            break
        held, low, high = more, high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        more = add(held, items[low:middle])
        if enough(more):
            high = middle
        else:
            held, low = more, middle
    return high


def smallest_part(
    items: Sequence[Item], enough: Callable[[Sequence[Item]], bool], *, questions: int
) -> tuple[Item, ...] | None:
    """Return a part of the items that is enough and of which no part is; all of them together have to be.

    QuickXplain (Junker, 2004): k of n items are found by asking about k * log(n / k) times. Later items are kept
    rather than earlier ones. None where more than so many questions would be asked.
    """
    left = questions

    def asked(part: Sequence[Item]) -> bool:
        nonlocal left
        if not left:
            raise _TooMany
        left -= 1
        return enough(part)

    try:
        return () if not items or asked(()) else _needed((), False, items, asked)
    except _TooMany:
        return None


class _TooMany(Exception):
    """All questions have been asked."""


def _needed(
    kept: tuple[Item, ...], grew: bool, items: Sequence[Item], enough: Callable[[Sequence[Item]], bool]
) -> tuple[Item, ...]:
    """What of the items is needed beside those that are kept; `grew`: these became more since they were not enough."""
    if grew and enough(kept):
        return ()
    if len(items) == 1:
        return (items[0],)
    early, late = items[: len(items) // 2], items[len(items) // 2 :]
    of_early = _needed((*kept, *late), True, early, enough)
    of_late = _needed((*kept, *of_early), bool(of_early), late, enough)
    return (*of_early, *of_late)
