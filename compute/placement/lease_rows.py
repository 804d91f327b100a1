"""Reads which instances are deleted at the end of their leases, as far as that could let a refused create in."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compute import states
from compute.models import Grant, GrantUse
from compute.placement.cells import read_cells
from compute.placement.lease_waits import LeaseEnd, Promised
from compute.scheduler.model import Resources
from tenants import prepared

if TYPE_CHECKING:
    from compute.placement.remedies import Case

# The first to end, so many: what takes longer is no remedy that anybody waits for where so much else comes back earlier.
MOST: Final = 1000

# What cannot be reached gives nothing back at its end, and of one on its way to another host nobody knows where it will
# be then. The index `instance_lease_end` holds what is asked of leases.
_ENDS: Final = """
SELECT i.id, i.name, i.tenant_id, t.path, i.pool_id, h.id, h.name, i.lease_ends_at, i.vcpus, i.memory_mib, i.disk_gib,
       a.vcpus - a.dedicated_vcpus, a.memory_mib - a.dedicated_memory_mib, a.disk_gib, a.cells, i.group_id, a.grant_id,
       (SELECT count(*) FROM compute_port p WHERE p.instance_id = i.id AND p.network_id = ANY(%(networks)s::uuid[]))
FROM compute_instance i
JOIN tenants_tenant t ON t.id = i.tenant_id JOIN compute_host h ON h.id = i.host_id
JOIN compute_allocation a ON a.consumer_type = 'instance' AND a.consumer_id = i.id
WHERE i.lease_action = 'delete' AND i.state IN ('building', 'active', 'error')
  AND i.lease_ends_at > statement_timestamp() AND h.observed_state = 'up'
  AND (i.pool_id = %(pool)s::uuid OR t.path && %(levels)s::uuid[])
  AND NOT EXISTS (SELECT FROM compute_migration m WHERE m.instance_id = i.id AND m.state = ANY(%(moving)s::text[]))
ORDER BY i.lease_ends_at, i.id LIMIT %(most)s
"""


def load_ends(case: Case) -> list[LeaseEnd]:
    """Return the leases whose end could help, first to end first: of the pool where it lacks room or addresses, and of
    the tenants below each that lacks quota.

    None for a group whose members share a host: whoever leaves it may take the group's host from the create.
    """
    refused = case.refused_by()
    if not refused or (case.request.group is not None and case.request.group_rule == "affinity"):
        return []
    pool = case.request.pool_id or ""
    levels = {line.tenant_id for line in (*case.quota, *case.limits.get(pool, ())) if line.missing and line.tenant_id}
    in_pool = bool(pool) and refused != ["quota_exceeded"]
    networks = [uuid.UUID(network) for needs in case.needs.values() for network in needs.networks]
    rows = prepared.run(
        _ENDS,
        {
            "pool": uuid.UUID(pool) if in_pool else None,
            "levels": sorted(levels),
            "networks": networks,
            "moving": sorted(states.MIGRATION_OPEN),
            "most": MOST,
        },
    )
    return [_end(row) for row in rows]


def _end(row: Sequence[Any]) -> LeaseEnd:
    return LeaseEnd(
        id=str(row[0]),
        name=row[1],
        tenant_id=str(row[2]),
        levels=frozenset(map(str, row[3])),
        pool_id=str(row[4]),
        host_id=str(row[5]),
        host=row[6],
        ends_at=row[7],
        size=Resources(*row[8:11]),
        room=Resources(*row[11:14]),
        shares=read_cells(json.loads(row[14]) or ()) if row[14] else (),
        group=str(row[15]) if row[15] else None,
        grant_id=row[16],
        addresses=row[17],
    )


def load_promised(case: Case, ends: Sequence[LeaseEnd], *, tenant_path: Sequence[uuid.UUID]) -> Promised | None:
    """Return the books of the reservations that these instances fill, where the create draws on one in its pool."""
    pool = case.request.pool_id or ""
    drawn = {end.grant_id for end in ends if end.grant_id is not None and end.pool_id == pool}
    if pool not in case.reservations or not drawn:
        return None
    above = {uuid.UUID(level) for end in ends if end.grant_id in drawn for level in end.levels}
    found = Grant.unscoped.filter(pool_id=uuid.UUID(pool), tenant_id__in=above | set(tenant_path))
    grants = {grant.id: grant for grant in found}
    own = [grant for grant in grants.values() if grant.tenant_id in tenant_path]
    uses = GrantUse.objects.filter(grant__in=drawn).values_list(
        "grant_id", "host_id", "vcpus", "memory_mib", "disk_gib"
    )
    return Promised(
        chain=tuple(grant.id for grant in sorted(own, key=lambda row: -tenant_path.index(row.tenant_id))),
        grants=grants,
        uses={(grant, str(host)): Resources(*amounts) for grant, host, *amounts in uses},
    )
