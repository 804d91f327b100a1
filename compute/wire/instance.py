"""What an instance is, as its host needs to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compute.wire.message import WIRE_VERSION, Message

Kind = Literal["vm", "container"]
ImageFormat = Literal["qcow2", "raw", "rootfs-tar"]
Boot = Literal["disk", "kernel", "init"]
PowerState = Literal["running", "paused", "stopped", "crashed", "suspended", "absent"]


@dataclass(frozen=True, slots=True)
class ImageRef(Message):
    """An image file in the pool's storage. Paths are built by the node from `id` and `format`, never sent."""

    id: str
    format: ImageFormat
    sha256: str
    size_bytes: int
    virtual_size_gib: int
    boot: Boot = "disk"  # kernel: <id>.kernel and <id>.initrd lie beside the image
    kernel_args: str = ""


@dataclass(frozen=True, slots=True)
class DiskSpec(Message):
    """The root disk: a copy-on-write clone of `image` for a VM, an unpacked tree for a container."""

    id: str
    size_gib: int
    image: ImageRef


@dataclass(frozen=True, slots=True)
class NetworkSpec(Message):
    """One layer 2 across the pool's hosts. The gateway address is the same on every host (anycast)."""

    id: str
    vni: int
    cidr: str
    gateway: str
    mtu: int = 1450
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NicSpec(Message):
    """One port on the pool's network. `device` is the host-side interface name (at most 15 characters, `cn` + hex)."""

    port_id: str
    mac: str
    address: str  # IPv4, without prefix length
    network: NetworkSpec
    device: str


@dataclass(frozen=True, slots=True)
class CellSpec(Message):
    """One of a guest's NUMA nodes: the host's cell that it lies in. `cpus`: its own, one for each vCPU; () for shared ones.

    `page_kib` 0: ordinary memory.
    """

    cell: int
    vcpus: int
    memory_mib: int
    page_kib: int = 0
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceSpec(Message):
    """All a host needs to make one instance exist. Text fields are data: they reach XML and YAML through builders only."""

    id: str
    tenant_id: str
    name: str  # also the guest's host name
    kind: Kind
    vcpus: int
    memory_mib: int
    disk: DiskSpec
    nics: tuple[NicSpec, ...]
    cpu_shares: int = 1024  # relative weight under contention (cgroup v1 cpu.shares scale)
    io_weight: int = 500  # 10..1000
    pids_limit: int = 4096  # containers only
    cpu_model: str = ""  # VMs only; "": the one that all hosts of a pool have
    cpu_flags: tuple[str, ...] = ()  # VMs only: beyond the model's own
    cells: tuple[CellSpec, ...] = ()  # (): wherever the host likes
    partition: tuple[str, ...] = ()  # tenant ids from the root down; () leaves the guest outside of all partitions
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""
    version: int = WIRE_VERSION


def partition_name(tenant_id: str) -> str:
    """Return the name of a tenant's partition: the random end of its id, short since names of slices are limited."""
    return tenant_id.replace("-", "")[-12:]
