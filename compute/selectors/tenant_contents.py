"""What a tenant and all below it hold, for whoever is about to delete it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet

from compute.models import Grant, Group, Instance, Keypair, Port
from tenants.models import ApiToken, Membership, Tenant
from tenants.selectors import tenant_paths

LISTED: Final = 200


@dataclass(frozen=True, slots=True)
class Contents:
    """`counts` by kind of thing; `tenants` among them includes the tenant itself.

    The lists hold LISTED rows at most. `instances`: {id, name, tenant}, in the order of their deletion, the deepest
    tenant's first; `tenants`: paths of names, bottom up; `grants`: {tenant, pool, unit, units}, which is what is reserved.
    `fingerprint`: changes as soon as an instance, key, group, grant or tenant comes or goes, or a grant's units change.
    """

    counts: dict[str, int]
    instances: list[dict[str, str]]
    tenants: list[str]
    grants: list[dict[str, Any]]
    fingerprint: str


def living_below(tenant_id: UUID) -> QuerySet[Tenant]:
    """The tenant and all below it that are not deleted, the deepest first."""
    rows = Tenant.objects.filter(path__contains=[tenant_id]).exclude(state=Tenant.State.DELETED)
    return rows.order_by("-path__len", "id")


def guests_below(tenant_id: UUID) -> QuerySet[Instance]:
    """Their instances that are not deleted, in the order of deletion. One that has failed holds nothing, and is among them."""
    rows: QuerySet[Instance] = Instance.unscoped.filter(tenant__in=living_below(tenant_id)).exclude(state="deleted")
    return rows.order_by("-tenant__path__len", "tenant_id", "created_at", "id")


def contents_of(tenant: Tenant) -> Contents:
    """Look, without locks. The caller has authorized the question."""
    subtree = living_below(tenant.id)
    guests = guests_below(tenant.id)
    keypairs = Keypair.unscoped.filter(tenant__in=subtree)
    groups = Group.unscoped.filter(tenant__in=subtree)
    grants = Grant.unscoped.filter(tenant__in=subtree).order_by("-tenant__path__len", "id")
    bottom_up = list(subtree[:LISTED])
    listed = list(guests.select_related("tenant")[:LISTED])
    promised = list(grants.select_related("tenant", "pool")[:LISTED])
    paths = tenant_paths([*bottom_up, *(row.tenant for row in [*listed, *promised])])
    seen = hashlib.sha256()
    for rows in (subtree, guests, keypairs, groups):
        seen.update(repr(sorted(rows.values_list("id", flat=True))).encode())
    seen.update(repr(sorted(grants.values_list("id", "units"))).encode())
    return Contents(
        counts={
            "instances": guests.count(),
            "addresses": Port.unscoped.filter(instance__in=guests.values("id").order_by()).count(),
            "keypairs": keypairs.count(),
            "groups": groups.count(),
            "grants": grants.count(),
            "tenants": subtree.count(),
            "members": Membership.unscoped.filter(tenant__in=subtree).count(),
            "tokens": ApiToken.unscoped.filter(tenant__in=subtree, revoked_at=None).count(),
        },
        instances=[{"id": str(row.id), "name": row.name, "tenant": paths[row.tenant_id]} for row in listed],
        tenants=[paths[row.id] for row in bottom_up],
        grants=[
            {"tenant": paths[row.tenant_id], "pool": row.pool.name, "unit": row.unit_name, "units": row.units}
            for row in promised
        ],
        fingerprint=seen.hexdigest()[:32],
    )
