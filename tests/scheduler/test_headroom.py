"""How much more fits: the columns against placing one by one, and what is said beside the count."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.headroom import (
    FullHost,
    Headroom,
    StateCount,
    capacity_in_service,
    count_states,
    free_room,
    fullest,
    headroom,
    largest,
    stranded,
)
from compute.scheduler.model import HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from compute.wire import Kind
from tests.factories.scheduler import host, resources
from tests.scheduler.strategies import counted, fleets

sizes = st.builds(Resources, vcpus=st.integers(1, 5), memory_mib=st.integers(0, 5), disk_gib=st.integers(0, 5))


@counted
@given(hosts=fleets(), size=sizes, kind=st.sampled_from(["vm", "container"]))
def test_as_many_fit_as_can_be_placed_one_by_one(hosts: list[HostState], size: Resources, kind: Kind) -> None:
    snapshot = Snapshot.from_hosts(hosts)
    found = headroom(snapshot, size, kind)
    placed, used = 0, set()
    while candidates := rank(snapshot, Request(kind=kind, resources=size), Policy()).candidates:
        snapshot = snapshot.after(candidates[0].host_id, size)
        used.add(candidates[0].host_id)
        placed += 1
    assert (found.count, found.hosts) == (placed, len(used))
    assert found.count <= found.undivided
    assert (found.limited_by is None) <= (found.count == 0)


@counted
@given(hosts=fleets(), shapes=st.lists(sizes, min_size=1, max_size=3))
def test_stranded_room_is_that_of_hosts_that_take_none_of_the_sizes(
    hosts: list[HostState], shapes: list[Resources]
) -> None:
    snapshot = Snapshot.from_hosts(hosts)
    free = free_room(snapshot)
    lost = [
        row
        for row in range(len(hosts))
        if not any(
            all(free[name][row] >= getattr(shape, name) for name in ("vcpus", "memory_mib", "disk_gib"))
            for shape in shapes
        )
    ]
    assert stranded(snapshot, shapes) == Resources(
        *(sum(int(free[name][row]) for row in lost) for name in ("vcpus", "memory_mib", "disk_gib"))
    )


def test_room_in_pieces_is_told_from_room_in_one_piece() -> None:
    snapshot = Snapshot.from_hosts(host(f"host-{number}", used=resources(2, 5000, 0)) for number in range(4))
    found = headroom(snapshot, resources(1, 2000, 1), "vm")
    assert found == Headroom(count=4, hosts=4, undivided=6, limited_by="memory_mib")
    assert round(found.lost, 3) == 0.333


def test_hosts_out_of_service_or_of_another_kind_have_no_room() -> None:
    away = [host("host-1", admin_state="disabled"), host("host-2", observed_state="down")]
    shrunk = host("host-3", total=resources(2, 2048, 10), used=resources(4, 1024, 5))
    lxc = host("host-4", modes=frozenset({"lxc"}))
    snapshot = Snapshot.from_hosts([*away, shrunk, lxc])
    assert headroom(snapshot, resources(1, 1024, 1), "vm").count == 0
    assert headroom(snapshot, resources(1, 1024, 1), "container").count == 8
    assert list(free_room(snapshot)["vcpus"]) == [0, 0, 0, 8]
    assert capacity_in_service(snapshot) == resources(10, 10240, 110)
    assert count_states(snapshot) == [
        StateCount("enabled", "up", 2),
        StateCount("disabled", "up", 1),
        StateCount("enabled", "down", 1),
    ]


def test_the_fullest_are_told_by_what_runs_out_first() -> None:
    full, busy = host("host-2", used=resources(2, 8192, 0)), host("host-1", used=resources(6, 0, 0))
    gone = replace(host("host-0", used=resources(8, 8192, 100)), observed_state="down")
    assert fullest(Snapshot.from_hosts([busy, full, gone, host("host-3")]), 2) == [
        FullHost("host-2", "HOST-2", 1.0, "memory_mib", 0),
        FullHost("host-1", "HOST-1", 0.75, "vcpus", 0),
    ]
    assert fullest(Snapshot.from_hosts([]), 2) == []


def test_the_largest_is_the_one_with_most_memory() -> None:
    assert largest([("wide", resources(8, 1024, 1)), ("tall", resources(1, 2048, 1))]) == "tall"
    assert largest([]) is None
