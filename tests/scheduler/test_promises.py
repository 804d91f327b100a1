"""Slots set aside for promises: sound against every loss, minimal for one unit, blind to the order of hosts."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.model import RESOURCES, Resources
from compute.scheduler.promises import SlotHost, Unit, carries, set_aside, surviving, tolerated
from tests.scheduler.strategies import counted

BOTH = frozenset({"qemu", "lxc"})
UNITS = (Unit(1, 2, 1), Unit(2, 2, 2), Unit(3, 1, 1, "vm"))


def _host(number: int, room: int, filled: dict[Unit, int] | None = None) -> SlotHost:
    return SlotHost(f"host-{number}", Resources(room, room, room), BOTH, filled or {})


@st.composite
def fleets(draw: st.DrawFn) -> list[SlotHost]:
    """Hosts whose filled slots fit into their room, as the ledger holds them."""
    hosts = []
    for number in range(draw(st.integers(0, 5))):
        filled = draw(st.dictionaries(st.sampled_from(UNITS), st.integers(0, 2)))
        room = draw(st.builds(Resources, *[st.integers(0, 9)] * 3))
        for unit, count in filled.items():
            room = room + unit.times(count)
        modes = draw(st.sampled_from([BOTH, frozenset({"lxc"})]))
        hosts.append(SlotHost(f"host-{number}", room, modes, filled))
    return hosts


promises = st.dictionaries(st.sampled_from(UNITS), st.integers(0, 8))
losses = st.integers(0, 2)


@counted
@given(fleets(), promises, losses)
def test_slots_fit_their_hosts_and_keep_what_is_filled(
    hosts: list[SlotHost], promised: dict[Unit, int], losses: int
) -> None:
    plan, _ = set_aside(hosts, promised, losses)
    for host in hosts:
        for resource in RESOURCES:
            taken = sum(getattr(unit, resource) * slots.get(host.id, 0) for unit, slots in plan.items())
            assert taken <= getattr(host.room, resource)
        for unit, slots in plan.items():
            assert slots.get(host.id, 0) >= host.filled.get(unit, 0)
            if not carries(host.modes, unit):
                assert slots.get(host.id, 0) == host.filled.get(unit, 0)


@counted
@given(fleets(), promises, losses)
def test_whatever_hosts_are_lost_every_unit_has_its_slot(
    hosts: list[SlotHost], promised: dict[Unit, int], losses: int
) -> None:
    plan, broken = set_aside(hosts, promised, losses)
    for unit, units in promised.items():
        if any(item.unit == unit for item in broken):
            continue
        for lost in combinations([host.id for host in hosts], min(losses, len(hosts))):
            assert sum(count for host, count in plan[unit].items() if host not in lost) >= units


@counted
@given(fleets(), st.sampled_from(UNITS), st.integers(0, 8), losses)
def test_one_unit_is_refused_only_where_no_way_exists_and_takes_no_slot_too_many(
    hosts: list[SlotHost], unit: Unit, units: int, losses: int
) -> None:
    hosts = [SlotHost(host.id, host.room, host.modes, {unit: host.filled.get(unit, 0)}) for host in hosts]
    filled = {host.id: host.filled[unit] for host in hosts}
    plan, broken = set_aside(hosts, {unit: units}, losses)
    most = {}
    for host in hosts:
        free = min(getattr(host.room, name) // getattr(unit, name) for name in RESOURCES)
        most[host.id] = free if carries(host.modes, unit) else host.filled[unit]
    possible = surviving(np.array([*most.values()], dtype=np.int64), losses)
    assert bool(broken) == (possible < units)
    if broken:
        assert (broken[0].placeable, broken[0].promised) == (possible, units)
        return
    raised = [count for host_id, count in plan[unit].items() if count > filled[host_id]]
    if raised:
        lower = [max(filled[host_id], min(most[host_id], max(raised) - 1)) for host_id in most]
        assert surviving(np.array(lower), losses) < units, "a lower level would have done"


@counted
@given(st.data())
def test_the_order_of_hosts_does_not_matter(data: st.DataObject) -> None:
    hosts, promised, lost = data.draw(fleets()), data.draw(promises), data.draw(losses)
    assert set_aside(data.draw(st.permutations(hosts)), promised, lost) == set_aside(hosts, promised, lost)


@counted
@given(st.lists(st.integers(0, 6), max_size=6), st.integers(0, 20))
def test_tolerated_is_the_largest_loss_that_the_slots_outlive(slots: list[int], units: int) -> None:
    said = tolerated(slots, units)
    column = np.array(slots, dtype=np.int64)
    if said >= 0:
        assert surviving(column, said) >= units
    if said < len(slots):
        assert surviving(column, said + 1) < units or units == 0


def test_slots_are_spread_so_that_a_loss_costs_least() -> None:
    unit = Unit(1, 1, 1)
    plan, broken = set_aside([_host(number, 10) for number in range(4)], {unit: 6}, 1)
    assert (sorted(plan[unit].values()), broken) == ([2, 2, 2, 2], ())


def test_a_large_unit_finds_its_room_before_small_ones_take_it() -> None:
    large, small = Unit(4, 4, 4), Unit(1, 1, 1)
    plan, broken = set_aside([_host(1, 4), _host(2, 4)], {small: 4, large: 1}, 0)
    assert broken == ()
    assert sum(plan[large].values()) == 1
    assert sum(plan[small].values()) == 4


@pytest.mark.parametrize(
    ("amount", "slots"), [((0, 0, 0), 0), ((1, 1, 1), 1), ((2, 4, 10), 1), ((3, 1, 1), 2), ((1, 9, 1), 3)]
)
def test_slots_of_counts_the_resource_that_needs_most(amount: tuple[int, int, int], slots: int) -> None:
    assert Unit(2, 4, 10).slots_of(Resources(*amount)) == slots


def test_a_unit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 vCPU"):
        Unit(1, 0, 1)
