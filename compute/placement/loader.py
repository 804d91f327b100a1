"""Rows -> scheduler types. One query per snapshot, no lock held."""

from __future__ import annotations

import uuid

from compute.models import Host
from compute.scheduler.model import HostState, Inventory, Resources


def host_inventory(host: Host) -> Inventory:
    """Return what the host offers. Needs `host.pool` loaded."""
    return Inventory(
        total=Resources(vcpus=host.total_vcpus, memory_mib=host.total_memory_mib, disk_gib=host.total_disk_gib),
        reserved=Resources(
            vcpus=host.reserved_vcpus, memory_mib=host.reserved_memory_mib, disk_gib=host.reserved_disk_gib
        ),
        vcpu_ratio=host.pool.vcpu_ratio,
        memory_ratio=host.pool.memory_ratio,
        disk_ratio=host.pool.disk_ratio,
    )


def host_used(host: Host) -> Resources:
    """Return what a request without a reservation cannot have: what is in use, and what is set aside for promises."""
    return Resources(
        vcpus=host.used_vcpus + host.held_vcpus,
        memory_mib=host.used_memory_mib + host.held_memory_mib,
        disk_gib=host.used_disk_gib + host.held_disk_gib,
    )


def host_state(host: Host) -> HostState:
    """Return the scheduler's view of one host row."""
    return HostState(
        id=str(host.id),
        name=host.name,
        pool_id=str(host.pool_id),
        inventory=host_inventory(host),
        used=host_used(host),
        instances=host.used_instances,
        admin_state=host.admin_state,
        observed_state=host.observed_state,
        modes=frozenset(host.modes),
        traits=frozenset(host.traits),
    )


def load_hosts(*, pool_id: uuid.UUID | None = None) -> tuple[HostState, ...]:
    """Return all hosts that have not been removed, of one pool or of all, as they are committed now."""
    rows = Host.objects.exclude(admin_state="removed").select_related("pool")
    if pool_id is not None:
        rows = rows.filter(pool_id=pool_id)
    return tuple(host_state(row) for row in rows)
