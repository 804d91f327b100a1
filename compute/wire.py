"""Value types that cross the trust line between the control plane and a host.

Frozen, slotted, JSON only, versioned. Neither Django nor libvirt is known here. Control plane and node worker may run
different releases for a while: a reader ignores fields that it does not know and refuses a `version` above its own.

Units: memory in MiB, disk in GiB, CPU in vCPU, times in seconds.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, Self

WIRE_VERSION = 1
NORMAL_SHARES = 100

Kind = Literal["vm", "container"]
VirtMode = Literal["kvm", "qemu", "lxc"]
ImageFormat = Literal["qcow2", "raw", "rootfs-tar"]
Boot = Literal["disk", "kernel", "init"]
Outcome = Literal["done", "retry", "never", "unknown"]
PowerState = Literal["running", "paused", "stopped", "crashed", "suspended", "absent"]


class WireError(ValueError):
    """A message that cannot be read: unknown version, missing field, wrong type."""


class Message:
    """Base of all wire types: `to_json` and `from_json` between dataclass and plain JSON data."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data (dict, list, str, int, float, bool, None)."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote. Raises WireError when a field is missing or has the wrong type."""
        if not isinstance(data, dict):
            raise WireError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        values = {}
        for item in dataclasses.fields(cls):  # type: ignore[arg-type]
            if item.name in data:
                values[item.name] = _read(hints[item.name], data[item.name], f"{cls.__name__}.{item.name}")
        try:
            return cls(**values)
        except TypeError as error:
            raise WireError(f"{cls.__name__}: {error}") from None


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _read(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise WireError(f"{where}: {value!r} is none of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise WireError(f"{where}: expected a list")
        return tuple(_read(args[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise WireError(f"{where}: expected an object")
        return {str(key): _read(args[1], item, where) for key, item in value.items()}
    if isinstance(hint, type) and issubclass(hint, Message):
        return hint.from_json(value)
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise WireError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value


# ---------------------------------------------------------------------------------------------------------------------
# What an instance is, as its host needs to know it


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


# ---------------------------------------------------------------------------------------------------------------------
# What a host says of itself


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


# ---------------------------------------------------------------------------------------------------------------------
# Work


@dataclass(frozen=True, slots=True)
class Call(Message):
    """One order to one host. `token` is the fencing token of `target_id`; a host refuses any that is below its newest."""

    id: str
    method: str
    target_id: str
    token: int
    arguments: dict[str, Any]
    deadline_seconds: float
    version: int = WIRE_VERSION


@dataclass(frozen=True, slots=True)
class CallError(Message):
    """Why a call failed. `code` is stable; `message` is for operators and may name paths; tenants see the code's sentence."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CallAnswer(Message):
    """The end of a call. `unknown` says that the host cannot tell: the caller observes again, never assumes failure."""

    call_id: str
    token: int
    outcome: Outcome
    result: dict[str, Any] = field(default_factory=dict)
    error: CallError | None = None
    seconds: float = 0.0
    version: int = WIRE_VERSION
