"""The limits of grants: the most that a tenant and all below it may use in one pool, whether promised or not.

Moved after the quota rows of the same tenants, in the transaction of what is paid for. This order is what lets a grant
be made while guests are created: `services.grants` locks the tenant's quota rows before it sums up what exists, so a
create that charged its quota earlier is in the sum, and a later one finds the new limit here. The caller holds the tree,
and read the tenant after that: its path is the one in memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from django.db import transaction

from compute.models import GrantLimit, Pool
from tenants import prepared
from tenants.errors import LedgerMismatch, QuotaExceeded
from tenants.models import Tenant
from tenants.scope import ALL
from tenants.services.access import Actor, visible_tenant_ids
from tenants.services.quota_forecast import QuotaEffect

LIMITED: Final = ("disk_gib", "memory_mib", "vcpus")

# Locked from leaf to root, then by resource; a row that changed while this one waited is judged as it is now.
_LOCKED: Final = """
WITH wanted AS (SELECT * FROM unnest(%(resources)s::text[], %(amounts)s::bigint[]) AS w(resource, n)),
locked AS (
    SELECT l.id, w.n FROM compute_grantlimit l
    JOIN compute_grant g ON g.id = l.grant_id JOIN wanted w ON w.resource = l.resource
    WHERE g.pool_id = %(pool)s AND g.tenant_id = ANY(%(levels)s::uuid[])
    ORDER BY array_position(%(levels)s::uuid[], g.tenant_id) DESC, l.resource
    FOR UPDATE OF l
)
"""
# A charge moves `used` alone: past the limit it would break the row's CHECK, whatever is written here.
_CHARGED: Final = """
, moved AS (
    UPDATE compute_grantlimit l SET used = l.used + locked.n FROM locked
    WHERE l.id = locked.id AND (l."limit" IS NULL OR l.used + locked.n <= l."limit") RETURNING l.id
)
"""
_RELEASED: Final = """
, moved AS (
    UPDATE compute_grantlimit l
    SET used = l.used - locked.n, ceiling = l."limit" + greatest(l.used - locked.n - l."limit", 0) FROM locked
    WHERE l.id = locked.id AND l.used >= locked.n RETURNING l.id
)
"""
_NOT_MOVED: Final = "SELECT id FROM locked WHERE id NOT IN (SELECT id FROM moved)"
_CHARGE: Final = "".join((_LOCKED, _CHARGED, _NOT_MOVED))
_RELEASE: Final = "".join((_LOCKED, _RELEASED, _NOT_MOVED))


def transfer(
    *,
    pool: Pool,
    amounts: Mapping[str, int],
    leaving: Sequence[uuid.UUID],
    entering: Sequence[uuid.UUID],
    actor: Actor,
) -> None:
    """Take amounts off the limits at some levels and put them on those at others, each line given from the top down.

    Raises QuotaExceeded, LedgerMismatch; see `tenants.services.quotas.transfer`.
    """
    if _move(_RELEASE, levels=leaving, pool_id=pool.id, amounts=amounts):
        raise LedgerMismatch(f"More would be released in pool {pool.id} than is in use.")
    with transaction.atomic():
        refused = _move(_CHARGE, levels=entering, pool_id=pool.id, amounts=amounts)
        if refused:
            raise _exceeded(refused, levels=entering, pool=pool, amounts=amounts, actor=actor)


def check(*, pool: Pool, amounts: Mapping[str, int], levels: Sequence[uuid.UUID], actor: Actor) -> None:
    """Raise QuotaExceeded where `transfer` to these levels would, as things stand; nothing is locked or changed."""
    asked = [resource for resource in LIMITED if amounts[resource]]
    rows = GrantLimit.objects.filter(grant__pool=pool, grant__tenant_id__in=list(levels), resource__in=asked)
    refused = [row.id for row in rows if row.limit is not None and row.used + amounts[row.resource] > row.limit]
    if refused:
        raise _exceeded(refused, levels=levels, pool=pool, amounts=amounts, actor=actor)


def charge_last(
    *, tenant: Tenant, pool: Pool, amounts: Mapping[str, int], actor: Actor | None = None
) -> Callable[[], None]:
    """Take amounts (`vcpus`, `memory_mib` in MiB, `disk_gib` in GiB) from every limit on the tenant's path in the pool.

    What is returned has to be called, see `tenants.services.quotas.charge_last`: it raises QuotaExceeded for the level
    nearest the leaf that lacks room, and the caller's transaction ends with it; with `actor`, figures of a parent that
    the actor cannot see are kept out of it.
    """
    left_behind = _ask(_CHARGE, levels=tenant.path, pool_id=pool.id, amounts=amounts)

    def judge() -> None:
        refused = [row[0] for row in left_behind()]
        if refused:
            raise _exceeded(refused, levels=tenant.path, pool=pool, amounts=amounts, actor=actor)

    return judge


def release(*, tenant: Tenant, pool_id: uuid.UUID, amounts: Mapping[str, int]) -> None:
    """Give amounts back. Raises LedgerMismatch where more would be given back than was taken."""
    if _move(_RELEASE, levels=tenant.path, pool_id=pool_id, amounts=amounts):
        raise LedgerMismatch(f"More would be released in pool {pool_id} than tenant {tenant.id} has in use.")


def forecast(*, tenant: Tenant, amounts: Mapping[str, int]) -> dict[str, list[QuotaEffect]]:
    """Return pool id -> what `charge` would do there, from the tenant up; pools without limits are left out. One query."""
    rows = GrantLimit.objects.filter(grant__tenant_id__in=tenant.path, resource__in=LIMITED)
    found: dict[str, list[QuotaEffect]] = {}
    for row in sorted(
        rows.select_related("grant__tenant"),
        key=lambda row: (-tenant.path.index(row.grant.tenant_id), row.resource),
    ):
        line = QuotaEffect(
            row.grant.tenant_id, row.grant.tenant.name, row.resource, row.limit, row.used, amounts[row.resource]
        )
        found.setdefault(str(row.grant.pool_id), []).append(line)
    return found


def _move(sql: str, *, levels: Sequence[uuid.UUID], pool_id: uuid.UUID, amounts: Mapping[str, int]) -> list[uuid.UUID]:
    return [row[0] for row in _ask(sql, levels=levels, pool_id=pool_id, amounts=amounts)()]


def _ask(
    sql: str, *, levels: Sequence[uuid.UUID], pool_id: uuid.UUID, amounts: Mapping[str, int]
) -> Callable[[], prepared.Rows]:
    # What takes nothing of a resource passes no limit of it, not even one that was lowered below the use.
    moved = [resource for resource in LIMITED if amounts[resource]]
    if not moved:
        return list
    return prepared.ask(
        sql,
        {
            "resources": moved,
            "amounts": [amounts[resource] for resource in moved],
            "pool": pool_id,
            "levels": list(levels),
        },
    )


def _exceeded(
    refused: list[uuid.UUID],
    *,
    levels: Sequence[uuid.UUID],
    pool: Pool,
    amounts: Mapping[str, int],
    actor: Actor | None,
) -> QuotaExceeded:
    rows = GrantLimit.objects.filter(id__in=refused).select_related("grant__tenant")
    row = max(rows, key=lambda limit: (levels.index(limit.grant.tenant_id), limit.resource))
    asked = amounts[row.resource]
    if actor is not None:
        visible = visible_tenant_ids(actor)
        if visible is not ALL and row.grant.tenant_id not in visible:
            return QuotaExceeded(
                f"A tenant above yours has no room for {asked} more {row.resource} in the pool {pool.name}.",
                tenant={"id": None, "name": None},
                pool=pool.name,
                resource=row.resource,
                limit=None,
                used=None,
                asked=asked,
            )
    name = row.grant.tenant.name
    return QuotaExceeded(
        f"Tenant {name} may use {row.limit} {row.resource} in the pool {pool.name}, uses {row.used}, "
        f"and {asked} more were asked for.",
        tenant={"id": str(row.grant.tenant_id), "name": name},
        pool=pool.name,
        resource=row.resource,
        limit=row.limit,
        used=row.used,
        asked=asked,
    )
