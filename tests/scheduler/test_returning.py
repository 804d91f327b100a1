"""Whoever is called sure to return does, in any order and with any choice among the hosts that fit."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.scheduler.filters import failing
from compute.scheduler.losses import Guest
from compute.scheduler.model import HostState, Inventory, Request, Resources
from compute.scheduler.returning import sure_to_return
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import NumaAsk


def host(number: int, memory_mib: int, used: int, *, modes: tuple[str, ...] = ("kvm",), state: str = "up") -> HostState:
    return HostState(
        id=f"h{number}",
        name=f"h{number}",
        pool_id="p",
        inventory=Inventory(Resources(1000, memory_mib, 1000), Resources(0, 0, 0)),
        used=Resources(0, used, 0),
        instances=0,
        admin_state="enabled",
        observed_state=state,
        modes=frozenset(modes),
    )


def guest(number: int, on: str, memory_mib: int, **more: object) -> Guest:
    return Guest(f"g{number}", on, Request("vm", Resources(1, memory_mib, 1), **more))  # type: ignore[arg-type]


def sure(hosts: list[HostState], guests: list[Guest]) -> frozenset[str]:
    return sure_to_return(Snapshot.from_hosts(hosts), guests)


@settings(max_examples=300, deadline=None)
@given(
    free=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    kinds=st.lists(st.sampled_from([("kvm",), ("lxc",), ("kvm", "lxc")]), min_size=5, max_size=5),
    seed=st.integers(0, 10**6),
)
def test_whoever_is_sure_finds_room_in_any_order(
    free: list[int], sizes: list[int], kinds: list[tuple[str, ...]], seed: int
) -> None:
    others = [host(number, 20, 20 - room, modes=kinds[number]) for number, room in enumerate(free)]
    guests = [guest(number, "h9", size) for number, size in enumerate(sizes)]
    if "h9" not in sure([*others, host(9, 100, sum(sizes), modes=("kvm", "lxc"))], guests):
        return
    dice = random.Random(seed)
    dice.shuffle(guests)
    for one in guests:
        fitting = [place for place, other in enumerate(others) if failing(other, one.request) == 0]
        assert fitting, "called sure, and found no room"
        place = dice.choice(fitting)
        others[place] = others[place].lending(Resources(0, 0, 0) - one.request.resources)


def test_room_enough_is_sure_and_room_short_is_not() -> None:
    lost, guests = host(0, 100, 8), [guest(1, "h0", 4), guest(2, "h0", 4)]
    assert sure([lost, host(1, 10, 2)], guests) == {"h0", "h1"}
    assert sure([lost, host(1, 10, 3)], guests) == {"h1"}


@pytest.mark.parametrize("state", ["down", "suspect", "fenced"])
def test_a_host_out_of_service_takes_nobody(state: str) -> None:
    assert sure([host(0, 100, 4), host(1, 10, 0, state=state)], [guest(1, "h0", 4)]) == {"h1"}


@pytest.mark.parametrize(
    "more",
    [
        {"group": "g", "group_rule": "anti_affinity"},
        {"group": "g", "group_rule": "affinity"},
        {"group": "g", "group_rule": "soft_affinity", "domain_limit": 1},
        {"numa": NumaAsk(nodes=1, vcpus=1, memory_mib=1, page_kib=0, pinned=False)},
    ],
)
def test_where_room_is_not_all_that_counts_nobody_is_sure(more: dict[str, object]) -> None:
    assert sure([host(0, 100, 1), host(1, 100, 0)], [guest(1, "h0", 1, **more)]) == {"h1"}


def test_a_soft_group_is_as_sure_as_none() -> None:
    more = {"group": "g", "group_rule": "soft_anti_affinity"}
    assert sure([host(0, 100, 1), host(1, 100, 0)], [guest(1, "h0", 1, **more)]) == {"h0", "h1"}


def test_rows_are_worked_out_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [host(number, 10, 5) for number in range(7)]
    guests = [guest(number, f"h{number}", 5) for number in range(6)] + [guest(6, "h6", 6)]
    whole = sure(hosts, guests)
    monkeypatch.setattr("compute.scheduler.returning._ROWS_AT_ONCE", 2)
    assert sure(hosts, guests) == whole == {f"h{number}" for number in range(6)}
