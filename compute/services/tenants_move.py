"""Moving a tenant that has guests and grants: `tenants.services.moves`, with what pools have promised to whom."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from django.db import transaction
from django.db.models import Sum

from compute.errors import InvalidState
from compute.models import Allocation, Grant, Instance, Pool
from compute.placement import limits
from compute.placement.limits import LIMITED
from tenants.errors import NotFound
from tenants.models import Tenant
from tenants.services import moves, tree
from tenants.services.access import Actor
from tenants.services.moves import Move


def plan_tenant_move(
    *, actor: Actor, tenant: Tenant, parent: Tenant | None, expected_version: int | None = None
) -> Move:
    """What `move_tenant_with_guests` would do; raises as it does, but for the shortages of quotas, which are listed."""
    move = moves.plan_move(actor=actor, tenant=tenant, parent=parent, expected_version=expected_version)
    _check_grants(move.tenant, move.parent)
    _, entering = _levels(move.tenant, move.parent)
    for pool, amounts in _used_by_pool(move.tenant.id):
        limits.check(pool=pool, amounts=amounts, levels=entering, actor=actor)
    return move


def move_tenant_with_guests(
    *, actor: Actor, tenant: Tenant, parent: Tenant | None, expected_version: int | None = None
) -> Move:
    """Give a tenant another parent, with all below it and all that runs there.

    A promise is carved out of the one above it, so none changes hands by a move: while a grant in the subtree hangs on
    one that is not above the new place, or would come to stand below another one there, the move is refused; so it is
    while guests fill the reservation of a tenant that they would leave behind. What the guests use leaves the limits of
    grants above the old place and enters those above the new one.
    Raises as `tenants.services.moves.move_tenant` does; InvalidState (state "grant"), QuotaExceeded with `pool`.
    """
    with transaction.atomic(durable=True):
        tree.hold_alone()
        old = Tenant.objects.filter(id=tenant.id).first()
        if old is None:
            raise NotFound
        move = moves.move_tenant(actor=actor, tenant=tenant, parent=parent, expected_version=expected_version)
        _check_grants(old, move.parent)
        leaving, entering = _levels(old, move.parent)
        for pool, amounts in _used_by_pool(old.id):
            limits.transfer(pool=pool, amounts=amounts, leaving=leaving, entering=entering, actor=actor)
        return move


def _levels(tenant: Tenant, parent: Tenant | None) -> tuple[list[uuid.UUID], list[uuid.UUID]]:
    """Return the tenants above the old place alone, and those above the new one alone. `tenant` as before the move."""
    above = [] if parent is None else parent.path
    return [level for level in tenant.path[:-1] if level not in above], [
        level for level in above if level not in tenant.path
    ]


def _check_grants(tenant: Tenant, parent: Tenant | None) -> None:
    """Raises InvalidState for a promise that would change hands. `tenant` as it was before the move."""
    above = [] if parent is None else parent.path
    inside = Grant.unscoped.filter(tenant__path__contains=[tenant.id])
    own = set(inside.values_list("id", flat=True))
    for grant in inside.select_related("pool", "tenant").order_by("tenant__path__len", "id"):
        if grant.parent_id in own:
            continue
        nearest = _nearest(grant.pool_id, above)
        if (None if nearest is None else nearest.id) != grant.parent_id:
            raise InvalidState(
                f"The grant of {grant.tenant.name} in the pool {grant.pool.name} hangs on what is above the old place; "
                "take it back first, and grant it anew at the new one.",
                state="grant",
                pool=grant.pool.name,
            )
    guests = Instance.unscoped.filter(tenant__path__contains=[tenant.id]).values("id")
    left_behind = (
        Allocation.objects.filter(consumer_type="instance", consumer_id__in=guests, grant__isnull=False)
        .exclude(grant__in=own)
        .exclude(grant__tenant__in=above)
    )
    count = left_behind.count()
    if count:
        raise InvalidState(
            f"{count} guests fill the reservation of a tenant above the old place; delete them, or take that grant back.",
            state="grant",
            guests=count,
        )


def _nearest(pool_id: uuid.UUID, path: Sequence[uuid.UUID]) -> Grant | None:
    rows = Grant.unscoped.filter(pool_id=pool_id, tenant_id__in=list(path))
    return max(rows, key=lambda row: path.index(row.tenant_id), default=None)


def _used_by_pool(tenant_id: uuid.UUID) -> list[tuple[Pool, dict[str, int]]]:
    """What the guests of a tenant and all below it use in each pool."""
    found = []
    for pool in Pool.objects.order_by("id"):
        guests = Instance.unscoped.filter(pool=pool, tenant__path__contains=[tenant_id]).values("id")
        sums = Allocation.objects.filter(consumer_type="instance", consumer_id__in=guests).aggregate(
            **{name: Sum(name, default=0) for name in LIMITED}
        )
        if any(sums.values()):
            found.append((pool, sums))
    return found
