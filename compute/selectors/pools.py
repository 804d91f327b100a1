"""Reads about pools and hosts: what there is, what is taken."""

from __future__ import annotations

from django.db.models import Count, Max, Q, QuerySet, Sum

from compute.models import Host, Pool
from compute.selectors import lookup
from tenants.services.access import Actor, authorize

_IN_SERVICE = Q(hosts__admin_state="enabled", hosts__observed_state="up")


def list_pools(*, actor: Actor) -> QuerySet[Pool]:
    """Return pools with sums over their hosts in service: `hosts_total`, `hosts_up`, `ceiling_*`, `used_*` and `held_*`."""
    authorize(actor, "pool.read", None)
    return Pool.objects.annotate(
        hosts_total=Count("hosts", filter=~Q(hosts__admin_state="removed")),
        hosts_up=Count("hosts", filter=_IN_SERVICE),
        ceiling_vcpus=Sum("hosts__ceiling_vcpus", filter=_IN_SERVICE, default=0),
        ceiling_memory_mib=Sum("hosts__ceiling_memory_mib", filter=_IN_SERVICE, default=0),
        ceiling_disk_gib=Sum("hosts__ceiling_disk_gib", filter=_IN_SERVICE, default=0),
        used_vcpus=Sum("hosts__used_vcpus", filter=~Q(hosts__admin_state="removed"), default=0),
        used_memory_mib=Sum("hosts__used_memory_mib", filter=~Q(hosts__admin_state="removed"), default=0),
        used_disk_gib=Sum("hosts__used_disk_gib", filter=~Q(hosts__admin_state="removed"), default=0),
        held_vcpus=Sum("hosts__held_vcpus", filter=_IN_SERVICE, default=0),
        held_memory_mib=Sum("hosts__held_memory_mib", filter=_IN_SERVICE, default=0),
        held_disk_gib=Sum("hosts__held_disk_gib", filter=_IN_SERVICE, default=0),
        instances=Sum("hosts__used_instances", filter=~Q(hosts__admin_state="removed"), default=0),
        last_seen_at=Max("hosts__last_seen_at"),
    ).order_by("created_at", "id")


def get_pool(*, actor: Actor, reference: str) -> Pool:
    """Return one pool with its sums. Raises NotFound."""
    return list_pools(actor=actor).get(id=lookup.find_pool(reference).id)


def list_hosts(*, actor: Actor, pool: Pool | None = None) -> QuerySet[Host]:
    """Return hosts that were not removed. For operators. Raises PermissionDenied."""
    authorize(actor, "host.read", None)
    rows = Host.objects.exclude(admin_state="removed").select_related("pool")
    return (rows if pool is None else rows.filter(pool=pool)).order_by("created_at", "id")


def get_host(*, actor: Actor, reference: str) -> Host:
    """Return one host by id or name. Raises NotFound, PermissionDenied."""
    authorize(actor, "host.read", None)
    return lookup.find_host(reference)
