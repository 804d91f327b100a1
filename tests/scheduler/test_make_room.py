"""The cheapest moves that let a request in, held to all sets and all places tried one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.losses import Guest
from compute.scheduler.make_room import Move, cheapest_moves
from compute.scheduler.model import HostState, Policy, Request
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted

POLICY = Policy("spread")
EVERY = 100_000

sizes = st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(0, 3))
pools = st.lists(st.tuples(st.integers(2, 8), st.integers(3, 10), st.lists(sizes, max_size=4)), min_size=2, max_size=4)


def full(
    *hosts: tuple[int, int, Sequence[tuple[int, int, int]]], apart: str | None = None
) -> tuple[Snapshot, list[Guest]]:
    """Hosts with vCPUs, memory, and the sizes of the guests that they carry, as many of them as have room."""
    states, guests = list[HostState](), list[Guest]()
    for number, (vcpus, memory, carried) in enumerate(hosts):
        state = host(f"host-{number}", total=resources(vcpus, memory, 8))
        for size in carried:
            asked = replace(request(*size), group=apart if not guests else None)
            if rank((state,), asked, POLICY).candidates:
                guests.append(Guest(f"guest-{len(guests)}", state.id, asked))
                state = Snapshot.from_hosts([state]).after(state.id, asked.resources, group=asked.group).hosts[0]
        states.append(state)
    return Snapshot.from_hosts(states), guests


def carried_out(snapshot: Snapshot, moves: Sequence[Move]) -> Snapshot | None:
    """The snapshot after the moves; None where one of them was not legal when its turn came."""
    for guest, target in moves:
        if (
            target == guest.host_id
            or not rank((snapshot.hosts[snapshot.row_of[target]],), guest.request, POLICY).candidates
        ):
            return None
        source = snapshot.hosts[snapshot.row_of[guest.host_id]]
        counts = {group: count - (group == guest.request.group) for group, count in source.group_counts.items()}
        left = replace(
            source, used=source.used - guest.request.resources, instances=source.instances - 1, group_counts=counts
        )
        snapshot = snapshot.with_host(left).after(target, guest.request.resources, group=guest.request.group)
    return snapshot


def fits(snapshot: Snapshot | None, asked: Request) -> bool:
    return snapshot is not None and bool(rank(snapshot, asked, POLICY).candidates)


def cost(moves: Sequence[Move]) -> int:
    return sum(move.guest.request.resources.memory_mib for move in moves)


def least_cost(snapshot: Snapshot, asked: Request, guests: Sequence[Guest], most: int) -> int | None:
    """Of all sets of guests of one host and all places for them."""
    found = [
        cost(moves)
        for size in range(1, most + 1)
        for leaving in itertools.combinations(guests, size)
        if len({guest.host_id for guest in leaving}) == 1
        for targets in itertools.product([state.id for state in snapshot.hosts], repeat=size)
        for moves in [[Move(guest, target) for guest, target in zip(leaving, targets, strict=True)]]
        if fits(carried_out(snapshot, moves), asked)
    ]
    return min(found, default=None)


@counted
@given(pools, st.tuples(st.integers(1, 8), st.integers(1, 10), st.integers(0, 4)), st.integers(1, 3), st.booleans())
def test_no_moves_away_from_one_host_are_cheaper(
    hosts: list[tuple[int, int, list[tuple[int, int, int]]]], size: tuple[int, int, int], most: int, apart: bool
) -> None:
    snapshot, guests = full(*hosts, apart="blue" if apart else None)
    asked = request(*size)
    if fits(snapshot, asked):
        return
    found = list(cheapest_moves(snapshot, asked, POLICY, guests, most=most, tried=EVERY))
    assert [cost(moves) for moves in found] == sorted(cost(moves) for moves in found)
    assert (cost(found[0]) if found else None) == least_cost(snapshot, asked, guests, most)


@counted
@given(pools, st.tuples(st.integers(1, 8), st.integers(1, 10), st.integers(0, 4)))
def test_in_any_order_each_move_is_legal_all_let_it_in_and_no_part_does(
    hosts: list[tuple[int, int, list[tuple[int, int, int]]]], size: tuple[int, int, int]
) -> None:
    snapshot, guests = full(*hosts)
    asked = request(*size)
    if fits(snapshot, asked):
        return
    for moves in cheapest_moves(snapshot, asked, POLICY, guests, most=3, tried=EVERY):
        assert 1 <= len(moves) <= 3
        for order in itertools.permutations(moves):
            assert fits(carried_out(snapshot, order), asked)
        for part in itertools.chain.from_iterable(itertools.combinations(moves, count) for count in range(len(moves))):
            assert not fits(carried_out(snapshot, part), asked)


def test_two_small_guests_go_rather_than_a_large_one() -> None:
    snapshot, guests = full((8, 10, [(1, 2, 0), (1, 2, 0), (1, 6, 0)]), (3, 6, []))
    found = list(cheapest_moves(snapshot, request(5, 4, 0), POLICY, guests, most=3, tried=EVERY))
    assert [[(move.guest.id, move.target) for move in moves] for moves in found] == [
        [("guest-0", "host-1"), ("guest-1", "host-1")],
        [("guest-2", "host-1")],
    ]
    assert not list(cheapest_moves(snapshot, request(5, 4, 0), POLICY, guests, most=3, tried=0))
    assert len(list(cheapest_moves(snapshot, request(5, 4, 0), POLICY, guests, most=1, tried=EVERY))) == 1
