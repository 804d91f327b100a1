"""The usage ledger's writers: hold, commit, release, each in the transaction of the act that it records.

`hold` when room is claimed, `commit` when what was asked for runs (from then on it is billed), `release` when the room is
given back. All three are one statement each, and compare-and-set: a second commit or release changes nothing.

Times are the transaction's, on the database's clock, cut to the second. A transaction that began early and waited for a
lock may carry an older time than the one it waited for; `greatest` keeps a segment's ends in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from tenants import prepared
from tenants.models import Tenant
from tenants.models.ids import new_id
from tenants.services import tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a segment is of. Sizes in the units of their names."""

    consumer_type: str
    kind: str
    flavor_id: UUID
    flavor_name: str
    pool_id: UUID
    pool_name: str
    vcpus: int
    memory_mib: int
    disk_gib: int


_HOLD: Final = """
INSERT INTO tenants_usagesegment (id, tenant_id, payers, consumer_type, consumer_id, consumer_name, kind, flavor_id,
                                  flavor_name, pool_id, pool_name, vcpus, memory_mib, disk_gib, held_from)
SELECT c.segment_id, t.id, t.path, %(consumer_type)s, c.consumer_id, c.consumer_name, %(kind)s, %(flavor_id)s,
       %(flavor_name)s, %(pool_id)s, %(pool_name)s, %(vcpus)s, %(memory_mib)s, %(disk_gib)s, date_trunc('second', now())
FROM tenants_tenant t,
     unnest(%(segments)s::uuid[], %(consumers)s::uuid[], %(names)s::text[]) AS c(segment_id, consumer_id, consumer_name)
WHERE t.id = %(tenant)s
"""
_COMMIT: Final = """
UPDATE tenants_usagesegment SET billed_from = greatest(date_trunc('second', now()), held_from)
WHERE consumer_id = %(consumer)s AND ended_at IS NULL AND billed_from IS NULL
"""
_RELEASE: Final = """
UPDATE tenants_usagesegment SET ended_at = greatest(date_trunc('second', now()), billed_from, held_from)
WHERE consumer_id = %(consumer)s AND ended_at IS NULL
"""
# What is billed stays billed: the new segment begins where the old one ends, to the second.
_MOVE: Final = """
WITH ended AS (
    UPDATE tenants_usagesegment s SET ended_at = greatest(date_trunc('second', now()), s.billed_from, s.held_from)
    FROM tenants_tenant t
    WHERE t.id = s.tenant_id AND s.tenant_id = ANY(%(tenants)s) AND s.ended_at IS NULL AND s.payers <> t.path
    RETURNING s.*, t.path
)
INSERT INTO tenants_usagesegment (id, tenant_id, payers, consumer_type, consumer_id, consumer_name, kind, flavor_id,
                                  flavor_name, pool_id, pool_name, vcpus, memory_mib, disk_gib, held_from, billed_from)
SELECT gen_random_uuid(), tenant_id, path, consumer_type, consumer_id, consumer_name, kind, flavor_id, flavor_name,
       pool_id, pool_name, vcpus, memory_mib, disk_gib, ended_at, CASE WHEN billed_from IS NOT NULL THEN ended_at END
FROM ended
"""
_RESIZE: Final = """
WITH ended AS (
    UPDATE tenants_usagesegment SET ended_at = greatest(date_trunc('second', now()), billed_from, held_from)
    WHERE consumer_id = %(consumer)s AND ended_at IS NULL
    RETURNING *
)
INSERT INTO tenants_usagesegment (id, tenant_id, payers, consumer_type, consumer_id, consumer_name, kind, flavor_id,
                                  flavor_name, pool_id, pool_name, vcpus, memory_mib, disk_gib, held_from, billed_from)
SELECT gen_random_uuid(), tenant_id, payers, consumer_type, consumer_id, consumer_name, kind, %(flavor_id)s,
       %(flavor_name)s, pool_id, pool_name, %(vcpus)s, %(memory_mib)s, %(disk_gib)s, ended_at,
       CASE WHEN billed_from IS NOT NULL THEN ended_at END
FROM ended
"""


def hold(*, tenant: Tenant, usage: Usage, consumers: Sequence[tuple[UUID, str]]) -> None:
    """Open a segment for each consumer (id, name), not billed yet. One statement for all. The caller holds the tree.

    Raises IntegrityError for a consumer that has an open segment.
    """
    _in_transaction()
    prepared.send(
        _HOLD,
        {
            "tenant": tenant.id,
            "consumer_type": usage.consumer_type,
            "kind": usage.kind,
            "flavor_id": usage.flavor_id,
            "flavor_name": usage.flavor_name,
            "pool_id": usage.pool_id,
            "pool_name": usage.pool_name,
            "vcpus": usage.vcpus,
            "memory_mib": usage.memory_mib,
            "disk_gib": usage.disk_gib,
            "segments": [new_id() for _ in consumers],
            "consumers": [consumer_id for consumer_id, _ in consumers],
            "names": [name for _, name in consumers],
        },
    )


def commit(*, consumer_id: UUID) -> bool:
    """Begin to bill the consumer's hold. Return False when there is none, or it is billed already."""
    return _run(_COMMIT, {"consumer": consumer_id}) == 1


def resize(*, consumer_id: UUID, flavor_id: UUID, flavor_name: str, vcpus: int, memory_mib: int, disk_gib: int) -> bool:
    """End the consumer's open segment and open one of this size at the same second. Return False when none is open."""
    size = {"vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib}
    return _run(_RESIZE, {"consumer": consumer_id, "flavor_id": flavor_id, "flavor_name": flavor_name, **size}) == 1


def release(*, consumer_id: UUID) -> bool:
    """End the consumer's open segment. Return False when there is none: it is ended exactly once."""
    return _run(_RELEASE, {"consumer": consumer_id}) == 1


def follow_move(*, tenant_ids: Sequence[UUID]) -> int:
    """Have those who are above these tenants now pay from now on; call it once their paths are written.

    Ends each open segment whose payers are no longer the tenant's path and opens the next at the same second. Return
    how many. What is past stays with those who were above then.
    """
    return _run(_MOVE, {"tenants": list(tenant_ids)})


def _run(sql: str, parameters: dict[str, Any]) -> int:
    _in_transaction()
    with connection.cursor() as cursor:
        # In one round trip. Payers are read, and segments changed, while no tenant moves: see `tree` for the order.
        cursor.execute(tree.HOLD_SQL + sql, parameters)
        cursor.nextset()
        changed: int = cursor.rowcount
        return changed


def _in_transaction() -> None:
    if not connection.in_atomic_block:
        # Alone it would commit by itself: usage without the act, or the act without its usage.
        raise transaction.TransactionManagementError("usage is recorded only inside the transaction of the act")
