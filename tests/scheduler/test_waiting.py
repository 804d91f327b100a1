"""The first so many, and the smallest part of them: against trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.waiting import first_enough, smallest_part
from tests.scheduler.strategies import counted

# Each item frees some of two resources; so much of each is wanted.
items = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9)
wants = st.tuples(st.integers(0, 9), st.integers(0, 9))
Amounts = tuple[int, int]


def _sum(held: Amounts, more: Sequence[Amounts]) -> Amounts:
    return held[0] + sum(first for first, _ in more), held[1] + sum(second for _, second in more)


def _enough(held: Amounts, wanted: Amounts) -> bool:
    return held[0] >= wanted[0] and held[1] >= wanted[1]


@counted
@given(items, wants)
def test_the_first_so_many_are_the_fewest_that_are_enough(given_back: list[Amounts], wanted: Amounts) -> None:
    found = first_enough((0, 0), given_back, _sum, lambda held: _enough(held, wanted))
    numbers = range(1, len(given_back) + 1)
    assert found == next((n for n in numbers if _enough(_sum((0, 0), given_back[:n]), wanted)), None)


def test_each_item_is_added_about_twice() -> None:
    added = []

    def add(held: int, more: Sequence[int]) -> int:
        added.extend(more)
        return held + len(more)

    for wanted in (1, 2, 600, 999, 1000, 1001):
        added.clear()
        found = first_enough(0, range(1000), add, lambda held, wanted=wanted: held >= wanted)  # type: ignore[misc]
        assert found == (wanted if wanted <= 1000 else None)
        assert len(added) <= 2 * 1000


@counted
@given(items, wants)
def test_a_smallest_part_is_enough_and_no_part_of_it_is(given_back: list[Amounts], wanted: Amounts) -> None:
    def enough(part: Sequence[int]) -> bool:
        return _enough(_sum((0, 0), [given_back[place] for place in part]), wanted)

    places = range(len(given_back))
    if not enough(places):
        return
    found = smallest_part(places, enough, questions=100)
    assert found is not None
    assert enough(found)
    for size in range(len(found)):
        assert not any(enough(part) for part in itertools.combinations(found, size))


def test_few_of_many_are_found_by_few_questions() -> None:
    def enough(part: Sequence[int]) -> bool:
        return {3, 700} <= set(part)

    assert smallest_part(range(1000), enough, questions=60) == (3, 700)


def test_no_more_is_asked_than_may_be() -> None:
    asked = 0

    def enough(part: Sequence[int]) -> bool:
        nonlocal asked
        asked += 1
        return len(part) > 500

    assert smallest_part(range(1000), enough, questions=60) is None
    assert asked == 60
