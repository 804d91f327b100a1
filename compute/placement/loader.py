"""Rows -> scheduler types."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from compute.models import Host
from compute.placement.cells import free_cells
from compute.scheduler.model import NOT_SAID, HostState, Inventory, Resources
from tenants import prepared


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


# The scheduler's view of a host, in the order in which `host_from_row` reads it. The trigger behind `Host.changed_in`
# watches these columns: see `compute.placement.kept`.
HOST_TABLES: Final = "compute_host h JOIN compute_pool p ON p.id = h.pool_id"
HOST_COLUMNS: Final = """
h.id, h.name, h.pool_id, h.total_vcpus, h.total_memory_mib, h.total_disk_gib, h.reserved_vcpus, h.reserved_memory_mib,
h.reserved_disk_gib, p.vcpu_ratio, p.memory_ratio, p.disk_ratio, h.used_vcpus + h.held_vcpus,
h.used_memory_mib + h.held_memory_mib, h.used_disk_gib + h.held_disk_gib, h.used_instances, h.admin_state,
h.observed_state, h.modes, h.traits, h.facts, h.numa_used, h.failure_domain
"""


def host_from_row(row: Sequence[Any]) -> HostState:
    """Return the scheduler's view of a host from a row of HOST_COLUMNS."""
    said = _said(row[20])
    return HostState(
        id=str(row[0]),
        name=row[1],
        pool_id=str(row[2]),
        inventory=Inventory(Resources(*row[3:6]), Resources(*row[6:9]), *row[9:12]),
        used=Resources(*row[12:15]),
        instances=row[15],
        admin_state=row[16],
        observed_state=row[17],
        modes=_names(tuple(row[18])),
        traits=_names(tuple(row[19])),
        cpu_models=said.cpu_models,
        cpu_flags=said.cpu_flags,
        networks=said.networks,
        storages=said.storages,
        images=said.images,
        cells=free_cells(row[20], row[21]),
        failure_domain=row[22],
    )


def load_host(host_id: uuid.UUID) -> HostState:
    """Return the scheduler's view of one host, as it is now and without a lock."""
    sql = " ".join(("SELECT", HOST_COLUMNS, "FROM", HOST_TABLES, "WHERE h.id = %s"))
    return host_from_row(prepared.run(sql, [host_id])[0])


@dataclass(frozen=True, slots=True)
class _Said:
    """What a host's last report says of itself, as far as scheduling asks for it."""

    cpu_models: frozenset[str]
    cpu_flags: frozenset[str]
    networks: frozenset[str]
    storages: frozenset[str]
    images: frozenset[str]


_UNREPORTED: Final = frozenset({NOT_SAID})


@lru_cache(maxsize=16384)
def _said(facts: str) -> _Said:
    """Read a host's facts, as JSON text. A host that was never heard is taken to reach what its pool has."""
    data = json.loads(facts)
    networks, storage = data.get("networks"), data.get("shared_storage_id")
    return _Said(
        cpu_models=_names(tuple(data.get("cpu_models", ()))),
        cpu_flags=_names(tuple(data.get("cpu_flags", ()))),
        networks=_UNREPORTED if networks is None else _names(tuple(networks)),
        storages=_UNREPORTED if storage is None else _names((storage,) if storage else ()),
        images=_names(tuple(data.get("images", ()))),
    )


@lru_cache(maxsize=1024)
def _names(names: tuple[str, ...]) -> frozenset[str]:
    """Thousands of hosts have few different sets: one object for each."""
    return frozenset(names)
