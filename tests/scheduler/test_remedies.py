"""Remedies: what is offered works, nothing smaller does, and no host is named."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.batch import plan_batch
from compute.scheduler.model import HostState, Policy, Request
from compute.scheduler.ranking import rank
from compute.scheduler.remedies import Change, apply, how_many, remedies
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted, demands, policies

SPREAD = Policy("spread")
Case = tuple[list[HostState], Request]


def works(hosts: list[HostState], wanted: Request, policy: Policy, changes: tuple[Change, ...]) -> bool:
    changed, _ = apply(wanted, changes)
    return bool(rank(hosts, changed, policy).candidates)


def smaller_changes(change: Change) -> list[Change]:
    """The changes that take one unit, one instance or one trait less from the request, if they are still changes."""
    if change.to is not None and change.asked is not None:
        return [replace(change, to=change.to + 1)] if change.to + 1 < change.asked else []
    parts: list[Change] = []
    for name in ("traits", "flags"):
        listed = getattr(change, name)
        left = [tuple(item for item in listed if item != dropped) for dropped in listed]
        parts.extend(replace(change, **{name: items}) for items in left if items)
    return parts


@counted
@given(demands(), policies)
def test_offered_remedies_make_it_fit_and_no_proper_part_of_them_does(case: Case, policy: Policy) -> None:
    hosts, wanted = case
    for remedy in remedies(hosts, wanted, policy):
        assert works(hosts, wanted, policy, remedy.changes)
        for size in range(len(remedy.changes)):
            for part in combinations(remedy.changes, size):
                assert not works(hosts, wanted, policy, part)


@counted
@given(demands(), policies)
def test_asking_one_unit_more_or_dropping_one_trait_fewer_is_refused(case: Case, policy: Policy) -> None:
    hosts, wanted = case
    for remedy in remedies(hosts, wanted, policy):
        for place, change in enumerate(remedy.changes):
            for smaller in smaller_changes(change):
                changes = (*remedy.changes[:place], smaller, *remedy.changes[place + 1 :])
                assert not works(hosts, wanted, policy, changes)


@counted
@given(demands(), policies)
def test_a_refusal_that_any_change_could_heal_is_offered_a_remedy(case: Case, policy: Policy) -> None:
    hosts, wanted = case
    least = replace(
        wanted,
        resources=resources(*(min(1, amount) for amount in asdict(wanted.resources).values())),
        pool_id=None,
        required_traits=frozenset(),
        target_host=None,
        virt_mode=None,
        group_rule="soft_anti_affinity",
        cpu_models=frozenset(),
        cpu_flags=frozenset(),
        domain_limit=None,
    )
    could_be_healed = bool(rank(hosts, least, policy).candidates)
    fits_already = bool(rank(hosts, wanted, policy).candidates)
    assert bool(remedies(hosts, wanted, policy)) == (could_be_healed and not fits_already)


@counted
@given(demands(), policies, st.integers(2, 6))
def test_remedies_for_a_batch_make_the_whole_batch_fit(case: Case, policy: Policy, count: int) -> None:
    hosts, wanted = case
    for remedy in remedies(hosts, wanted, policy, count=count):
        changed, number = apply(wanted, remedy.changes, count)
        assert placed_one_by_one(hosts, changed, policy, number) == number
        for place, change in enumerate(remedy.changes):
            for smaller in smaller_changes(change):
                changes = (*remedy.changes[:place], smaller, *remedy.changes[place + 1 :])
                changed, number = apply(wanted, changes, count)
                assert placed_one_by_one(hosts, changed, policy, number) < number


@counted
@given(demands(), policies)
def test_how_many_is_what_placing_one_by_one_reaches(case: Case, policy: Policy) -> None:
    hosts, wanted = case
    assert placed_one_by_one(hosts, wanted, policy, 200) == min(200, how_many(hosts, wanted))


def placed_one_by_one(hosts: list[HostState], wanted: Request, policy: Policy, most: int) -> int:
    """The largest batch, up to `most`, that finds its hosts."""
    snapshot = Snapshot.from_hosts(hosts)
    plan = plan_batch(snapshot, wanted, policy, most) if most else None
    if plan is None or plan.failed_at is None:
        return most
    fits = plan.failed_at
    while plan_batch(snapshot, wanted, policy, fits + 1).failed_at is None:  # a group on one host fails as a whole
        fits += 1
    return fits


@counted
@given(demands(), policies, st.integers(1, 3))
def test_no_remedy_names_a_host(case: Case, policy: Policy, count: int) -> None:
    hosts, wanted = case
    for remedy in remedies(hosts, wanted, policy, count=count):
        text = repr(asdict(remedy))
        assert not any(item.id in text or item.name in text for item in hosts)


def test_less_memory_is_offered_down_to_the_largest_room() -> None:
    hosts = [host("a", used=resources(0, 8192 - 512, 0)), host("b", used=resources(0, 8192 - 768, 0))]
    (remedy,) = remedies(hosts, request(1, 1024, 10), SPREAD)
    assert remedy.changes == (Change("less", "memory_mib", 1024, 768, "MiB"),)
    assert remedy.sentence == "Ask for at most 768 MiB of memory instead of 1024."


def test_another_pool_is_offered_by_its_name_when_its_hosts_are_known() -> None:
    hosts = [host("a", used=resources(8, 0, 0)), host("b", pool_id="pool-2")]
    (remedy,) = remedies(hosts, replace(request(), pool_id="pool-1"), SPREAD, pool_names={"pool-2": "archive"})
    assert remedy.changes == (Change("pool", pool="pool-2"),)
    assert remedy.sentence == "Use the pool archive."


def test_two_changes_are_offered_together_where_neither_suffices_alone() -> None:
    hosts = [host("a", used=resources(0, 8000, 95))]
    (remedy,) = remedies(hosts, request(1, 1024, 10), SPREAD)
    assert [(change.resource, change.to) for change in remedy.changes] == [("memory_mib", 192), ("disk_gib", 5)]
    assert remedy.sentence == (
        "Ask for at most 192 MiB of memory instead of 1024 and ask for at most 5 GiB of disk instead of 10."
    )


def test_nothing_is_offered_where_only_an_operator_can_help() -> None:
    hosts = [host("a", admin_state="draining"), host("b", observed_state="down"), host("c", modes=frozenset({"lxc"}))]
    assert remedies(hosts, request(), SPREAD) == ()


def test_nothing_is_offered_for_a_request_that_fits() -> None:
    assert remedies([host("a")], request(), SPREAD) == ()


def test_a_batch_too_large_is_offered_fewer_or_smaller() -> None:
    hosts = [host("a"), host("b")]  # 8 vCPU, 8,192 MiB, 100 GiB each
    found = {remedy.changes[0].kind: remedy for remedy in remedies(hosts, request(1, 4096, 1), SPREAD, count=5)}
    assert found["fewer"].changes[0].to == 4
    assert found["fewer"].sentence == "Ask for 4 instances instead of 5."
    assert found["less"].changes[0].to == 8192 // 3


def test_a_group_kept_apart_on_too_few_hosts_is_offered_the_soft_rule() -> None:
    hosts = [host("a", group_counts={"web": 1})]
    (remedy,) = remedies(hosts, replace(request(), group="web"), SPREAD)
    assert remedy.changes == (Change("soft_group"),)


def test_a_missing_trait_is_named_and_only_the_missing_one() -> None:
    hosts = [host("a", traits=frozenset({"ssd"}))]
    wanted = replace(request(), required_traits=frozenset({"ssd", "numa"}))
    (remedy,) = remedies(hosts, wanted, SPREAD)
    assert remedy.changes == (Change("without_traits", traits=("numa",)),)


def test_of_several_hosts_the_one_that_needs_the_smallest_cuts_is_offered() -> None:
    hosts = [host("a", used=resources(0, 8000, 95)), host("b", used=resources(0, 7692, 93))]
    (remedy,) = remedies(hosts, request(1, 1024, 10), SPREAD)
    assert [(change.resource, change.to) for change in remedy.changes] == [("memory_mib", 500), ("disk_gib", 7)]


def test_each_other_pool_is_offered_for_itself() -> None:
    hosts = [host("a", used=resources(8, 0, 0)), host("b", pool_id="pool-2"), host("c", pool_id="pool-3")]
    offered = remedies(hosts, replace(request(), pool_id="pool-1"), SPREAD)
    assert [remedy.changes for remedy in offered] == [
        (Change("pool", pool="pool-2"),),
        (Change("pool", pool="pool-3"),),
    ]


@pytest.mark.parametrize("room", range(1, 12))
def test_a_batch_is_offered_exactly_the_most_that_all_of_it_fits_with(room: int) -> None:
    hosts = [host("a", total=resources(9, 4 * room + 3, 9))]
    found = [remedy.changes[0] for remedy in remedies(hosts, request(1, 4 * room + 3, 1), SPREAD, count=4)]
    assert Change("less", "memory_mib", 4 * room + 3, room, "MiB") in found


def test_a_group_kept_apart_fits_once_per_host_however_roomy() -> None:
    apart = replace(request(), group="web")
    assert how_many([host("a"), host("b")], apart) == 2
    assert how_many([host("a"), host("b")], replace(apart, group_rule="soft_anti_affinity")) == 16


def test_of_several_hosts_the_one_that_lacks_fewest_traits_is_offered() -> None:
    hosts = [host("a"), host("b", traits=frozenset({"ssd"}))]
    wanted = replace(request(), required_traits=frozenset({"ssd", "numa"}))
    (remedy,) = remedies(hosts, wanted, SPREAD)
    assert remedy.changes == (Change("without_traits", traits=("numa",)),)
    assert remedy.sentence == "Do without the condition on numa."


def test_of_equal_largest_cuts_the_smaller_other_cut_is_offered() -> None:
    hosts = [host("a", used=resources(0, 8192 - 512, 95)), host("b", used=resources(0, 8192 - 512, 91))]
    (remedy,) = remedies(hosts, request(1, 1024, 10), SPREAD)
    assert [(change.resource, change.to) for change in remedy.changes] == [("memory_mib", 512), ("disk_gib", 9)]
