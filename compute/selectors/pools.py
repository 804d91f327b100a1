"""Reads about pools and hosts: what there is, what is taken."""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Count, Max, Q, QuerySet, Sum

from compute.models import Host, Image, Network, Pool
from compute.selectors import lookup
from tenants.services.access import Actor, authorize

IN_SERVICE = Q(admin_state="enabled", observed_state="up")
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


def list_hosts(
    *, actor: Actor, pool: Pool | None = None, search: str = "", in_service: bool | None = None
) -> QuerySet[Host]:
    """Return hosts that were not removed. For operators. Raises PermissionDenied.

    `search`: part of the name, or the beginning of the address. `in_service`: those that take instances now, or the others.
    """
    authorize(actor, "host.read", None)
    rows = Host.objects.exclude(admin_state="removed").select_related("pool")
    if pool is not None:
        rows = rows.filter(pool=pool)
    if search:
        rows = rows.filter(Q(name__icontains=search) | Q(address__startswith=search.lower()))
    if in_service is not None:
        rows = rows.filter(IN_SERVICE if in_service else ~IN_SERVICE)
    return rows.order_by("created_at", "id")


@dataclass(frozen=True, slots=True)
class HostCount:
    """Hosts that were not removed. `out`: those that take no instances now."""

    total: int
    up: int
    out: int
    instances: int


def count_hosts(*, actor: Actor) -> HostCount:
    """Return how many hosts there are, and what they carry. For operators. Raises PermissionDenied."""
    found = list_hosts(actor=actor).aggregate(
        total=Count("id"),
        up=Count("id", filter=Q(observed_state="up")),
        out=Count("id", filter=~IN_SERVICE),
        instances=Sum("used_instances", default=0),
    )
    return HostCount(**found)


def get_host(*, actor: Actor, reference: str) -> Host:
    """Return one host by id or name. Raises NotFound, PermissionDenied."""
    authorize(actor, "host.read", None)
    return lookup.find_host(reference)


@dataclass(frozen=True, slots=True)
class Told:
    """What a host says of itself, for people: versions by name, and the names of networks and images it has."""

    versions: dict[str, str]
    networks: list[str]
    images: list[str]


_VERSIONS = ("kernel", "libvirt_version", "qemu_version", "cgroup_version", "cpu_model", "shared_storage_id")


def told_by(host: Host) -> Told:
    """Return the host's facts with names in the place of ids; what is gone since is left out."""
    facts = host.facts
    networks = Network.objects.filter(id__in=facts.get("networks") or []).order_by("name")
    images = Image.objects.filter(id__in=facts.get("images") or []).order_by("name")
    return Told(
        versions={name: str(facts[name]) for name in _VERSIONS if facts.get(name)},
        networks=list(networks.values_list("name", flat=True)),
        images=list(images.values_list("name", flat=True)),
    )
