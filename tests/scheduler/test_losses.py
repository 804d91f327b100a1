"""N+k: what is called absorbed has a plan that anyone can check; what is refused is refused for want of one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.capacity import fits
from compute.scheduler.losses import Guest, Losses
from compute.scheduler.model import HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted

SPREAD = Policy("spread")
IDS = ("a", "b", "c", "d")


def with_guests(hosts: list[HostState], guests: list[Guest]) -> Snapshot:
    """The hosts with the guests' room and groups counted in."""
    snapshot = Snapshot.from_hosts(hosts)
    for guest in guests:
        snapshot = snapshot.after(guest.host_id, guest.request.resources, group=guest.request.group)
    return snapshot


def survives(snapshot: Snapshot, guests: list[Guest], count: int) -> bool:
    """Whether every guest of any `count` lost hosts has a place elsewhere, found by trying all."""
    return all(_all_find_room(snapshot, guests, set(lost)) for lost in combinations(IDS[: len(snapshot)], count))


def _all_find_room(snapshot: Snapshot, guests: list[Guest], lost: set[str]) -> bool:
    moving = [guest for guest in guests if guest.host_id in lost]
    left = [host for host in snapshot.hosts if host.id not in lost]
    return any(_lawful(left, moving, choice) for choice in product(left, repeat=len(moving)))


def _lawful(left: list[HostState], moving: list[Guest], choice: tuple[HostState, ...]) -> bool:
    load: dict[str, Resources] = defaultdict(resources)
    members: dict[tuple[str, str], int] = defaultdict(int)
    for guest, target in zip(moving, choice, strict=True):
        if target.observed_state != "up" or not guest.request.required_traits <= target.traits:
            return False
        load[target.id] = load[target.id] + guest.request.resources
        if guest.request.group:
            members[target.id, guest.request.group] += 1
            if members[target.id, guest.request.group] + target.group_counts.get(guest.request.group, 0) > 1:
                return False
    return not any(fits(target.inventory, target.used, load[target.id]) for target in left)


sizes = st.builds(Resources, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
wanted = st.builds(
    Request,
    kind=st.just("vm"),
    resources=sizes,
    required_traits=st.sampled_from([frozenset[str](), frozenset[str](), frozenset({"ssd"})]),
    group=st.sampled_from([None, None, "web"]),
)


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[HostState], list[Guest]]:
    hosts = [
        host(
            host_id,
            total=draw(st.builds(Resources, *[st.integers(2, 8)] * 3)),
            traits=draw(st.sampled_from([frozenset[str](), frozenset({"ssd"})])),
            observed_state=draw(st.sampled_from(["up", "up", "up", "down"])),
        )
        for host_id in IDS[: draw(st.integers(2, 4))]
    ]
    guests: list[Guest] = []
    for number in range(draw(st.integers(0, 5))):
        guest = Guest(f"guest-{number}", draw(st.sampled_from(hosts)).id, draw(wanted))
        members = [item for item in guests if item.host_id == guest.host_id and item.request.group]
        target = next(item for item in with_guests(hosts, guests).hosts if item.id == guest.host_id)
        if not (guest.request.group and members) and not fits(target.inventory, target.used, guest.request.resources):
            guests.append(guest)
    return hosts, guests


@counted
@given(pools(), wanted, st.integers(1, 2))
def test_a_host_that_is_not_exposed_leaves_a_pool_that_survives(
    pool: tuple[list[HostState], list[Guest]], asked: Request, count: int
) -> None:
    hosts, guests = pool
    snapshot = with_guests(hosts, guests)
    exposed = Losses.plan(snapshot, guests, count).exposed(asked)
    for candidate in rank(snapshot, replace(asked, exposed_hosts=exposed), SPREAD).candidates:
        more = [*guests, Guest("new", candidate.host_id, asked)]
        assert survives(with_guests(hosts, more), more, count)


@counted
@given(pools(), st.integers(1, 2))
def test_what_is_told_as_covered_survives(pool: tuple[list[HostState], list[Guest]], count: int) -> None:
    hosts, guests = pool
    snapshot = with_guests(hosts, guests)
    uncovered = Losses.plan(snapshot, guests, count).uncovered
    for lost in combinations(IDS[: len(hosts)], count):
        assert lost in uncovered or _all_find_room(snapshot, guests, set(lost))


@counted
@given(pools(), wanted, st.permutations(range(4)))
def test_order_of_hosts_and_guests_does_not_matter(
    pool: tuple[list[HostState], list[Guest]], asked: Request, order: list[int]
) -> None:
    hosts, guests = pool
    shuffled = [hosts[place] for place in order if place < len(hosts)]
    one = Losses.plan(with_guests(hosts, guests), guests)
    other = Losses.plan(with_guests(shuffled, guests[::-1]), guests[::-1])
    assert one.exposed(asked) == other.exposed(asked)
    assert sorted(one.uncovered) == sorted(other.uncovered)


def test_the_last_room_of_a_pool_is_kept_for_a_loss() -> None:
    hosts = [host("a"), host("b"), host("c")]
    guests = [Guest(f"{place}{number}", place, request(1, 1024, 10)) for place in "abc" for number in range(5)]
    losses = Losses.plan(with_guests(hosts, guests), guests)
    assert losses.uncovered == ()
    # 24 vCPU, 8 of them lost: 16 guests survive. 15 are there, so one more may come, and then no other.
    assert rank(losses.snapshot, replace(request(), exposed_hosts=losses.exposed(request())), SPREAD).candidates
    assert losses.exposed(request(2, 1024, 10)) == {"a", "b", "c"}
    full = [*guests, Guest("a5", "a", request(1, 1024, 10))]
    assert Losses.plan(with_guests(hosts, full), full).exposed(request()) == {"a", "b", "c"}


def test_a_loss_that_is_not_covered_is_named_and_closes_the_pool() -> None:
    hosts = [host("a"), host("b", used=resources(6, 6144, 10)), host("c", used=resources(6, 6144, 10))]
    guests = [Guest("large", "a", request(3, 1024, 10))]
    losses = Losses.plan(with_guests(hosts, guests), guests)
    assert losses.uncovered == (("a",),)
    assert losses.exposed(request()) == {"a", "b", "c"}


def test_members_that_share_a_host_move_as_one() -> None:
    together = replace(request(2, 1024, 1), group="web", group_rule="affinity", group_started=True)
    guests = [Guest("one", "a", together), Guest("two", "a", together)]
    split = [host("a"), host("b", used=resources(5, 0, 0)), host("c", used=resources(5, 0, 0))]
    assert Losses.plan(with_guests(split, guests), guests).uncovered == (("a",),)
    whole = [host("a"), host("b", used=resources(4, 0, 0)), host("c", used=resources(6, 0, 0))]
    assert Losses.plan(with_guests(whole, guests), guests).uncovered == ()


def test_a_second_pass_fills_the_fullest_where_the_emptiest_first_leaves_no_hole() -> None:
    hosts = [host("a"), host("b", used=resources(4, 0, 0)), host("c", used=resources(3, 0, 0))]
    guests = [Guest(name, "a", request(vcpus, 64, 1)) for name, vcpus in (("w", 3), ("x", 2), ("y", 2), ("z", 2))]
    losses = Losses.plan(with_guests(hosts, guests), guests)
    assert losses.uncovered == ()


@pytest.mark.parametrize(("hosts", "count"), [(2, 0), (400, 2)])
def test_losses_beyond_what_can_be_planned_are_an_error(hosts: int, count: int) -> None:
    with pytest.raises(ValueError, match="cannot be planned"):
        Losses.plan(Snapshot.from_hosts([host(f"{number}") for number in range(hosts)]), [], count)
