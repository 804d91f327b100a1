"""Writing what a host offers, so that the ceilings behind the CHECK constraints always follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from django.db import connection
from django.db.models import F

from compute.models import Host
from compute.placement.loader import host_inventory, host_used
from compute.wire import HostInventory


def apply_inventory(*, host: Host, reported: HostInventory) -> bool:
    """Store reported totals and facts on the locked `host` row; return whether anything changed.

    A slice that shrank below what is in use keeps what is there and takes nothing new: `fits` sees the true capacity,
    the ceiling stays at the use. Needs `host` locked FOR UPDATE by the caller, with `host.pool` loaded.
    """
    facts = {
        "cpu_model": reported.cpu_model,
        "cgroup_version": reported.cgroup_version,
        "libvirt_version": reported.libvirt_version,
        "qemu_version": reported.qemu_version,
        "kernel": reported.kernel,
        "shared_storage_id": reported.shared_storage_id,
        "migration_address": reported.migration_address,
        "cpu_models": sorted(reported.cpu_models),
        "cpu_flags": sorted(reported.cpu_flags),
        "networks": None if reported.networks is None else sorted(reported.networks),
        "images": sorted(reported.images),
        "numa": [cell.to_json() for cell in reported.numa],
    }
    totals = (reported.vcpus, reported.memory_mib, reported.disk_gib)
    if totals == (host.total_vcpus, host.total_memory_mib, host.total_disk_gib) and facts == host.facts:
        return False
    host.total_vcpus, host.total_memory_mib, host.total_disk_gib = totals
    host.facts = facts
    apply_ceilings(host=host)
    return True


def _set_ceilings(host: Host) -> None:
    capacity = host_inventory(host).capacity()
    taken = host_used(host)
    host.ceiling_vcpus = max(capacity.vcpus, taken.vcpus)
    host.ceiling_memory_mib = max(capacity.memory_mib, taken.memory_mib)
    host.ceiling_disk_gib = max(capacity.disk_gib, taken.disk_gib)


_WRITE_HELD: Final = """
UPDATE compute_host h SET
    held_vcpus = n.held_vcpus, held_memory_mib = n.held_memory_mib, held_disk_gib = n.held_disk_gib,
    ceiling_vcpus = n.ceiling_vcpus, ceiling_memory_mib = n.ceiling_memory_mib, ceiling_disk_gib = n.ceiling_disk_gib,
    version = h.version + 1
FROM unnest(%s::uuid[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[], %s::int[])
    AS n(id, held_vcpus, held_memory_mib, held_disk_gib, ceiling_vcpus, ceiling_memory_mib, ceiling_disk_gib)
WHERE h.id = n.id
"""
_HELD: Final = (
    *("held_vcpus", "held_memory_mib", "held_disk_gib"),
    *("ceiling_vcpus", "ceiling_memory_mib", "ceiling_disk_gib"),
)


def apply_held(*, hosts: Sequence[Host]) -> None:
    """Write held room and ceilings of locked rows, with their pools loaded: one statement, however many."""
    if not hosts:
        return
    for host in hosts:
        _set_ceilings(host)
    columns = [[getattr(host, column) for host in hosts] for column in _HELD]
    with connection.cursor() as cursor:
        cursor.execute(_WRITE_HELD, [[host.id for host in hosts], *columns])


def apply_ceilings(*, host: Host) -> None:
    """Write totals, facts, held room and ceilings of the locked `host` row; call after any of them, or the pool's ratios, change."""
    _set_ceilings(host)
    Host.objects.filter(id=host.id).update(
        total_vcpus=host.total_vcpus,
        total_memory_mib=host.total_memory_mib,
        total_disk_gib=host.total_disk_gib,
        reserved_vcpus=host.reserved_vcpus,
        reserved_memory_mib=host.reserved_memory_mib,
        reserved_disk_gib=host.reserved_disk_gib,
        held_vcpus=host.held_vcpus,
        held_memory_mib=host.held_memory_mib,
        held_disk_gib=host.held_disk_gib,
        ceiling_vcpus=host.ceiling_vcpus,
        ceiling_memory_mib=host.ceiling_memory_mib,
        ceiling_disk_gib=host.ceiling_disk_gib,
        facts=host.facts,
        version=F("version") + 1,
    )
