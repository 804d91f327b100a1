"""The fake driver: a whole host in memory. It is the driver contract in running code, and takes faults as data.

What it keeps exactly as a real host does:
- A host (`FakeHost`) outlives its drivers, as guests outlive the node worker. With a state file it outlives processes.
- Every method is made of the steps in STEPS, in that order; each step is written down before the next begins. A crash
  or fault between two steps leaves what a real host would have: a disk without a domain, a definition that never ran.
- A method looks first and does only what is missing, so that calling it again finishes what a crash left half done.
- A guest obeys its power button, unless a fault says "no_effect" at "stop.ask"; then the power is cut.
- Domains that are not Cenote's (`FakeHost.foreign`) are reported, and never touched.

What it does not do: it runs nothing, keeps no bytes, takes no time (but for `delay_seconds` and hangs).
A host without domains costs about 1 KiB, so thousands of them fit in one process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from compute.node.drivers.base import Capabilities, Driver, Never, RetryLater, Unknown
from compute.node.drivers.cpus import check_cells
from compute.node.drivers.faults import Fault, SimulatedCrash
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import read_marker
from compute.wire import (
    NORMAL_SHARES,
    DomainLook,
    DomainReport,
    HostInventory,
    HostProof,
    InstanceSpec,
    MigrationJob,
    MigrationStatus,
    NumaCell,
    PartitionReport,
    PowerState,
    ProofStep,
    Readiness,
    TenantShares,
    partition_name,
)

STEPS: Final[dict[str, tuple[str, ...]]] = {
    "prepare": ("prepare.disk", "prepare.seed", "prepare.ports"),
    "start": ("start.define", "start.boot"),
    "stop": ("stop.ask", "stop.cut"),
    "resize": ("resize.define", "resize.disk"),
    "receive": ("receive.ports",),
    "migrate": ("migrate.begin", "migrate.copy"),
    "adopt": ("adopt.define", "adopt.resume"),
    "remove": ("remove.cut", "remove.undefine", "remove.ports", "remove.disk"),
    "withdraw": ("withdraw.cut", "withdraw.undefine", "withdraw.local"),
}
METHODS: Final = (
    *("inventory", "prove", "list_domains", "list_disks", "list_partitions", "weigh", "prepare"),
    *("start", "stop", "reboot", "resize", "remove", "withdraw", "console_log"),
    *("receive", "migrate", "look", "adopt"),
)


@dataclass(slots=True)
class FakeDisk:
    """What lies in storage for one instance. `whole` means that `prepare` came to its end."""

    size_gib: int
    seed: bool = False
    ports: tuple[str, ...] = ()
    console: str = ""

    @property
    def whole(self) -> bool:
        return self.seed


@dataclass(slots=True)
class FakePartition:
    """A tenant's partition. Nothing runs in it: the fake's guests use no CPU."""

    shares: int = NORMAL_SHARES
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0


@dataclass(slots=True)
class FakeJob:
    """A live migration away from a host. `questions` are still answered with "it is going on" before it ends."""

    id: str
    destination_address: str
    questions: int
    end: MigrationStatus | None = None

    @classmethod
    def read(cls, data: dict[str, Any]) -> FakeJob:
        """Read what a state file holds of it."""
        end = data["end"]
        return cls(**{**data, "end": None if end is None else MigrationStatus.from_json(end)})


@dataclass(slots=True)
class FakeWire:
    """What joins the fake hosts of one process: guests get over it from one to another, and all see one storage."""

    hosts: dict[str, FakeHost] = field(default_factory=dict)  # by underlay address
    disks: dict[str, FakeDisk] = field(default_factory=dict)
    state_file: Path | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @classmethod
    def load(cls, state_file: Path) -> FakeWire:
        """Read the storage back from its file, or begin an empty one."""
        wire = cls(state_file=state_file)
        with contextlib.suppress(FileNotFoundError):
            wire.disks = _read_disks(json.loads(state_file.read_text("utf-8")))
        return wire

    def save(self) -> None:
        """Write the storage's file, whole or not at all."""
        if self.state_file is not None:
            _write_whole(self.state_file, {key: dataclasses.asdict(value) for key, value in self.disks.items()})


@dataclass(slots=True)
class FakeHost:
    """The machine that a fake driver drives. Share one between drivers to play a restart of the node worker.

    Guests migrate between hosts that share a `wire`, in whose file the disks are then.
    """

    disks: dict[str, FakeDisk] = field(default_factory=dict)
    domains: dict[str, DomainReport] = field(default_factory=dict)
    foreign: dict[str, DomainReport] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    images_missing: set[str] = field(default_factory=set)
    partitions: dict[str, FakePartition] = field(default_factory=dict)  # by path, "tenant/child"
    places: dict[str, str] = field(default_factory=dict)  # instance id -> path, since its last start
    shares: dict[str, int] = field(default_factory=dict)  # partition name -> what it weighs, also when it is made later
    state_file: Path | None = None
    cpu_flags: tuple[str, ...] = ("fake",)
    networks: tuple[str, ...] | None = None  # None: nobody looks
    images: set[str] = field(default_factory=set)  # used here before
    numa: tuple[NumaCell, ...] = ()
    wire: FakeWire | None = None
    jobs: dict[str, FakeJob] = field(default_factory=dict)  # by instance: its newest job away from here
    job_questions: int = 0  # how often a job that begins here says that it is going on
    expected: set[str] = field(default_factory=set)  # instances that were received, and have not arrived yet
    arrived: set[str] = field(default_factory=set)  # that run here without a definition, or are still coming
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.wire is not None:
            self.disks = self.wire.disks

    @classmethod
    def load(cls, state_file: Path, *, wire: FakeWire | None = None) -> FakeHost:
        """Read a host back from its state file, or begin an empty one."""
        host = cls(state_file=state_file, wire=wire)
        with contextlib.suppress(FileNotFoundError):
            data = json.loads(state_file.read_text("utf-8"))
            if wire is None:
                host.disks = _read_disks(data["disks"])
            host.domains = {key: DomainReport.from_json(value) for key, value in data["domains"].items()}
            host.foreign = {key: DomainReport.from_json(value) for key, value in data["foreign"].items()}
            host.faults = [Fault.from_json(value) for value in data["faults"]]
            host.images_missing = set(data["images_missing"])
            host.partitions = {key: FakePartition(**value) for key, value in data.get("partitions", {}).items()}
            host.places = data.get("places", {})
            host.shares = data.get("shares", {})
            host.images = set(data.get("images", ()))
            host.jobs = {key: FakeJob.read(value) for key, value in data.get("jobs", {}).items()}
            host.expected = set(data.get("expected", ()))
            host.arrived = set(data.get("arrived", ()))
        return host

    def save(self) -> None:
        """Write the state file, whole or not at all. Without a file the host lives as long as the process."""
        if self.wire is not None:
            self.wire.save()
        if self.state_file is None:
            return
        disks = {} if self.wire is not None else self.disks
        data = {
            "disks": {key: dataclasses.asdict(value) for key, value in disks.items()},
            "domains": {key: value.to_json() for key, value in self.domains.items()},
            "foreign": {key: value.to_json() for key, value in self.foreign.items()},
            "faults": [fault.to_json() for fault in self.faults],
            "images_missing": sorted(self.images_missing),
            "partitions": {key: dataclasses.asdict(value) for key, value in self.partitions.items()},
            "places": self.places,
            "shares": self.shares,
            "images": sorted(self.images),
            "jobs": {key: dataclasses.asdict(value) for key, value in self.jobs.items()},
            "expected": sorted(self.expected),
            "arrived": sorted(self.arrived),
        }
        _write_whole(self.state_file, data)

    def forget_moves(self, instance_id: str) -> None:
        """Forget that the instance was to come, came or left."""
        self.jobs.pop(instance_id, None)
        self.expected.discard(instance_id)
        self.arrived.discard(instance_id)

    def enter_partition(self, spec: InstanceSpec) -> None:
        """Put the instance into its tenant's partition, which is made where there is none."""
        names = [partition_name(tenant) for tenant in spec.partition]
        for end in range(1, len(names) + 1):
            shares = self.shares.get(names[end - 1], NORMAL_SHARES)
            self.partitions.setdefault("/".join(names[:end]), FakePartition(shares))
        if names:
            self.places[spec.id] = "/".join(names)

    def inject(self, *faults: Fault) -> None:
        """Add faults; they strike in the order given."""
        known = {*METHODS, *(step for steps in STEPS.values() for step in steps)}
        for fault in faults:
            if fault.at not in known:
                raise ValueError(f"no such place for a fault: {fault.at}; there are {', '.join(sorted(known))}")
        with self.lock:
            self.faults += faults
            self.save()


class FakeDriver(Driver):
    """One fake host's hypervisor. Safe for many threads; a hanging call does not hold up the others."""

    def __init__(self, settings: DriverSettings, host: FakeHost | None = None, *, delay_seconds: float = 0.0) -> None:
        self._settings = settings
        self.host = FakeHost() if host is None else host
        self._delay = delay_seconds
        self._released = threading.Event()
        self._closed = False
        if self.host.wire is not None:
            self.host.wire.hosts[settings.underlay_address] = self.host

    # -- what the host is

    def capabilities(self) -> Capabilities:
        return Capabilities(
            kinds=("vm", "container"),
            modes=("qemu", "lxc"),
            live_migration=self.host.wire is not None,
            suspend_to_disk=False,
            graceful_stop=True,
        )

    def inventory(self) -> HostInventory:
        with self._at("inventory"):
            return self._inventory()

    def prove(self) -> HostProof:
        with self._at("prove"):
            steps = (ProofStep("vm", True, "fake guest booted"), ProofStep("container", True, "fake container booted"))
            return HostProof(steps=steps, inventory=self._inventory(), vm_mode="qemu")

    def list_domains(self) -> tuple[DomainReport, ...]:
        with self._at("list_domains"), self.host.lock:
            return (*self.host.domains.values(), *self.host.foreign.values())

    def list_disks(self) -> tuple[str, ...]:
        with self._at("list_disks"), self.host.lock:
            return tuple(sorted(self.host.disks))

    def list_partitions(self) -> tuple[PartitionReport, ...]:
        with self._at("list_partitions"), self.host.lock:
            return tuple(
                PartitionReport(
                    tuple(path.split("/")), seen.shares, seen.cpu_seconds, seen.waited_seconds, time.monotonic()
                )
                for path, seen in sorted(self.host.partitions.items())
            )

    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        with self._at("weigh"), self.host.lock:
            wanted = {partition_name(item.tenant_id): item.cpu for item in shares}
            used = {
                path
                for instance_id, path in self.host.places.items()
                if self._power(instance_id) in ("running", "paused")
            }
            kept = {
                path: dataclasses.replace(seen, shares=wanted.get(path.rsplit("/")[-1], NORMAL_SHARES))
                for path, seen in self.host.partitions.items()
                if any(f"{place}/".startswith(f"{path}/") for place in used)
            }
            if (wanted, kept) != (self.host.shares, self.host.partitions):
                with self._change():
                    self.host.shares, self.host.partitions = wanted, kept

    def console_log(self, instance_id: str, *, max_bytes: int) -> bytes:
        with self._at("console_log", instance_id), self.host.lock:
            disk = self.host.disks.get(instance_id)
            return disk.console.encode()[-max_bytes:] if disk and max_bytes > 0 else b""

    def close(self) -> None:
        self._closed = True
        self.release()

    # -- what the host does

    def prepare(self, spec: InstanceSpec) -> None:
        with self._at("prepare", spec.id):
            if spec.disk.image.id in self.host.images_missing:
                raise Never("image_missing", f"no image {spec.disk.image.id} in storage")
            if spec.disk.size_gib < spec.disk.image.virtual_size_gib:
                raise Never("disk_too_small", f"{spec.disk.size_gib} GiB < {spec.disk.image.virtual_size_gib} GiB")
            with self._at("prepare.disk", spec.id) as effective, self._change():
                if effective and spec.id not in self.host.disks:
                    self._refuse_over_full(spec.disk.size_gib)
                    self.host.disks[spec.id] = FakeDisk(spec.disk.size_gib)
                    self.host.images.add(spec.disk.image.id)
            with self._at("prepare.seed", spec.id) as effective, self._change():
                if effective:
                    self.host.disks[spec.id].seed = True
            with self._at("prepare.ports", spec.id) as effective, self._change():
                if effective:
                    self.host.disks[spec.id].ports = tuple(nic.device for nic in spec.nics)

    def start(self, spec: InstanceSpec, *, token: int) -> PowerState:
        with self._at("start", spec.id):
            self._refuse_foreign(spec.id)
            check_cells(spec, self.host.numa)
            disk = self.host.disks.get(spec.id)
            if disk is None or not disk.whole:
                raise Never("disk_missing", f"{spec.id} was not prepared")
            with self._at("start.define", spec.id) as effective, self._change():
                domain = self.host.domains.get(spec.id)
                if effective and domain is not None and domain.power in ("running", "paused"):
                    self.host.domains[spec.id] = dataclasses.replace(domain, token=token)
                elif effective:
                    self.host.domains[spec.id] = _define(spec, token)
            with self._at("start.boot", spec.id) as effective, self._change():
                domain = self.host.domains.get(spec.id)
                if effective and domain is not None and domain.power != "running":
                    self.host.domains[spec.id] = dataclasses.replace(domain, power="running")
                    if domain.power != "paused":
                        self.host.enter_partition(spec)
                        disk.console += f"cenote: {spec.name} is up\n"
        power = self._power(spec.id)
        if power != "running":
            raise Never("start_failed", f"{spec.id} is {power} after its start")
        return power

    def stop(self, instance_id: str, *, graceful_seconds: float) -> PowerState:
        with self._at("stop", instance_id):
            self._refuse_foreign(instance_id)
            if graceful_seconds > 0 and self._power(instance_id) in ("running", "paused"):
                with self._at("stop.ask", instance_id) as effective, self._change():
                    if effective:
                        self._set_power(instance_id, "stopped")
            if self._power(instance_id) in ("running", "paused"):
                with self._at("stop.cut", instance_id) as effective, self._change():
                    if effective:
                        self._set_power(instance_id, "stopped")
        return self._power(instance_id)

    def reboot(self, spec: InstanceSpec, *, token: int, graceful_seconds: float) -> PowerState:
        with self._at("reboot", spec.id):
            self.stop(spec.id, graceful_seconds=graceful_seconds)
            return self.start(spec, token=token)

    def resize(self, spec: InstanceSpec, *, token: int) -> None:
        with self._at("resize", spec.id):
            self._refuse_foreign(spec.id)
            disk = self.host.disks.get(spec.id)
            if disk is None or not disk.whole:
                raise Never("disk_missing", f"{spec.id} was not prepared")
            if self._power(spec.id) in ("running", "paused"):
                raise Never(
                    "domain_running", f"{spec.id} is {self._power(spec.id)}; only a stopped instance is resized"
                )
            with self._at("resize.define", spec.id) as effective, self._change():
                if effective:
                    self.host.domains[spec.id] = _define(spec, token)
            with self._at("resize.disk", spec.id) as effective, self._change():
                if effective:
                    if spec.disk.size_gib > disk.size_gib:
                        self._refuse_over_full(spec.disk.size_gib - disk.size_gib)
                    disk.size_gib = spec.disk.size_gib

    def remove(self, instance_id: str) -> None:
        with self._at("remove", instance_id):
            self._refuse_foreign(instance_id)
            with self._at("remove.cut", instance_id) as effective, self._change():
                if effective:
                    self._set_power(instance_id, "stopped")
            with self._at("remove.undefine", instance_id) as effective, self._change():
                if effective:
                    self.host.domains.pop(instance_id, None)
                    self.host.places.pop(instance_id, None)
                    self.host.forget_moves(instance_id)
            with self._at("remove.ports", instance_id) as effective, self._change():
                if effective and (disk := self.host.disks.get(instance_id)):
                    disk.ports = ()
            with self._at("remove.disk", instance_id) as effective, self._change():
                if effective:
                    self.host.disks.pop(instance_id, None)

    # -- from host to host

    def receive(self, spec: InstanceSpec, *, storage_id: str) -> Readiness:
        with self._at("receive", spec.id):
            obstacles = {}
            if spec.kind != "vm":
                obstacles["not_a_vm"] = f"{spec.id} is a container"
            if spec.id in self.host.foreign:
                obstacles["foreign_domain"] = f"domain {spec.id} on this host is not Cenote's"
            if self._power(spec.id) == "running":
                obstacles["runs_here"] = f"{spec.id} runs here already"
            own = self._inventory().shared_storage_id
            if storage_id != own:
                obstacles["storage_not_shared"] = f"this host sees storage {own}, the source {storage_id}"
            if not obstacles:
                with self._at("receive.ports", spec.id) as effective, self._change():
                    if effective:
                        self.host.expected.add(spec.id)
            return Readiness(obstacles)

    def migrate(self, spec: InstanceSpec, job: MigrationJob, *, stop: bool) -> MigrationStatus:
        with self._at("migrate", spec.id):
            known = self.host.jobs.get(spec.id)
            if known is None or known.id != job.id:
                if self._power(spec.id) != "running":
                    return _not_running(self._power(spec.id))
                with self._at("migrate.begin", spec.id) as effective, self._change():
                    known = FakeJob(job.id, job.destination_address, self.host.job_questions)
                    if effective:
                        self.host.jobs[spec.id] = known
            if known.end is not None:
                return known.end
            if stop:
                known.end = MigrationStatus(ended="stayed", code="cancelled", message="it was asked to stop")
                return known.end
            if known.questions > 0:
                known.questions -= 1
                return _under_way(spec, known)
            with self._at("migrate.copy", spec.id) as effective:
                if not effective:
                    known.end = _moved(spec)  # a lie: the guest is still here
                    return known.end
                return self._copy(spec, known)

    def look(self, instance_id: str) -> DomainLook:
        with self._at("look", instance_id), self.host.lock:
            job = self.host.jobs.get(instance_id)
            power = self._power(instance_id)
            return DomainLook(
                power,
                incoming=instance_id in self.host.arrived and power == "paused",
                outgoing=job is not None and job.end is None and power == "running",
                persistent=instance_id in self.host.domains and instance_id not in self.host.arrived,
            )

    def adopt(self, spec: InstanceSpec, *, token: int, resume: bool) -> PowerState:
        with self._at("adopt", spec.id):
            if self._power(spec.id) == "absent":
                raise Never("domain_absent", f"{spec.id} is not on this host")
            with self._at("adopt.define", spec.id) as effective, self._change():
                if effective:
                    self.host.arrived.discard(spec.id)
                    self.host.domains[spec.id] = dataclasses.replace(self.host.domains[spec.id], token=token)
            with self._at("adopt.resume", spec.id) as effective, self._change():
                if effective and resume and self._power(spec.id) == "paused":
                    self._set_power(spec.id, "running")
        return self._power(spec.id)

    def _copy(self, spec: InstanceSpec, job: FakeJob) -> MigrationStatus:
        """Take the guest over the wire. What stands at the source is a stopped domain, as libvirt leaves it."""
        wire = self.host.wire
        assert wire is not None
        with wire.lock, self._change():
            there = wire.hosts.get(job.destination_address)
            if there is None or spec.id not in there.expected:
                job.end = MigrationStatus(ended="stayed", code="destination_refused", message="nobody expects it there")
                return job.end
            if self._power(spec.id) != "running":
                job.end = _not_running(self._power(spec.id))
                return job.end
            domain = self.host.domains[spec.id]
            # Written down before it runs there: a process that dies in between loses the guest, and never doubles it.
            self._set_power(spec.id, "stopped")
            self.host.save()
            with there.lock:
                there.expected.discard(spec.id)
                there.arrived.add(spec.id)
                there.domains[spec.id] = domain
                there.enter_partition(spec)
                there.save()
            job.end = _moved(spec)
            return job.end

    def withdraw(self, instance_id: str, *, paused_too: bool = False, running_too: bool = False) -> None:
        with self._at("withdraw", instance_id):
            self._refuse_foreign(instance_id)
            power = self._power(instance_id)
            if (power == "running" and not running_too) or (power == "paused" and not (paused_too or running_too)):
                raise Never("domain_running", f"{instance_id} is {power} here")
            with self._at("withdraw.cut", instance_id) as effective, self._change():
                if effective:
                    self._set_power(instance_id, "stopped")
            with self._at("withdraw.undefine", instance_id) as effective, self._change():
                if effective:
                    self.host.domains.pop(instance_id, None)
                    self.host.places.pop(instance_id, None)
                    self.host.forget_moves(instance_id)
            with self._at("withdraw.local", instance_id) as effective, self._change():
                if effective and (disk := self.host.disks.get(instance_id)):
                    disk.ports, disk.console = (), ""

    # -- for tests

    def inject(self, *faults: Fault) -> None:
        """Add faults to the host; a later driver of the same host meets those that did not strike yet."""
        self.host.inject(*faults)

    def release(self) -> None:
        """End all hangs, those to come too."""
        self._released.set()

    def set_power(self, instance_id: str, power: PowerState) -> None:
        """Play what a guest or an operator does behind the driver's back: crash, shut down, pause."""
        with self._change():
            self._set_power(instance_id, power)

    # -- parts

    @contextlib.contextmanager
    def _at(self, place: str, instance_id: str = "") -> Iterator[bool]:
        """Let the faults of this place strike; yield whether the step inside shall have an effect."""
        if self._closed:
            raise Unknown("driver_closed", "the driver was closed")
        if self._delay and "." not in place:
            time.sleep(self._delay)
        fault = self._take_fault(place, instance_id)
        if fault is not None:
            match fault.kind:
                case "retry":
                    raise RetryLater(fault.code, fault.message)
                case "never":
                    raise Never(fault.code, fault.message)
                case "unknown":
                    raise Unknown(fault.code, fault.message)
                case "crash":
                    raise SimulatedCrash(place)
                case "hang":
                    self._released.wait(fault.seconds)
        yield fault is None or fault.kind != "no_effect"
        if fault and fault.kind == "unknown_after":
            raise Unknown(fault.code, fault.message)
        if fault and fault.kind == "crash_after":
            raise SimulatedCrash(place)

    def _take_fault(self, place: str, instance_id: str) -> Fault | None:
        if not self.host.faults:
            return None
        with self._change():
            for index, fault in enumerate(self.host.faults):
                if not fault.matches(place, instance_id):
                    continue
                if fault.skip:
                    self.host.faults[index] = dataclasses.replace(fault, skip=fault.skip - 1)
                    continue
                if fault.times > 0:
                    self.host.faults[index] = dataclasses.replace(fault, times=fault.times - 1)
                return fault
        return None

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        with self.host.lock:
            yield
            self.host.save()

    def _power(self, instance_id: str) -> PowerState:
        with self.host.lock:
            domain = self.host.domains.get(instance_id)
            return "absent" if domain is None else domain.power

    def _set_power(self, instance_id: str, power: PowerState) -> None:
        if domain := self.host.domains.get(instance_id):
            self.host.domains[instance_id] = dataclasses.replace(domain, power=power)

    def _refuse_foreign(self, instance_id: str) -> None:
        if instance_id in self.host.foreign:
            raise Never("foreign_domain", f"domain {instance_id} on this host is not Cenote's")

    def _refuse_over_full(self, more_gib: int) -> None:
        if self.host.wire is not None:
            return  # a pool's storage is not measured by one host's slice
        used = sum(disk.size_gib for disk in self.host.disks.values())
        if used + more_gib > self._settings.disk_gib:
            raise RetryLater("storage_full", f"{used} of {self._settings.disk_gib} GiB used")

    def _inventory(self) -> HostInventory:
        return HostInventory(
            vcpus=self._settings.vcpus,
            memory_mib=self._settings.memory_mib,
            disk_gib=self._settings.disk_gib,
            virt_modes=("qemu", "lxc"),
            cpu_model="fake",
            cgroup_version=2,
            libvirt_version="0.0.0",
            qemu_version="0.0.0",
            kernel="fake",
            shared_storage_id=read_marker(self._settings.shared_dir) or "fake-storage",
            migration_address=self._settings.underlay_address,
            cpu_models=("fake",),
            cpu_flags=self.host.cpu_flags,
            networks=self.host.networks,
            images=tuple(sorted(self.host.images)),
            numa=self.host.numa,
        )


def _define(spec: InstanceSpec, token: int) -> DomainReport:
    return DomainReport(
        uuid=spec.id,
        name=spec.name,
        instance_id=spec.id,
        kind=spec.kind,
        power="stopped",
        token=token,
        memory_mib=spec.memory_mib,
    )


def _read_disks(data: dict[str, Any]) -> dict[str, FakeDisk]:
    return {key: FakeDisk(**{**value, "ports": tuple(value["ports"])}) for key, value in data.items()}


def _write_whole(file: Path, data: dict[str, Any]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(data), "utf-8")
    part.replace(file)


def _moved(spec: InstanceSpec) -> MigrationStatus:
    memory = spec.memory_mib << 20
    return MigrationStatus(ended="moved", total_bytes=memory, done_bytes=memory)


def _under_way(spec: InstanceSpec, job: FakeJob) -> MigrationStatus:
    memory = spec.memory_mib << 20
    done = memory // (job.questions + 2)
    return MigrationStatus(total_bytes=memory, done_bytes=done, remaining_bytes=memory - done, iterations=1)


def _not_running(power: PowerState) -> MigrationStatus:
    if power == "absent":
        return MigrationStatus(ended="absent", message="no such domain is here")
    return MigrationStatus(ended="stayed", code="not_running", message=f"it is {power}")
