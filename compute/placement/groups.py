"""Where a group's members hold room, as ranking needs to know it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from django.db.models import Count, Q

from compute import states
from compute.models import Allocation, Group, Instance, Migration
from compute.scheduler.model import Request
from compute.scheduler.snapshot import Snapshot
from tenants.errors import NotFound


@dataclass(frozen=True, slots=True)
class Members:
    """How many members hold room on which host (by id) and in which failure domain. `group` None: there is no group."""

    group: str | None
    on_host: Mapping[str, int]
    in_domain: Mapping[str, int]

    @classmethod
    def of(cls, request: Request, *, without: uuid.UUID | None = None, leaving: uuid.UUID | None = None) -> Members:
        """Read the members of the request's group as they are committed now.

        `without` one that is to go elsewhere; without those on the host that is left. A member that is being migrated
        counts at both ends: nobody knows yet where it will be.
        """
        if request.group is None:
            return cls(None, {}, {})
        members = Instance.unscoped.filter(group_id=uuid.UUID(request.group))
        if without is not None:
            members = members.exclude(id=without)
        moving = Migration.objects.filter(instance__in=members, state__in=states.MIGRATION_OPEN)
        held = Allocation.objects.filter(
            Q(consumer_type="instance", consumer_id__in=members.values("id"))
            | Q(consumer_type="migration", consumer_id__in=moving.values("id"))
        )
        if leaving is not None:
            held = held.exclude(host_id=leaving)
        rows = held.values_list("host_id", "host__failure_domain").annotate(members=Count("id"))
        on_host: dict[str, int] = {}
        in_domain: dict[str, int] = {}
        for host_id, domain, count in rows:
            on_host[str(host_id)] = count
            if domain:
                in_domain[domain] = in_domain.get(domain, 0) + count
        return cls(request.group, on_host, in_domain)

    def told(self, request: Request) -> Request:
        """Return the request with what its group has elsewhere."""
        if self.group is None:
            return request
        return replace(request, group_started=bool(self.on_host), domain_members=self.in_domain)

    def shown(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with the group's members counted."""
        if self.group is None or not self.on_host:
            return snapshot
        rows = [
            (snapshot.row_of[host_id], count) for host_id, count in self.on_host.items() if host_id in snapshot.row_of
        ]
        return snapshot.with_hosts(
            replace(snapshot.hosts[row], group_counts={self.group: count}) for row, count in rows
        )


def lock_group(request: Request) -> None:
    """Keep everybody else from placing members of the request's group until the transaction ends.

    Taken before the members are read and before any host's row: two creates that both saw a host without a member would
    both go there. Raises NotFound for a group that was deleted meanwhile.
    """
    if request.group is None:
        return
    if not Group.unscoped.select_for_update(no_key=True).filter(id=uuid.UUID(request.group)).first():
        raise NotFound("The group is gone.")
