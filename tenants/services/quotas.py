"""The quota ledger: taking, giving back, setting limits.

A charge goes up the tree in one statement: all rows are locked from leaf to root and, within a level, by resource name,
then each is raised only where it fits. It comes last in the caller's transaction, since all tenants of a tree share the
root's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db import connection, transaction

from tenants import prepared
from tenants.errors import InvalidInput, LedgerMismatch, QuotaExceeded
from tenants.models import RESOURCES, Quota, Tenant
from tenants.scope import ALL
from tenants.services import audit, tree
from tenants.services.access import Actor, authorize_from_above, visible_tenant_ids

# Well inside bigint even when summed over every tenant, and exact in JSON.
MAX_AMOUNT: Final = 2**53

# The path is read by the statement itself, after the lock on the tree: the `path` of a tenant in memory may be older
# than a move.
_UP_THE_TREE: Final = """
WITH wanted AS (
    SELECT level AS tenant_id, depth, a.resource, sum(a.n)::bigint AS n
    FROM unnest(%(tenants)s::uuid[], %(resources)s::text[], %(amounts)s::bigint[]) AS a(tenant_id, resource, n)
    JOIN tenants_tenant t ON t.id = a.tenant_id
    CROSS JOIN LATERAL unnest(t.path) WITH ORDINALITY AS p(level, depth)
    GROUP BY level, depth, a.resource
)
"""
_AT_LEVELS: Final = """
WITH wanted AS (
    SELECT level AS tenant_id, depth, a.resource, a.n
    FROM unnest(%(levels)s::uuid[], %(depths)s::bigint[]) AS p(level, depth)
    CROSS JOIN unnest(%(resources)s::text[], %(amounts)s::bigint[]) AS a(resource, n)
)
"""
# `locked` fixes the order of the locks. A row that another transaction changed while this one waited is read anew by
# UPDATE itself (READ COMMITTED), so the guard below always judges the newest committed `used`.
_LOCKED: Final = """
, locked AS (
    SELECT q.id, w.n
    FROM tenants_quota q JOIN wanted w ON w.tenant_id = q.tenant_id AND w.resource = q.resource
    ORDER BY w.depth DESC, q.tenant_id, q.resource
    FOR UPDATE OF q
)
"""
_CHARGE: Final = """
, moved AS (
    UPDATE tenants_quota q SET used = q.used + locked.n, updated_at = now()
    FROM locked
    WHERE q.id = locked.id AND (q."limit" IS NULL OR q.used + locked.n <= q."limit")
    RETURNING q.tenant_id, q.resource
)
"""
_RELEASE: Final = """
, moved AS (
    UPDATE tenants_quota q
    SET used = q.used - locked.n, ceiling = q."limit" + greatest(q.used - locked.n - q."limit", 0), updated_at = now()
    FROM locked
    WHERE q.id = locked.id AND q.used >= locked.n
    RETURNING q.tenant_id, q.resource
)
"""
# The row nearest to the leaf that did not move, if there is one.
_LEFT_BEHIND: Final = """
SELECT w.tenant_id, w.resource, w.n
FROM wanted w LEFT JOIN moved m ON m.tenant_id = w.tenant_id AND m.resource = w.resource
WHERE m.tenant_id IS NULL
ORDER BY w.depth DESC, w.tenant_id, w.resource
LIMIT 1
"""
_CHARGE_UP: Final = "".join((_UP_THE_TREE, _LOCKED, _CHARGE, _LEFT_BEHIND))
# The ceiling follows the limit, never below what is used: see Quota.
_SET_LIMIT: Final = """
UPDATE tenants_quota
SET "limit" = %(limit)s, updated_at = now(),
    ceiling = CASE WHEN %(limit)s::bigint IS NULL THEN NULL ELSE greatest(%(limit)s::bigint, used) END
WHERE tenant_id = %(tenant)s AND resource = %(resource)s
"""


@dataclass(frozen=True, slots=True)
class QuotaLine:
    """One row of a tenant's summary. `limit` None = no limit here. `available` is what every level up to the root
    leaves (None = no level limits it).
    """

    resource: str
    limit: int | None
    used: int
    available: int | None

    @property
    def over(self) -> int:
        """By how much the use is above the limit. What exists stays; nothing new is charged until it is below."""
        return 0 if self.limit is None else max(self.used - self.limit, 0)


def ensure_rows(*, tenant: Tenant) -> None:
    """Make the missing quota rows of a tenant, without limits: a charge only updates."""
    Quota.unscoped.bulk_create(
        [Quota(tenant=tenant, resource=resource) for resource in RESOURCES], ignore_conflicts=True
    )


def charge(*, tenant: Tenant, amounts: Mapping[str, int], actor: Actor | None = None) -> None:
    """Take amounts (resource -> how many of its unit) from the tenant and every tenant above it, all or nothing.

    Call it last in the transaction that makes the thing charged for; zero amounts are left out.
    Raises QuotaExceeded for the level nearest the leaf that lacks room, after which nothing is charged and no row stays
    locked. With `actor`, figures of a parent tenant that the actor cannot see are kept out of the error.
    """
    charge_many(items=[(tenant, amounts)], actor=actor)


def charge_last(*, tenant: Tenant, amounts: Mapping[str, int], actor: Actor | None = None) -> Callable[[], None]:
    """`charge` for a transaction that holds the tree already and ends if this fails: one statement, no savepoint.

    What is returned has to be called: it raises QuotaExceeded. So the answer can be awaited together with others.
    """
    rows = _rows([(tenant, amounts)])
    left_behind = prepared.ask(_CHARGE_UP, rows) if rows else list
    return lambda: _judge(left_behind(), charging=True, actor=actor)


def charge_many(*, items: Iterable[tuple[Tenant, Mapping[str, int]]], actor: Actor | None = None) -> None:
    """Several charges as one, in one order of locks; two calls of `charge` for different tenants could deadlock."""
    _move(_CHARGE, items=items, charging=True, actor=actor)


def release(*, tenant: Tenant, amounts: Mapping[str, int]) -> None:
    """Give amounts back, at every level. Raises LedgerMismatch where more would be given back than was taken."""
    release_many(items=[(tenant, amounts)])


def release_many(*, items: Iterable[tuple[Tenant, Mapping[str, int]]]) -> None:
    """Several releases as one, in one order of locks."""
    _move(_RELEASE, items=items, charging=False, actor=None)


def transfer(*, amounts: Mapping[str, int], leaving: Sequence[UUID], entering: Sequence[UUID], actor: Actor) -> None:
    """Take amounts off some levels of the tree and put them on others: what a moved tenant brings along.

    `leaving` and `entering` are lines of ancestors from the top down that share no level. The caller holds the tree
    alone. Raises QuotaExceeded, LedgerMismatch.
    """
    for sql, levels, charging in ((_RELEASE, leaving, False), (_CHARGE, entering, True)):
        _run(
            _AT_LEVELS,
            sql,
            charging=charging,
            actor=actor,
            levels=[str(level) for level in levels],
            depths=list(range(len(levels))),
            resources=list(amounts),
            amounts=list(amounts.values()),
        )


def _move(sql: str, *, items: Iterable[tuple[Tenant, Mapping[str, int]]], charging: bool, actor: Actor | None) -> None:
    rows = _rows(items)
    if rows:
        _run(_UP_THE_TREE, sql, charging=charging, actor=actor, **rows)


def _rows(items: Iterable[tuple[Tenant, Mapping[str, int]]]) -> dict[str, list[Any]]:
    """Return what is to move as the parameters of _UP_THE_TREE; {} for nothing."""
    rows = [
        (str(tenant.id), resource, amount)
        for tenant, amounts in items
        for resource, amount in amounts.items()
        if _check_amount(resource, amount)
    ]
    if not connection.in_atomic_block:
        # Alone it would commit by itself, and a crash before the caller's own commit would leave the ledger wrong.
        raise transaction.TransactionManagementError("quota moves only inside the transaction of what it pays for")
    if not rows:
        return {}
    tenants, resources, amounts = (list(column) for column in zip(*rows, strict=True))
    return {"tenants": tenants, "resources": resources, "amounts": amounts}


def _run(wanted: str, sql: str, *, charging: bool, actor: Actor | None, **parameters: Any) -> None:
    # The savepoint undoes the levels that fitted when one did not, and frees their locks, if the caller goes on.
    with transaction.atomic(), connection.cursor() as cursor:
        # Two statements in one round trip: the second one's snapshot is taken when the tree is held.
        cursor.execute(tree.HOLD_SQL + wanted + _LOCKED + sql + _LEFT_BEHIND, parameters)
        cursor.nextset()
        _judge(cursor.fetchall(), charging=charging, actor=actor)


def _judge(left_behind: list[tuple[Any, ...]], *, charging: bool, actor: Actor | None) -> None:
    if left_behind:
        tenant_id, resource, asked = left_behind[0]
        raise _refusal(tenant_id=tenant_id, resource=resource, asked=asked, charging=charging, actor=actor)


def _check_amount(resource: str, amount: int) -> bool:
    """Whether there is anything to move. Raises ValueError for what is no amount."""
    if resource not in RESOURCES:
        raise ValueError(f"no such resource: {resource}")
    if not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"{resource}: {amount} is no amount")
    return amount > 0


def exceeded(
    *, tenant_id: UUID | None, name: str | None, resource: str, limit: int | None, used: int | None, asked: int
) -> QuotaExceeded:
    """The error for one level without room; `tenant_id`, and the figures with it, None where it must not be told."""
    if tenant_id is None:
        sentence = f"A tenant above yours has no room for {asked} more {resource}."
        name = limit = used = None
    else:
        sentence = f"Tenant {name} may use {limit} {resource}, uses {used}, and {asked} more were asked for."
    tenant = {"id": None if tenant_id is None else str(tenant_id), "name": name}
    return QuotaExceeded(sentence, tenant=tenant, resource=resource, limit=limit, used=used, asked=asked)


def _refusal(*, tenant_id: UUID, resource: str, asked: int, charging: bool, actor: Actor | None) -> Exception:
    """Why a row did not move. Read while it is still locked, so the figures are those that decided."""
    row = Quota.unscoped.select_related("tenant").filter(tenant_id=tenant_id, resource=resource).first()
    if row is None:
        return LedgerMismatch(f"There is no {resource} row for tenant {tenant_id}.")
    if not charging:
        return LedgerMismatch(f"{asked} {resource} cannot be released: only {row.used} are in use.")
    visible = ALL if actor is None else visible_tenant_ids(actor)
    return exceeded(
        tenant_id=tenant_id if visible is ALL or tenant_id in visible else None,
        name=row.tenant.name,
        resource=resource,
        limit=row.limit,
        used=row.used,
        asked=asked,
    )


def set_limit(*, actor: Actor, tenant: Tenant, resource: str, limit: int | None) -> None:
    """Set a tenant's limit (None: none here). It may be below the use: nothing new is charged then, what is stays.

    Limits are set from above: by those who hold quota.update in the parent, a root's by cloud operators.
    Raises InvalidInput, PermissionDenied, NotFound.
    """
    set_limits(actor=actor, tenant=tenant, limits={resource: limit})


def set_limits(*, actor: Actor, tenant: Tenant, limits: Mapping[str, int | None]) -> None:
    """Several limits at once, all or nothing; see `set_limit`."""
    authorize_from_above(actor, "quota.update", tenant)
    apply_limits(actor=actor, tenant=tenant, limits=limits)


def apply_limits(*, actor: Actor, tenant: Tenant, limits: Mapping[str, int | None]) -> None:
    """`set_limits` for callers that know already that the actor may (a tenant's first limits)."""
    errors = [
        {"pointer": f"/{resource}", "code": code, "detail": detail}
        for resource, limit in limits.items()
        for code, detail in _limit_faults(resource, limit)
    ]
    if errors:
        raise InvalidInput(errors=errors)
    with transaction.atomic():
        rows = Quota.unscoped.filter(tenant=tenant, resource__in=list(limits)).order_by("resource").select_for_update()
        before = {row.resource: row.limit for row in rows}
        changed = {name: limits[name] for name in sorted(limits) if before.get(name, -1) != limits[name]}
        with connection.cursor() as cursor:
            for resource, limit in changed.items():
                cursor.execute(_SET_LIMIT, {"tenant": tenant.id, "resource": resource, "limit": limit})
                if cursor.rowcount != 1:
                    raise LedgerMismatch(f"There is no {resource} row for tenant {tenant.id}.")
        if changed:
            audit.record(
                actor=actor,
                action="quota.update",
                tenant=tenant,
                target=tenant,
                before={name: before[name] for name in changed},
                after=dict(changed),
            )


def _limit_faults(resource: str, limit: Any) -> list[tuple[str, str]]:
    if resource not in RESOURCES:
        return [("unknown", f"There is no resource {resource}.")]
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= MAX_AMOUNT):
        return [("out_of_range", f"A limit is a whole number from 0 to {MAX_AMOUNT}, or null for none.")]
    return []


def summary(tenant: Tenant) -> list[QuotaLine]:
    """Every resource of a tenant by name, with what the tenants above still leave it. One query."""
    lines: dict[str, QuotaLine] = {}
    rows = Quota.unscoped.filter(tenant_id__in=tenant.path)
    by_resource: dict[str, list[Quota]] = {}
    for row in rows:
        by_resource.setdefault(row.resource, []).append(row)
    for resource in sorted(by_resource):
        levels = by_resource[resource]
        own = next(row for row in levels if row.tenant_id == tenant.id)
        rooms = [max(row.limit - row.used, 0) for row in levels if row.limit is not None]
        lines[resource] = QuotaLine(
            resource=resource, limit=own.limit, used=own.used, available=min(rooms, default=None)
        )
    return list(lines.values())
