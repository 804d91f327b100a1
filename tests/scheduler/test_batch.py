"""Batches: planned together, as the group's rule wants it, and never refused where another order would fit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.batch import plan_batch
from compute.scheduler.capacity import fits
from compute.scheduler.model import HostState, Policy, Request
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot
from tests.factories.scheduler import host, request, resources
from tests.scheduler.strategies import counted, demands, policies

SPREAD = Policy("spread")
Case = tuple[list[HostState], Request]


def lawful(hosts: list[HostState], wanted: Request, chosen: tuple[str, ...]) -> bool:
    """Whether the rule, the limit and the room hold once all are there, told without the planner."""
    by_id = {host.id: host for host in hosts}
    if any(host_id not in {item.host_id for item in rank(hosts, wanted, SPREAD).candidates} for host_id in chosen):
        return False
    on_host = Counter(chosen)
    if any(fits(by_id[host_id].inventory, by_id[host_id].used, wanted.resources * n) for host_id, n in on_host.items()):
        return False
    if wanted.group is None:
        return True
    if wanted.group_rule == "anti_affinity" and max(on_host.values()) > 1:
        return False
    if wanted.group_rule == "affinity" and not wanted.group_started and len(on_host) > 1:
        return False
    if wanted.domain_limit is not None:
        in_domain = Counter(by_id[host_id].failure_domain for host_id in chosen)
        return all(wanted.domain_members.get(name, 0) + n <= wanted.domain_limit for name, n in in_domain.items())
    return True


@counted
@given(demands(), policies, st.integers(1, 4))
def test_a_batch_is_placed_lawfully_exactly_when_some_choice_is_lawful(case: Case, policy: Policy, count: int) -> None:
    hosts, wanted = case
    plan = plan_batch(Snapshot.from_hosts(hosts), wanted, policy, count)
    if plan.failed_at is None:
        assert len(plan.hosts) == count
        assert lawful(hosts, wanted, plan.hosts)
    else:
        assert plan.hosts == ()
        assert 0 <= plan.failed_at < count
        able = sorted(item.host_id for item in rank(hosts, wanted, SPREAD).candidates)
        assert not any(lawful(hosts, wanted, choice) for choice in combinations_with_replacement(able, count))


@counted
@given(demands(), policies, st.integers(1, 4))
def test_what_a_plan_records_can_be_ranked_again(case: Case, policy: Policy, count: int) -> None:
    hosts, wanted = case
    plan = plan_batch(Snapshot.from_hosts(hosts), wanted, policy, count)
    if plan.failed_at in (None, 0):
        assert rank(hosts, plan.request, policy) == plan.ranking


def test_a_group_that_shares_a_host_goes_where_all_of_it_fits() -> None:
    hosts = [host("roomier-now", used=resources(2, 2048, 20)), host("full-soon", used=resources(0, 5120, 0))]
    wanted = replace(request(1, 1024, 10), group="web", group_rule="affinity")
    assert plan_batch(Snapshot.from_hosts(hosts), wanted, SPREAD, 4).hosts == ("roomier-now",) * 4


def test_members_fill_failure_domains_up_to_the_limit() -> None:
    hosts = [host("a1", failure_domain="a"), host("a2", failure_domain="a"), host("b1", failure_domain="b")]
    wanted = replace(request(), group="web", group_rule="soft_anti_affinity", domain_limit=2)
    snapshot = Snapshot.from_hosts(hosts)
    assert sorted(plan_batch(snapshot, wanted, SPREAD, 4).hosts) == ["a1", "a2", "b1", "b1"]
    failed = plan_batch(snapshot, wanted, SPREAD, 5)
    assert (failed.hosts, failed.failed_at) == ((), 4)
    assert {refusal.filter for refusal in failed.ranking.refusals} == {"failure_domain"}


def test_an_empty_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="a batch of 0"):
        plan_batch(Snapshot.from_hosts([host()]), request(), SPREAD, 0)
