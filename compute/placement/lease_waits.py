"""Waiting as a remedy: instances that are deleted at the end of their leases, and a create as it is after that.

What such an instance gives back is what `give_back` will: room on its host or in its reservation, quota and limits at
every level above it, its address, its place in a group.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from compute.models import Grant
from compute.placement.give_back import quota_amounts
from compute.placement.reservations import NOTHING, Reservation, spare_units, take, unit_of
from compute.scheduler.model import Request, Resources
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.topology import CellShare, give
from compute.scheduler.waiting import first_enough, smallest_part
from tenants.scope import ALL, Scope
from tenants.services.quota_forecast import QuotaEffect

if TYPE_CHECKING:
    from compute.placement.remedies import Case

_NAMED: Final = 3
_QUESTIONS: Final = 64


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """One instance that is deleted at `ends_at`. `levels`: the tenants that are charged for it, from the root to its own.

    `size` is what it is charged for, `room` what it has of the room that guests of its host share, `shares` what it has
    of NUMA cells, `addresses` those in its pool's network. `grant_id`: whose reservation it fills.
    """

    id: str
    name: str
    tenant_id: str
    levels: frozenset[str]
    pool_id: str
    host_id: str
    host: str
    ends_at: datetime
    size: Resources
    room: Resources
    shares: tuple[CellShare, ...] = ()
    group: str | None = None
    grant_id: uuid.UUID | None = None
    addresses: int = 1


@dataclass(frozen=True, slots=True)
class Promised:
    """The books of reservations that ending leases fill. `chain`: the create's own grants, the nearest first.

    `grants`: those of the pool that matter, by id; `uses`: (grant, host id) -> what its guests use there.
    """

    chain: tuple[uuid.UUID, ...]
    grants: Mapping[uuid.UUID, Grant]
    uses: Mapping[tuple[uuid.UUID, str], Resources]

    def without(self, ends: Iterable[LeaseEnd], reservation: Reservation) -> tuple[Promised, Reservation]:
        """Return the books and the create's reservation as they are once these instances have given back what they draw."""
        grants = {key: copy.copy(grant) for key, grant in self.grants.items()}
        uses, left = dict(self.uses), copy.deepcopy(reservation)
        for end in ends:
            grant = grants.get(end.grant_id) if end.grant_id is not None else None
            before = uses.get((grant.id, end.host_id)) if grant is not None else None
            if grant is None or before is None:
                continue
            after = uses[grant.id, end.host_id] = before - end.room
            units = unit_of(grant).slots_of(before) - unit_of(grant).slots_of(after)
            if unit_of(grant) == left.unit:
                left.free[end.host_id] = left.free.get(end.host_id, 0) + units
            if grant.id == left.grant_id:
                left.used[end.host_id] = after
            take(chain=_chain(grant, grants), units=-units)
        left.spare = spare_units([grants[key] for key in self.chain])
        return replace(self, grants=grants, uses=uses), left


def _chain(grant: Grant, grants: Mapping[uuid.UUID, Grant]) -> list[Grant]:
    chain = [grant]
    while chain[-1].parent_id is not None and chain[-1].parent_id in grants:
        chain.append(grants[chain[-1].parent_id])
    return chain


@dataclass(frozen=True, slots=True)
class Leaver:
    """An instance that a wait is for. `host` is told to operators alone."""

    instance_id: str
    instance: str
    tenant_id: str
    host: str = ""


@dataclass(frozen=True, slots=True)
class WaitForLease:
    """Wait until `ends_at` (RFC 3339), when of those that are deleted until then `leases` suffice."""

    ends_at: str
    leases: tuple[Leaver, ...] = field(default=())
    kind: str = "wait_for_lease"

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> WaitForLease:
        """Read what was stored or shown."""
        return cls(data["ends_at"], tuple(Leaver(**leaver) for leaver in data.get("leases", ())))

    def shown(self, visible: Scope) -> WaitForLease:
        """Return it as one may know it who sees these tenants: of others' instances nothing but the time."""
        if visible is ALL:
            return self
        seen = {str(tenant) for tenant in visible}
        return replace(
            self, leases=tuple(replace(leaver, host="") for leaver in self.leases if leaver.tenant_id in seen)
        )

    def words(self) -> str:
        """Say it to a person."""
        moment = datetime.fromisoformat(self.ends_at).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if not self.leases:
            return f"wait until {moment}, when leases end"
        named = [f"{one.instance} on {one.host}" if one.host else one.instance for one in self.leases[:_NAMED]]
        if len(self.leases) > _NAMED:
            named.append(f"{len(self.leases) - _NAMED} more")
        if len(named) == 1:
            return f"wait until {moment}, when the lease of {named[0]} ends"
        return f"wait until {moment}, when the leases of {', '.join(named[:-1])} and {named[-1]} end"


def find_wait(case: Case, enough: Callable[[Case], bool]) -> WaitForLease | None:
    """Return the earliest wait after which there is enough, None where the leases that are known do not suffice.

    Named are as few instances as do: the end of their leases is enough, and of no part of them. Where that takes too
    many questions, for batches that need very many, all are named that are enough and were found.
    """
    moments = sorted({end.ends_at for end in case.leases})
    at: dict[datetime, list[LeaseEnd]] = {moment: [] for moment in moments}
    for end in case.leases:
        at[end.ends_at].append(end)
    count = first_enough(
        case, moments, lambda held, more: after(held, [end for moment in more for end in at[moment]]), enough
    )
    if count is None:
        return None
    gone = [end for moment in moments[:count] for end in at[moment]]
    near = _near(case, gone, at[moments[count - 1]])
    part = near if len(near) < len(gone) and enough(after(case, near)) else gone
    needed = smallest_part(part, lambda ends: enough(after(case, ends)), questions=_QUESTIONS)
    return WaitForLease(
        ends_at=moments[count - 1].astimezone(UTC).isoformat(),
        leases=tuple(Leaver(end.id, end.name, end.tenant_id, end.host) for end in (part if needed is None else needed)),
    )


def _near(case: Case, gone: Sequence[LeaseEnd], last: Sequence[LeaseEnd]) -> list[LeaseEnd]:
    """Of those that are gone the ones that most likely matter: on a host of the last, or charged to a tenant of the last
    where that lacks quota. One of the last is needed in any case, or less of a wait would have been enough."""
    hosts = {end.host_id for end in last}
    short = {str(line.tenant_id) for line in (*case.quota, *_limits(case)) if line.missing}
    levels = short & {level for end in last for level in end.levels}
    return [end for end in gone if end.host_id in hosts or not levels.isdisjoint(end.levels)]


def _limits(case: Case) -> Sequence[QuotaEffect]:
    return case.limits.get(case.request.pool_id or "", ())


def waited(case: Case, wait: WaitForLease) -> Case:
    """Return the case without the instances that a wait is for."""
    named = {leaver.instance_id for leaver in wait.leases}
    return after(case, [end for end in case.leases if end.id in named])


def after(case: Case, ends: Sequence[LeaseEnd]) -> Case:
    """Return the case as it is once these instances are gone."""
    if not ends:
        return case
    pool = case.request.pool_id or ""
    members = [end for end in ends if end.group is not None and end.group == case.request.group]
    promised, reservations = case.promised, case.reservations
    if promised is not None and pool in reservations:
        promised, left = promised.without(ends, reservations[pool])
        reservations = {**reservations, pool: left}
    addresses = dict(case.addresses)
    for end in ends:
        if end.pool_id in addresses:
            addresses[end.pool_id] += end.addresses
    return replace(
        case,
        snapshot=_freed(case.snapshot, ends, case.request.group),
        request=_fewer_members(case, members),
        members=case.members - len(members),
        quota=[_given_back(line, ends) for line in case.quota],
        limits={
            key: [_given_back(line, [end for end in ends if end.pool_id == key]) for line in lines]
            for key, lines in case.limits.items()
        },
        addresses=addresses,
        reservations=reservations,
        promised=promised,
    )


def _freed(snapshot: Snapshot, ends: Iterable[LeaseEnd], group: str | None) -> Snapshot:
    leaving: dict[int, list[LeaseEnd]] = {}
    for end in ends:
        if end.host_id in snapshot.row_of:
            leaving.setdefault(snapshot.row_of[end.host_id], []).append(end)
    changed = []
    for row, ended in leaving.items():
        host = snapshot.hosts[row]
        # What fills a reservation leaves its room set aside, which counts as used.
        room = sum((end.room for end in ended if end.grant_id is None), NOTHING)
        shares = [share for end in ended for share in end.shares]
        counts = dict(host.group_counts)
        gone = sum(end.group is not None and end.group == group for end in ended)
        if gone and group is not None:
            counts[group] -= gone
            if not counts[group]:
                del counts[group]
        changed.append(
            replace(
                host,
                used=host.used - room,
                instances=host.instances - len(ended),
                group_counts=counts,
                cells=give(host.cells, shares) if shares else host.cells,
            )
        )
    return snapshot.with_hosts(changed)


def _fewer_members(case: Case, members: Sequence[LeaseEnd]) -> Request:
    """The request as its group's rule is told it once these members are gone."""
    if not members:
        return case.request
    domains = dict(case.request.domain_members)
    for end in members:
        row = case.snapshot.row_of.get(end.host_id)
        domain = "" if row is None else case.snapshot.hosts[row].failure_domain
        if domain in domains:
            domains[domain] -= 1
    return replace(case.request, domain_members=domains, group_started=case.members > len(members))


def _given_back(line: QuotaEffect, ends: Iterable[LeaseEnd]) -> QuotaEffect:
    level = str(line.tenant_id)
    freed = [end.size for end in ends if level in end.levels]
    if not freed:
        return line
    total = sum(freed, NOTHING)
    amounts = quota_amounts(vcpus=total.vcpus, memory_mib=total.memory_mib, disk_gib=total.disk_gib)
    return replace(line, used=line.used - (amounts | {"instances": len(freed)})[line.resource])
