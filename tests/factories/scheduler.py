"""The smallest valid scheduler values; every argument has a plain default."""

from __future__ import annotations

from collections.abc import Mapping

from compute.scheduler.model import HostState, Inventory, Request, Resources
from compute.wire import Kind


def resources(vcpus: int = 0, memory_mib: int = 0, disk_gib: int = 0) -> Resources:
    return Resources(vcpus=vcpus, memory_mib=memory_mib, disk_gib=disk_gib)


def host(
    host_id: str = "host-1",
    *,
    name: str = "",
    pool_id: str = "pool-1",
    total: Resources | None = None,
    reserved: Resources | None = None,
    vcpu_ratio: float = 1.0,
    memory_ratio: float = 1.0,
    disk_ratio: float = 1.0,
    used: Resources | None = None,
    admin_state: str = "enabled",
    observed_state: str = "up",
    modes: frozenset[str] = frozenset({"qemu", "lxc"}),
    traits: frozenset[str] = frozenset(),
    load: float = 0.0,
    group_counts: Mapping[str, int] | None = None,
    failure_domain: str = "",
) -> HostState:
    """A host in service with 8 vCPU, 8,192 MiB and 100 GiB, nothing used; its name is its id in capitals."""
    return HostState(
        id=host_id,
        name=name or host_id.upper(),
        pool_id=pool_id,
        inventory=Inventory(
            total=total or resources(8, 8192, 100),
            reserved=reserved or resources(),
            vcpu_ratio=vcpu_ratio,
            memory_ratio=memory_ratio,
            disk_ratio=disk_ratio,
        ),
        used=used or resources(),
        instances=0,
        admin_state=admin_state,
        observed_state=observed_state,
        modes=modes,
        traits=traits,
        load=load,
        group_counts=group_counts or {},
        failure_domain=failure_domain,
    )


def request(vcpus: int = 1, memory_mib: int = 1024, disk_gib: int = 10, *, kind: Kind = "vm") -> Request:
    return Request(kind=kind, resources=resources(vcpus, memory_mib, disk_gib))
