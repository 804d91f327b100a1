"""How full a pool is, what still fits, and how long it lasts: for operators. A handful of queries, however many hosts."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import connection
from django.db.models import Q, Sum

from compute import outbox
from compute.models import Alarm, Flavor, Host, Pool
from compute.placement.kept import KEPT
from compute.placement.promises import Verdict, verdicts
from compute.scheduler.headroom import (
    FullHost,
    Headroom,
    StateCount,
    capacity_in_service,
    count_states,
    free_room,
    fullest,
    headroom,
    largest,
    stranded,
)
from compute.scheduler.model import RESOURCES, Resource, Resources
from compute.scheduler.snapshot import Snapshot
from compute.scheduler.trend import MOST_DAYS, Trend, trend
from compute.selectors.pools import IN_SERVICE
from compute.wire import Kind
from tenants.models import Tenant
from tenants.services.access import Actor, authorize

KINDS: Final[tuple[Kind, ...]] = ("vm", "container")
FULLEST_SHOWN: Final = 10
TENANTS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Amount:
    """One resource of the hosts in service: vCPU, MiB or GiB.

    `total`: what the machines have; `reserved`: kept for the machines themselves; `capacity`: the rest times the ratio. Of
    it are `used` by instances, `held` for promises and not in use, and `free` for anybody. `stranded`: free on hosts that
    take none of the flavors any more. `away`: used on hosts that are out of service.
    """

    total: int
    reserved: int
    ratio: float
    capacity: int
    used: int
    held: int
    free: int
    stranded: int
    away: int
    trend: Trend | None


@dataclass(frozen=True, slots=True)
class FlavorFit:
    """How many more of a flavor fit now as either kind, each flavor by itself."""

    flavor: Flavor
    vm: Headroom
    container: Headroom


@dataclass(frozen=True, slots=True)
class TopTenant:
    """What a top tenant and all below it hold in the pool now."""

    id: uuid.UUID
    name: str
    instances: int
    vcpus: int
    memory_mib: int
    disk_gib: int


@dataclass(frozen=True, slots=True)
class PoolCapacity:
    """`largest`: kind -> name of the largest flavor that fits, None where none does."""

    pool: Pool
    at: datetime
    hosts: int
    amounts: Mapping[Resource, Amount]
    fits: tuple[FlavorFit, ...]
    largest: Mapping[Kind, str | None]
    states: tuple[StateCount, ...]
    fullest: tuple[FullHost, ...]
    promises: tuple[Verdict, ...]
    alarms: tuple[Alarm, ...]
    tenants: tuple[TopTenant, ...]


def read_capacity(*, actor: Actor, pool: Pool) -> PoolCapacity:
    """Return the capacity of a pool as it is now. For operators. Raises PermissionDenied."""
    authorize(actor, "host.read", None)
    snapshot = KEPT.look(pool.id)
    fits = tuple(
        FlavorFit(flavor, headroom(snapshot, _size(flavor), "vm"), headroom(snapshot, _size(flavor), "container"))
        # Sizes of shared room: who asks for CPUs, pages or cells of its own takes other things, which hosts' pages show.
        for flavor in Flavor.objects.filter(active=True, pinned=False, numa_nodes=0, hugepages_kib=0).order_by(
            "memory_mib", "vcpus", "disk_gib", "name"
        )
    )
    return PoolCapacity(
        pool=pool,
        at=outbox.database_now(),
        hosts=len(snapshot),
        amounts=_amounts(pool, snapshot, [fit.flavor for fit in fits]),
        fits=fits,
        largest={
            kind: largest([(fit.flavor.name, _size(fit.flavor)) for fit in fits if getattr(fit, kind).count])
            for kind in KINDS
        },
        states=tuple(count_states(snapshot)),
        fullest=tuple(fullest(snapshot, FULLEST_SHOWN)),
        promises=verdicts(pool_id=pool.id),
        alarms=tuple(Alarm.objects.filter(pool=pool, cleared_at=None).order_by("-raised_at")[:20]),
        tenants=_top_tenants(pool),
    )


def _size(flavor: Flavor) -> Resources:
    return Resources(flavor.vcpus, flavor.memory_mib, flavor.disk_gib)


def _amounts(pool: Pool, snapshot: Snapshot, flavors: list[Flavor]) -> dict[Resource, Amount]:
    wanted = {
        f"sum_{column}_{name}": Sum(f"{column}_{name}", filter=IN_SERVICE, default=0)
        for column in ("total", "reserved", "used", "held")
        for name in RESOURCES
    }
    away = {f"sum_away_{name}": Sum(f"used_{name}", filter=~IN_SERVICE, default=0) for name in RESOURCES}
    hosts = Host.objects.filter(~Q(admin_state="removed"), pool=pool)
    sums: dict[str, int] = hosts.aggregate(**wanted, **away)
    free = {name: int(amounts.sum()) for name, amounts in free_room(snapshot).items()}
    lost = stranded(snapshot, [_size(flavor) for flavor in flavors])
    capacity = capacity_in_service(snapshot)
    daily = _daily_changes(pool.id)
    ratios = {"vcpus": pool.vcpu_ratio, "memory_mib": pool.memory_ratio, "disk_gib": pool.disk_ratio}
    return {
        name: Amount(
            total=sums[f"sum_total_{name}"],
            reserved=sums[f"sum_reserved_{name}"],
            ratio=ratios[name],
            capacity=getattr(capacity, name),
            used=sums[f"sum_used_{name}"],
            held=sums[f"sum_held_{name}"],
            free=free[name],
            stranded=getattr(lost, name),
            away=sums[f"sum_away_{name}"],
            trend=trend(free=free[name], daily=daily[name]),
        )
        for name in RESOURCES
    }


# What was held or given back on each day (UTC). A move or a resize ends a segment and opens one at the same moment.
_CHANGES: Final = """
SELECT day, sum(vcpus)::bigint, sum(memory_mib)::bigint, sum(disk_gib)::bigint FROM (
    SELECT (held_from AT TIME ZONE 'UTC')::date AS day, vcpus, memory_mib, disk_gib FROM tenants_usagesegment
    WHERE pool_id = %(pool)s AND held_from >= %(start)s AND held_from < %(end)s
    UNION ALL
    SELECT (ended_at AT TIME ZONE 'UTC')::date, -vcpus, -memory_mib, -disk_gib FROM tenants_usagesegment
    WHERE pool_id = %(pool)s AND ended_at >= %(start)s AND ended_at < %(end)s
) changes(day, vcpus, memory_mib, disk_gib) GROUP BY day
"""
# Where the history is longer than what is asked for, the first row found ends the search for its beginning.
_FIRST: Final = """
SELECT CASE WHEN EXISTS (SELECT FROM tenants_usagesegment WHERE pool_id = %(pool)s AND held_from < %(start)s) THEN %(start)s
       ELSE (SELECT min(held_from) FROM tenants_usagesegment WHERE pool_id = %(pool)s) END
"""


def _daily_changes(pool_id: uuid.UUID) -> dict[Resource, list[int]]:
    """Return the net change of each whole day of late, oldest first; days before the pool's first instance are no history."""
    today = outbox.database_now().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - timedelta(days=MOST_DAYS)
    with connection.cursor() as cursor:
        cursor.execute(_FIRST, {"pool": pool_id, "start": start})
        first = cursor.fetchone()[0]
        cursor.execute(_CHANGES, {"pool": pool_id, "start": start, "end": today})
        changes = {row[0]: row[1:] for row in cursor.fetchall()}
    days = [start + timedelta(days=number) for number in range(MOST_DAYS)]
    whole = [changes.get(day.date(), (0, 0, 0)) for day in days if first is not None and day >= first]
    return {name: [change[place] for change in whole] for place, name in enumerate(RESOURCES)}


_TOP: Final = """
SELECT payers[1], count(*), sum(vcpus)::bigint, sum(memory_mib)::bigint, sum(disk_gib)::bigint FROM tenants_usagesegment
WHERE pool_id = %s AND ended_at IS NULL GROUP BY payers[1] ORDER BY sum(memory_mib) DESC, payers[1] LIMIT %s
"""


def _top_tenants(pool: Pool) -> tuple[TopTenant, ...]:
    with connection.cursor() as cursor:
        cursor.execute(_TOP, [pool.id, TENANTS_SHOWN])
        rows = cursor.fetchall()
    names = dict(Tenant.objects.filter(id__in=[row[0] for row in rows]).values_list("id", "name"))
    return tuple(TopTenant(row[0], names.get(row[0], ""), *row[1:]) for row in rows)
