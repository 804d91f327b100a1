"""Reads of promises: who is promised what, how much of it is in use, and what stands in the way of keeping it."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet

from compute.models import Alarm, Grant, Pool
from compute.placement.promises import Verdict, verdicts
from tenants.errors import NotFound
from tenants.scope import ALL
from tenants.services.access import Actor, authorize, visible_tenant_ids


def list_grants(*, actor: Actor, tenant_id: uuid.UUID | None = None, pool: Pool | None = None) -> QuerySet[Grant]:
    """Return the grants that the actor may see, with tenant, pool and limits: two queries however many."""
    rows = Grant.unscoped.select_related("tenant", "pool").prefetch_related("limits")
    visible = visible_tenant_ids(actor, "grant.read")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    if tenant_id is not None:
        rows = rows.filter(tenant_id=tenant_id)
    return rows if pool is None else rows.filter(pool=pool)


def get_grant(*, actor: Actor, grant_id: uuid.UUID) -> Grant:
    """Return one grant. Raises NotFound, also for a foreign one."""
    grant = list_grants(actor=actor).filter(id=grant_id).first()
    if grant is None:
        raise NotFound
    return grant


def list_promises(*, actor: Actor) -> list[tuple[Pool, Verdict]]:
    """Return how each pool's promises stand, by unit; for operators. Two queries for each pool that has grants."""
    authorize(actor, "pool.update", None)
    pools = Pool.objects.filter(grants__isnull=False).distinct().order_by("name")
    return [(pool, verdict) for pool in pools for verdict in verdicts(pool_id=pool.id)]


def list_alarms(*, actor: Actor, open_only: bool = True) -> QuerySet[Alarm]:
    """Return what stands wrong, for operators; with `open_only` False also what is over. Raises PermissionDenied."""
    authorize(actor, "alarm.read", None)
    rows = Alarm.objects.select_related("pool")
    return rows.filter(cleared_at=None) if open_only else rows
