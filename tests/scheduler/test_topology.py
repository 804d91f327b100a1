"""CPUs of one's own, huge pages, memory of a cell: never given twice, never more than there is, always the same choice."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from compute.scheduler.topology import MEASURES, Cell, CellShare, NumaAsk, give, how_many, place, shortages, take
from tests.scheduler.strategies import counted

PAGE = 1024  # KiB: one page is one MiB


@st.composite
def cells(draw: st.DrawFn) -> tuple[Cell, ...]:
    """Up to four cells, in any order; no CPU is in two of them."""
    numbers = itertools.count()
    made = [
        Cell(
            id=number,
            cpus=tuple(next(numbers) for _ in range(draw(st.integers(0, 5)))),
            shared_cpus=draw(st.integers(0, 1)),
            memory_mib=draw(st.integers(-1, 6)),
            pages=((PAGE, draw(st.integers(0, 6))),) if draw(st.booleans()) else (),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    return tuple(draw(st.permutations(made)))


@st.composite
def asks(draw: st.DrawFn) -> NumaAsk:
    nodes = draw(st.integers(1, 3))
    return NumaAsk(
        nodes=nodes,
        vcpus=nodes * draw(st.integers(1, 3)),
        memory_mib=nodes * draw(st.integers(1, 3)),
        page_kib=draw(st.sampled_from([0, PAGE])),
        pinned=draw(st.booleans()),
    )


def fits_in(cell: Cell, ask: NumaAsk) -> bool:
    """An independent statement of which cell can hold one node."""
    if ask.pinned and len(cell.cpus) < ask.vcpus / ask.nodes:
        return False
    if not ask.pinned and cell.shared_cpus == 0:
        return False
    there = cell.free_pages(PAGE) if ask.page_kib else cell.memory_mib
    return there >= ask.memory_mib / ask.nodes


def filled(found: tuple[Cell, ...], ask: NumaAsk) -> list[tuple[CellShare, ...]]:
    """Place such guests one after another until none fits."""
    placed = []
    while (shares := place(found, ask)) is not None:
        placed.append(shares)
        found = take(found, shares)
    return placed


@counted
@given(cells(), asks())
def test_a_guest_fits_exactly_where_enough_cells_can_hold_a_node(found: tuple[Cell, ...], ask: NumaAsk) -> None:
    able = sum(fits_in(cell, ask) for cell in found)
    shares = place(found, ask)
    assert (shares is not None) == (able >= ask.nodes)
    assert (shortages(found, ask) == ()) == (able >= ask.nodes)
    assert how_many(found, ask) >= (able >= ask.nodes)


@counted
@given(cells(), st.lists(asks(), min_size=1, max_size=8))
def test_what_is_given_back_is_as_it_was_before_it_was_taken(found: tuple[Cell, ...], guests: list[NumaAsk]) -> None:
    taken: list[tuple[tuple[Cell, ...], tuple[CellShare, ...]]] = []
    now = found
    for ask in guests:
        shares = place(now, ask)
        if shares is not None:
            taken.append((now, shares))
            now = take(now, shares)
    for before, shares in reversed(taken):
        now = give(now, shares)
        assert now == before


@counted
@given(cells(), st.lists(asks(), min_size=1, max_size=8))
def test_no_cpu_is_given_twice_and_no_cell_more_than_it_has(found: tuple[Cell, ...], guests: list[NumaAsk]) -> None:
    before = {cell.id: cell for cell in found}
    given_cpus: Counter[int] = Counter()
    memory: Counter[int] = Counter()
    pages: Counter[int] = Counter()
    for ask in guests:
        shares = place(found, ask)
        if shares is None:
            continue
        assert len({share.cell for share in shares}) == ask.nodes
        assert sum(share.memory_mib for share in shares) == ask.memory_mib
        for share in shares:
            assert set(share.cpus) <= set(before[share.cell].cpus)
            assert len(share.cpus) == (share.vcpus if ask.pinned else 0)
            given_cpus.update(share.cpus)
            (pages if share.page_kib else memory)[share.cell] += share.memory_mib
        found = take(found, shares)
    assert all(times == 1 for times in given_cpus.values())
    assert all(amount <= before[cell].memory_mib for cell, amount in memory.items())
    assert all(amount <= before[cell].free_pages(PAGE) for cell, amount in pages.items())
    assert all(cell.memory_mib == before[cell.id].memory_mib - memory[cell.id] for cell in found)


@counted
@given(cells(), asks())
def test_the_order_of_the_cells_does_not_matter(found: tuple[Cell, ...], ask: NumaAsk) -> None:
    turned = found[::-1]
    assert place(found, ask) == place(turned, ask)
    assert shortages(found, ask) == shortages(turned, ask)


@counted
@given(cells(), asks())
def test_how_many_is_what_placing_one_after_another_comes_to(found: tuple[Cell, ...], ask: NumaAsk) -> None:
    assert how_many(found, ask) == len(filled(found, ask))


def _most(found: tuple[Cell, ...], ask: NumaAsk) -> int:
    """The most guests that fit, by trying every choice of cells."""
    best = 0
    for chosen in itertools.combinations(sorted(found, key=lambda cell: cell.id), ask.nodes):
        if all(fits_in(cell, ask) for cell in chosen):
            shares = tuple(
                CellShare(
                    cell.id,
                    ask.node_vcpus,
                    ask.node_memory_mib,
                    ask.page_kib,
                    cell.cpus[: ask.node_vcpus] if ask.pinned else (),
                )
                for cell in chosen
            )
            best = max(best, 1 + _most(take(found, shares), ask))
    return best


@counted
@given(cells(), asks())
def test_no_other_choice_of_cells_would_hold_more_such_guests(found: tuple[Cell, ...], ask: NumaAsk) -> None:
    assume(how_many(found, ask) <= 4)
    assert how_many(found, ask) == _most(found, ask)


@counted
@given(cells(), asks(), st.integers(0, 3))
def test_one_more_cell_never_turns_a_success_into_a_refusal(found: tuple[Cell, ...], ask: NumaAsk, more: int) -> None:
    if place(found, ask) is not None:
        assert place((*found, Cell(9, tuple(range(90, 90 + more)), 1, more)), ask) is not None


@counted
@given(cells(), asks())
def test_a_shortage_says_what_more_would_do(found: tuple[Cell, ...], ask: NumaAsk) -> None:
    missing = shortages(found, ask)
    for item in missing:
        assert item.free < item.asked
    # With as much of it in every cell as is asked, what was short is short no more.
    plenty = tuple(
        replace(
            cell, cpus=tuple(range(100 * cell.id, 100 * cell.id + 3)), shared_cpus=1, memory_mib=3, pages=((PAGE, 3),)
        )
        for cell in found
    )
    if len(found) >= ask.nodes:
        assert shortages(plenty, ask) == ()
    elif missing:
        assert {item.measure for item in missing} <= set(MEASURES)


def test_a_guest_of_one_node_takes_the_fullest_cell_that_will_do() -> None:
    empty, full = Cell(0, (0, 1, 2, 3), 1, 4096), Cell(1, (6, 7), 1, 4096)
    assert place((empty, full), NumaAsk(1, 2, 1024, pinned=True)) == (CellShare(1, 2, 1024, 0, (6, 7)),)


def test_a_guest_of_two_nodes_gets_half_of_itself_in_each() -> None:
    found = tuple(Cell(number, (number * 2, number * 2 + 1), 1, 4096, ((2048, 512),)) for number in range(3))
    assert place(found, NumaAsk(2, 4, 1024, page_kib=2048, pinned=True)) == (
        CellShare(0, 2, 512, 2048, (0, 1)),
        CellShare(1, 2, 512, 2048, (2, 3)),
    )


def test_what_is_short_is_told_with_numbers() -> None:
    found = (Cell(0, (1,), 1, 512), Cell(1, (), 1, 8192))
    (cpus,) = shortages(found, NumaAsk(1, 2, 512, pinned=True))
    assert (cpus.measure, cpus.asked, cpus.free, cpus.unit) == ("dedicated_cpus", 2, 1, "CPU in one cell")
    (apart,) = shortages(found, NumaAsk(1, 1, 1024, pinned=True))
    assert (apart.measure, apart.asked, apart.free, apart.unit) == ("numa_cells", 1, 0, "cells with all of it")
    (pages,) = shortages(found, NumaAsk(1, 1, 64, page_kib=2048))
    assert (pages.measure, pages.asked, pages.free, pages.unit) == (
        "huge_pages",
        32,
        0,
        "pages of 2048 KiB in one cell",
    )


@pytest.mark.parametrize("ask", [(2, 3, 1024, 0), (2, 2, 1023, 0), (0, 1, 1, 0), (1, 1, 3, 2048)])
def test_what_cannot_be_spread_evenly_is_no_ask(ask: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="MiB"):
        NumaAsk(*ask)
