"""What must hold for any hosts, request and policy."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from compute.scheduler.capacity import fits
from compute.scheduler.dump import dump, load, replay
from compute.scheduler.filters import FILTERS
from compute.scheduler.model import MODES_OF_KIND, RESOURCES, HostState, Policy, Request, Resources
from compute.scheduler.ranking import rank, rank_columns, rank_hosts
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import NumaAsk
from tests.scheduler.strategies import amounts, counted, fleets, host_states, policies, requests, shuffled


def exact_capacity(host: HostState, resource: str) -> Fraction:
    """(total - reserved) x ratio as an exact number, without the product's code."""
    ratio_of = {"vcpus": "vcpu_ratio", "memory_mib": "memory_ratio", "disk_gib": "disk_ratio"}
    net: int = getattr(host.inventory.total, resource) - getattr(host.inventory.reserved, resource)
    return max(0, net) * Fraction(str(getattr(host.inventory, ratio_of[resource])))


def its_group_allows(host: HostState, request: Request, group: str) -> bool:
    members = host.group_counts.get(group, 0)
    if request.group_rule == "anti_affinity" and members:
        return False
    if request.group_rule == "affinity" and request.group_started and not members:
        return False
    if request.domain_limit is None:
        return True
    return bool(host.failure_domain) and request.domain_members.get(host.failure_domain, 0) < request.domain_limit


def can_take(host: HostState, request: Request) -> bool:
    """An independent statement of who may take a request."""
    if host.admin_state != "enabled" or host.observed_state != "up":
        return False
    if request.pool_id not in (None, host.pool_id) or request.target_host not in (None, host.id):
        return False
    if host.id in request.forbidden_hosts | request.exposed_hosts or request.required_traits - host.traits:
        return False
    if request.forbidden_traits & host.traits:
        return False
    modes = host.modes & MODES_OF_KIND[request.kind]
    if not modes or (request.virt_mode and request.virt_mode not in modes):
        return False
    if request.group and not its_group_allows(host, request, request.group):
        return False
    if request.cpu_models and not request.cpu_models & host.cpu_models:
        return False
    if request.cpu_flags - host.cpu_flags:
        return False
    for wanted, reached in ((request.networks, host.networks), (request.storages, host.storages)):
        if wanted - reached and "" not in reached:
            return False
    if request.numa is not None and not cells_allow(host, request.numa):
        return False
    for resource in RESOURCES:
        asked = getattr(request.resources, resource)
        if asked and getattr(host.used, resource) + asked > exact_capacity(host, resource):
            return False
    return True


def cells_allow(host: HostState, ask: NumaAsk) -> bool:
    able = 0
    for cell in host.cells:
        cpus = len(cell.cpus) * ask.nodes >= ask.vcpus if ask.pinned else cell.shared_cpus > 0
        memory = cell.pages[0][1] if ask.page_kib else cell.memory_mib
        able += cpus and memory * ask.nodes >= ask.memory_mib
    return able >= ask.nodes


@counted
@given(fleets(), requests, policies)
def test_candidates_are_exactly_the_hosts_that_can_take_the_request(
    hosts: list[HostState], request: Request, policy: Policy
) -> None:
    ranking = rank(hosts, request, policy)
    assert {item.host_id for item in ranking.candidates} == {host.id for host in hosts if can_take(host, request)}


@counted
@given(fleets(), requests, policies)
def test_every_host_is_told_once_and_every_refusal_is_named(
    hosts: list[HostState], request: Request, policy: Policy
) -> None:
    ranking = rank(hosts, request, policy)
    told = [item.host_id for item in ranking.candidates] + [item.host_id for item in ranking.refusals]
    assert sorted(told) == sorted(host.id for host in hosts)
    names = [item.name for item in FILTERS]
    assert all(refusal.filter in names for refusal in ranking.refusals)
    assert sum(count for _, count in ranking.tally) == len(ranking.refusals)
    assert sum(reason.hosts for reason in ranking.reasons) == len(ranking.refusals)


@counted
@given(fleets(), requests, policies)
def test_columns_and_objects_give_the_same_ranking_float_for_float(
    hosts: list[HostState], request: Request, policy: Policy
) -> None:
    by_object, by_column = rank_hosts(hosts, request, policy), rank_columns(Snapshot.from_hosts(hosts), request, policy)
    assert by_object == by_column
    assert by_column == by_object
    assert repr(by_object) == repr(by_column)


@counted
@given(fleets(least=2), requests, policies, st.data())
def test_order_of_hosts_does_not_matter(
    hosts: list[HostState], request: Request, policy: Policy, data: st.DataObject
) -> None:
    other = data.draw(shuffled(hosts))
    assert rank_hosts(hosts, request, policy) == rank_hosts(other, request, policy)
    assert rank_columns(Snapshot.from_hosts(hosts), request, policy) == rank_columns(
        Snapshot.from_hosts(other), request, policy
    )


@counted
@given(fleets(), requests, policies, host_states(host_id="host-one-more"))
def test_one_more_host_never_turns_success_into_refusal_nor_reorders_the_rest(
    hosts: list[HostState], request: Request, policy: Policy, more: HostState
) -> None:
    before, after = rank(hosts, request, policy), rank([*hosts, more], request, policy)
    assert tuple(item for item in after.candidates if item.host_id != more.id) == before.candidates


@counted
@given(fleets(in_service=True), st.lists(requests, max_size=12), policies)
def test_a_stream_of_placements_never_goes_over_the_ratio(
    hosts: list[HostState], stream: list[Request], policy: Policy
) -> None:
    started = {host.id: host.used for host in hosts}
    snapshot = Snapshot.from_hosts(hosts)
    for request in stream:
        ranking = rank(snapshot, request, policy)
        if ranking.candidates:
            best = ranking.candidates[0].host_id
            snapshot = snapshot.after(best, request.resources, group=request.group, numa=request.numa)
    for host in snapshot.hosts:
        for resource in RESOURCES:
            used = getattr(host.used, resource)
            # A host that was over before (it shrank) may stay so, but never takes more.
            assert used <= exact_capacity(host, resource) or used == getattr(started[host.id], resource)
        assert all(cell.memory_mib >= 0 and cell.pages[0][1] >= 0 for cell in host.cells)


PATCHED = ("inventory", "used", "instances", "admin_state", "observed_state", "load", "group_counts", "cells")


def facts(snapshot: Snapshot) -> list[dict[str, object]]:
    """What the columns say of each row; a flag that no host has any more says nothing."""
    rows: list[dict[str, object]] = []
    for row in range(len(snapshot)):
        said: dict[str, object] = {"load": snapshot.load[row], "place": snapshot.id_order[row]}
        for resource in RESOURCES:
            said[resource] = (snapshot.capacity[resource][row], snapshot.used[resource][row])
        flags = {
            "admin": snapshot.admin_states,
            "observed": snapshot.observed_states,
            "pools": snapshot.pools,
            "modes": snapshot.modes,
            "traits": snapshot.traits,
            "cpu_models": snapshot.cpu_models,
            "cpu_flags": snapshot.cpu_flags,
            "networks": snapshot.networks,
            "storages": snapshot.storages,
            "images": snapshot.images,
            "domains": snapshot.domains,
        }
        said |= {name: {value for value, column in columns.items() if column[row]} for name, columns in flags.items()}
        said["groups"] = {group: members[row] for group, members in snapshot.groups.items() if row in members}
        rows.append(said)
    return rows


@counted
@given(fleets(least=1), requests, policies, st.data())
def test_a_snapshot_kept_up_to_date_ranks_like_a_new_one(
    hosts: list[HostState], request: Request, policy: Policy, data: st.DataObject
) -> None:
    kept = Snapshot.from_hosts(hosts)
    current = {host.id: host for host in hosts}
    for _ in range(3):
        host_id = data.draw(st.sampled_from([host.id for host in hosts]))
        changed, before = data.draw(host_states(host_id=host_id)), current[host_id]
        if data.draw(st.booleans()):  # what never changes by itself stays: then columns are patched, not built anew
            changed = replace(before, **{name: getattr(changed, name) for name in PATCHED})
        current[host_id] = changed
        kept = kept.with_host(changed)
        size, group = data.draw(amounts()), data.draw(st.sampled_from([None, "blue"]))
        kept = kept.after(host_id, size, group=group)
        counts = dict(changed.group_counts)
        if group:
            counts[group] = counts.get(group, 0) + 1
        current[host_id] = replace(
            changed, used=changed.used + size, instances=changed.instances + 1, group_counts=counts
        )
    assert kept.hosts == tuple(current[host.id] for host in hosts)
    assert facts(kept) == facts(Snapshot.from_hosts(kept.hosts))
    assert rank(kept, request, policy) == rank_hosts(tuple(current.values()), request, policy)


@counted
@given(fleets(), requests, policies)
def test_replay_of_a_dump_equals_the_record(hosts: list[HostState], request: Request, policy: Policy) -> None:
    recorded = rank(hosts, request, policy)
    data = json.loads(json.dumps(dump(hosts, request, policy, recorded), allow_nan=False))
    assert load(data).ranking == recorded
    assert replay(data) == recorded
    assert load(data).request == request
    assert load(data).hosts == tuple(sorted(hosts, key=lambda host: host.id))


@counted
@given(host_states(host_id="host-a"), amounts(least=1))
def test_a_margin_is_exactly_what_is_missing(host: HostState, asked: Resources) -> None:
    for lack in fits(host.inventory, host.used, asked):
        assert lack.margin == lack.free - lack.asked < 0
        freed = replace(host.used, **{lack.resource: getattr(host.used, lack.resource) + lack.margin})
        almost = replace(freed, **{lack.resource: getattr(freed, lack.resource) + 1})
        assert lack.resource not in {left.resource for left in fits(host.inventory, freed, asked)}
        assert lack.resource in {left.resource for left in fits(host.inventory, almost, asked)}


@counted
@given(fleets(least=1), requests, policies)
def test_score_is_the_sum_of_its_contributions(hosts: list[HostState], request: Request, policy: Policy) -> None:
    for candidate in rank(hosts, request, policy).candidates:
        total = 0.0
        for points in candidate.contributions.values():
            total += points
        assert candidate.score == total
