"""What tenants weigh on a host, and what CPU they got there against what they are entitled to."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db.models import Sum
from django.db.models.functions import Now

from compute.models import Grant, Host, HostShare, Instance, Pool
from compute.scheduler.entitlement import Claimant, entitlements
from compute.states import INSTANCE_HOLDS_ROOM
from compute.wire import NORMAL_SHARES, TenantShares
from tenants.models import Tenant
from tenants.services.access import Actor, authorize

KNOWN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Share:
    """A tenant, with all below it, on one host. Rates in vCPU, smoothed over half a minute.

    `shares` is what the tenant is given against its siblings, `applied` what the host's kernel holds. `wanted` is what ran
    and what was ready to run, at most the vCPUs of its guests; `entitled` is its part of all that was delivered (see
    `scheduler.entitlement`).
    """

    tenant: Tenant
    shares: int
    applied: int
    delivered: float
    wanted: float
    entitled: float


@dataclass(frozen=True, slots=True)
class PoolShare:
    """A tenant, with all below it, in one pool: sums over the hosts where it runs. As `Share`."""

    pool: Pool
    shares: int
    delivered: float
    wanted: float
    entitled: float


def tenants_on(host: Host) -> set[uuid.UUID]:
    """Return the tenants with guests on a host, and all above them."""
    guests = Instance.unscoped.filter(host=host, state__in=INSTANCE_HOLDS_ROOM)
    paths = Tenant.objects.filter(id__in=guests.values("tenant_id")).values_list("path", flat=True).order_by()
    return {tenant for path in paths for tenant in path}


def shares_of_host(*, host: Host, tenants: Iterable[uuid.UUID]) -> tuple[TenantShares, ...]:
    """Return what tenants weigh against each other on a host: as their grants in its pool say, NORMAL_SHARES without one."""
    given = {
        tenant: (cpu, io)
        for tenant, cpu, io in Grant.unscoped.filter(pool_id=host.pool_id, tenant__in=tenants).values_list(
            "tenant_id", "shares_vcpus", "shares_disk_gib"
        )
    }
    normal = (NORMAL_SHARES, NORMAL_SHARES)
    return tuple(TenantShares(str(tenant), *given.get(tenant, normal)) for tenant in sorted(tenants))


def read_host_shares(*, actor: Actor, host: Host) -> list[Share]:
    """Return the tenants of a host, those above before those below. For operators. Raises PermissionDenied."""
    authorize(actor, "host.read", None)
    return sorted((share for _, share in _shares(hosts=[host.id])), key=lambda share: list(map(str, share.tenant.path)))


def read_tenant_shares(*, actor: Actor, tenant: Tenant) -> list[PoolShare]:
    """Return what a tenant got and is entitled to in each pool where its guests run, over all hosts, by the pools' names.

    Raises PermissionDenied, NotFound.
    """
    authorize(actor, "usage.read", tenant)
    hosts = list(HostShare.unscoped.filter(tenant=tenant).values_list("host_id", flat=True))
    pools: dict[Pool, list[Share]] = {}
    for pool, share in _shares(hosts=hosts):
        if share.tenant == tenant:
            pools.setdefault(pool, []).append(share)
    return [_in_pool(pool, pools[pool]) for pool in sorted(pools, key=lambda pool: pool.name)]


def _shares(*, hosts: Sequence[uuid.UUID]) -> list[tuple[Pool, Share]]:
    """Return all tenants of some hosts, in three statements. What a host told long ago is not known now."""
    fresh = HostShare.unscoped.filter(host__in=hosts, observed_at__gte=Now() - timedelta(seconds=KNOWN_SECONDS))
    rows: dict[uuid.UUID, list[HostShare]] = {}
    for row in fresh.select_related("tenant", "host__pool").order_by("host_id", "tenant_id"):
        rows.setdefault(row.host_id, []).append(row)
    grants = Grant.unscoped.filter(
        pool__in={found[0].host.pool_id for found in rows.values()},
        tenant__in={row.tenant_id for found in rows.values() for row in found},
    )
    given = {(row.pool_id, row.tenant_id): row.shares_vcpus for row in grants}
    guests = Instance.unscoped.filter(host__in=hosts, state__in=INSTANCE_HOLDS_ROOM)
    sums = guests.values_list("host_id", "tenant_id").annotate(vcpus=Sum("vcpus")).order_by()
    vcpus = {(host, tenant): count for host, tenant, count in sums}
    return [
        (found[0].host.pool, share)
        for found in rows.values()
        for share in _on_one_host(found, vcpus=vcpus, given=given)
    ]


def _on_one_host(
    rows: Sequence[HostShare],
    *,
    vcpus: Mapping[tuple[uuid.UUID | None, uuid.UUID], int],
    given: Mapping[tuple[uuid.UUID, uuid.UUID], int],
) -> list[Share]:
    most: dict[uuid.UUID, int] = {}  # of a tenant and all below it
    for row in rows:
        for above in row.tenant.path:
            most[above] = most.get(above, 0) + vcpus.get((row.host_id, row.tenant_id), 0)
    claimants = [
        Claimant(
            id=row.tenant_id,
            parent=row.tenant.parent_id,
            shares=given.get((row.host.pool_id, row.tenant_id), NORMAL_SHARES),
            delivered=row.delivered,
            # A guest that its own limit holds back waits too, for something that no share can give it.
            wanted=max(row.delivered, min(row.delivered + row.waited, most[row.tenant_id])),
        )
        for row in rows
    ]
    entitled = entitlements(claimants, own_shares=NORMAL_SHARES)
    return [
        Share(row.tenant, claimant.shares, row.applied, row.delivered, claimant.wanted, entitled[row.tenant_id])
        for row, claimant in zip(rows, claimants, strict=True)
    ]


def _in_pool(pool: Pool, shares: Sequence[Share]) -> PoolShare:
    return PoolShare(
        pool=pool,
        shares=shares[0].shares,
        delivered=sum(share.delivered for share in shares),
        wanted=sum(share.wanted for share in shares),
        entitled=sum(share.entitled for share in shares),
    )
