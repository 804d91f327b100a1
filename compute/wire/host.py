"""What a host says of itself, and what it is told back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compute.wire.instance import Kind, PowerState
from compute.wire.message import WIRE_VERSION, Message

NORMAL_SHARES = 100

VirtMode = Literal["kvm", "qemu", "lxc"]


@dataclass(frozen=True, slots=True)
class DomainReport(Message):
    """One libvirt domain as seen. `instance_id` is None for a domain without Cenote's metadata: foreign, never touched."""

    uuid: str
    name: str
    instance_id: str | None
    kind: Kind
    power: PowerState
    token: int = 0  # fencing token kept in the domain's metadata
    cpu_seconds: float = 0.0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class HugePages(Message):
    """Pages of one size (KiB) in one NUMA cell: how many there are, and how many nobody uses at this moment."""

    size_kib: int
    total: int
    free: int


@dataclass(frozen=True, slots=True)
class NumaCell(Message):
    """One NUMA cell of the machine: its processors, as far as they are in the slice, and its memory, huge pages too.

    `dedicated`: those of `cpus` that are kept for guests which have a CPU to themselves; no other guest runs there.
    """

    id: int
    cpus: tuple[int, ...]
    memory_mib: int
    huge_pages: tuple[HugePages, ...] = ()
    dedicated: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostInventory(Message):
    """The slice of the machine that the host offers, and what it can do. Totals, before reservations and ratios.

    `cpu_models` and `cpu_flags` are what a VM can be given here in the mode that VMs run in. `networks`: ids of those
    whose bridge and tunnel are up; None where nobody looks (the host is then taken to reach its pool's).
    `images`: ids of those that were checked here and are still there as they were.
    """

    vcpus: int
    memory_mib: int
    disk_gib: int
    virt_modes: tuple[VirtMode, ...]
    cpu_model: str
    cgroup_version: int
    libvirt_version: str
    qemu_version: str
    kernel: str
    shared_storage_id: str  # content of the marker file in the shared storage directory; "" where there is none
    migration_address: str = ""
    cpu_models: tuple[str, ...] = ()
    cpu_flags: tuple[str, ...] = ()
    networks: tuple[str, ...] | None = None
    images: tuple[str, ...] = ()
    numa: tuple[NumaCell, ...] = ()


@dataclass(frozen=True, slots=True)
class ProofStep(Message):
    """One thing that enrolment looked at. `detail` is a sentence for the operator."""

    name: str
    ok: bool
    detail: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HostProof(Message):
    """What a host showed at enrolment: checks by name, and the virtualization modes that booted a real guest."""

    steps: tuple[ProofStep, ...]
    inventory: HostInventory
    vm_mode: VirtMode | None  # kvm or qemu, whichever booted a guest to its init, and faster where both did

    @property
    def ok(self) -> bool:
        return all(step.ok for step in self.steps)


@dataclass(frozen=True, slots=True)
class PartitionReport(Message):
    """One tenant's partition as seen, with all that is below it.

    The counters only ever grow while the partition exists: `cpu_seconds` ran, `waited_seconds` its threads were ready
    to run and had no CPU (from when the node worker first saw them). `at` is the host's monotonic clock, in seconds.
    """

    path: tuple[str, ...]  # partition names from the root tenant down, as `partition_name` makes them
    cpu_shares: int  # as the kernel holds them now, in units of TenantShares
    cpu_seconds: float
    waited_seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class HostReport(Message):
    """The heartbeat. `domains` is None when this round's observation failed: nothing may be concluded from it."""

    boot_id: str
    clock: str  # RFC 3339, the host's own
    domains: tuple[DomainReport, ...] | None
    calls_in_hand: tuple[str, ...] = ()
    inventory: HostInventory | None = None
    disks: tuple[str, ...] | None = None  # ids of instance directories present in storage, when looked at
    partitions: tuple[PartitionReport, ...] | None = None
    version: int = WIRE_VERSION


@dataclass(frozen=True, slots=True)
class TenantShares(Message):
    """What a tenant weighs against its siblings on a host that is short of something. 100 is normal; 1..10000."""

    tenant_id: str
    cpu: int
    io: int


@dataclass(frozen=True, slots=True)
class HeartbeatAnswer(Message):
    """What the control plane tells a host back: calls to give up, its tuning, and what its tenants weigh.

    `shares` is the whole of it each time, not a change: an answer that is lost is made good by the next one.
    """

    cancel: tuple[str, ...] = ()
    heartbeat_seconds: float = 5.0
    sweep_seconds: float = 10.0
    shares: tuple[TenantShares, ...] | None = None  # None: leave the weights as they are
