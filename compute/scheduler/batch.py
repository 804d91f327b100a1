"""Equal requests placed together, all or none, as their group's rule wants it. Nothing is taken here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compute.scheduler.model import HostState, Policy, Ranking, Request
from compute.scheduler.ranking import rank
from compute.scheduler.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Plan:
    """A host id for each member, in order; empty when one finds none: then `failed_at` is its place, counted from 0.

    `request` and `ranking` are those of the first member, or of the one that failed: ranking the one gives the other.
    """

    hosts: tuple[str, ...]
    request: Request
    ranking: Ranking
    failed_at: int | None = None


def plan_batch(snapshot: Snapshot, request: Request, policy: Policy, count: int) -> Plan:
    """Choose hosts for `count` members one after another, each seeing those before it. Raises ValueError below 1.

    The best host for each in turn never loses a batch that would fit: members are equal, a host's room and a failure
    domain's limit count for themselves. Only a group that must share a host is looked at as a whole: its first member
    goes where all of them fit.
    """
    if count < 1:
        raise ValueError(f"a batch of {count}")
    first, first_ranking = request, None
    chosen: list[str] = []
    while len(chosen) < count:
        asked = as_a_whole(request, count - len(chosen))
        ranking = rank(snapshot, asked, policy)
        if not ranking.candidates:
            return Plan((), asked, ranking, len(chosen))
        if first_ranking is None:
            first, first_ranking = asked, ranking
        best = ranking.candidates[0].host_id
        chosen.append(best)
        snapshot = snapshot.after(best, request.resources, group=request.group, numa=request.numa)
        request = after_member(request, snapshot.hosts[snapshot.row_of[best]])
    return Plan(tuple(chosen), first, first_ranking or ranking)


def with_member(host: HostState, group: str) -> HostState:
    """Return the host with one more instance of the group on it, its room aside."""
    return replace(host, group_counts={**host.group_counts, group: host.group_counts.get(group, 0) + 1})


def after_member(request: Request, host: HostState) -> Request:
    """Return the request as the group's next member makes it, once one is on the host."""
    if request.group is None:
        return request
    members = dict(request.domain_members)
    if host.failure_domain:
        members[host.failure_domain] = members.get(host.failure_domain, 0) + 1
    return replace(request, group_started=True, domain_members=members)


def as_a_whole(request: Request, count: int) -> Request:
    """Return what the first member of a group that must share one host has to find: room for all of them."""
    if request.group is None or request.group_rule != "affinity" or request.group_started:
        return request
    limit = None if request.domain_limit is None else request.domain_limit - count + 1
    numa = None if request.numa is None else replace(request.numa, times=count)
    return replace(request, resources=request.resources * count, domain_limit=limit, numa=numa)
