"""The libvirt driver of one host: VMs and containers behind the driver contract."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from compute.node.drivers.base import Capabilities, Driver, Never, RetryLater
from compute.node.drivers.libvirt import cgroups as control_groups
from compute.node.drivers.libvirt.connection import Hypervisor, SeenDomain
from compute.node.drivers.libvirt.console import read_log, trim
from compute.node.drivers.libvirt.container import ContainerKind
from compute.node.drivers.libvirt.kind import ACTIVE, PROOF_PREFIX, GuestKind, read_ports, remove_directory
from compute.node.drivers.libvirt.migration import Migrations
from compute.node.drivers.libvirt.partitions import Partitions
from compute.node.drivers.libvirt.probe import prove_host
from compute.node.drivers.libvirt.vm import VmKind
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths, instance_paths, list_instance_ids, read_marker
from compute.node.images.store import ImageStore
from compute.wire import (
    DomainLook,
    DomainReport,
    HostInventory,
    HostProof,
    InstanceSpec,
    MigrationJob,
    MigrationStatus,
    PartitionReport,
    PowerState,
    Readiness,
    TenantShares,
)

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LibvirtDriver(Driver):
    """VMs on QEMU and containers on LXC, over two supervised connections. Dials at the first call that needs it."""

    def __init__(self, settings: DriverSettings, network: PortManager) -> None:
        self._settings = settings
        self._network = network
        self._cgroups = control_groups.detect(base=settings.partition)
        settings.local_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._store = store = ImageStore(settings)
        self._partitions = Partitions(self._cgroups, base=settings.partition, file=settings.local_dir / "shares.json")
        self._vms = VmKind(
            settings, network, Hypervisor(settings.qemu_uri), self._partitions, store=store, cgroups=self._cgroups
        )
        self._containers = ContainerKind(
            settings, network, Hypervisor(settings.lxc_uri), self._partitions, store=store, cgroups=self._cgroups
        )
        self._migrations = Migrations(settings, self._vms, network, self._partitions)
        self._kinds: tuple[GuestKind, ...] = (self._vms, self._containers)

    # -- what the host is

    def capabilities(self) -> Capabilities:
        return Capabilities(
            kinds=("vm", "container"),
            modes=(self._vms.mode, "lxc"),
            live_migration=True,
            suspend_to_disk=False,
            graceful_stop=True,
        )

    def inventory(self) -> HostInventory:
        libvirt_version, qemu_version = self._vms.hypervisor.versions()
        processors = self._vms.processors(self._vms.mode)
        with _storage_errors():
            images = self._store.checked()
        return HostInventory(
            vcpus=self._settings.vcpus,
            memory_mib=self._settings.memory_mib,
            disk_gib=self._settings.disk_gib,
            virt_modes=(self._vms.mode, "lxc"),
            cpu_model=self._vms.machine(self._vms.mode).cpu_model,
            cgroup_version=self._cgroups.version,
            libvirt_version=libvirt_version,
            qemu_version=qemu_version,
            kernel=os.uname().release,
            shared_storage_id=read_marker(self._settings.shared_dir),
            migration_address=self._settings.underlay_address,
            cpu_models=processors.models,
            cpu_flags=processors.flags,
            networks=self._network.reached(),
            images=images,
            numa=self._vms.cells(),
        )

    def prove(self) -> HostProof:
        with _storage_errors():
            return prove_host(self._settings, self._vms, self._containers, self._cgroups, self.inventory)

    def list_domains(self) -> tuple[DomainReport, ...]:
        reports = []
        for kind in self._kinds:
            for seen in kind.hypervisor.list_domains():
                if not seen.name.startswith(PROOF_PREFIX):
                    reports.append(_report(kind, seen))
                    if seen.instance_id is not None:
                        self._look_after(kind, seen)
        return tuple(reports)

    def list_disks(self) -> tuple[str, ...]:
        with _storage_errors():
            return list_instance_ids(self._settings)

    def list_partitions(self) -> tuple[PartitionReport, ...]:
        with _storage_errors():
            return self._partitions.report()

    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        with _storage_errors():
            self._partitions.weigh(shares)

    def console_log(self, instance_id: str, *, max_bytes: int) -> bytes:
        with _storage_errors():
            return read_log(instance_paths(self._settings, instance_id).console, max_bytes)

    def close(self) -> None:
        self._vms.hypervisor.close()
        self._containers.close()

    # -- what the host does

    def prepare(self, spec: InstanceSpec) -> None:
        with _storage_errors():
            self._kind_of(spec).prepare(spec)

    def start(self, spec: InstanceSpec, *, token: int) -> PowerState:
        with _storage_errors():
            return self._kind_of(spec).start(spec, token)

    def stop(self, instance_id: str, *, graceful_seconds: float) -> PowerState:
        with _storage_errors():
            for kind in self._kinds:
                seen = kind.find(instance_id)
                if seen is not None:
                    return kind.stop(seen, graceful_seconds)
        return "absent"

    def reboot(self, spec: InstanceSpec, *, token: int, graceful_seconds: float) -> PowerState:
        self.stop(spec.id, graceful_seconds=graceful_seconds)
        return self.start(spec, token=token)

    def resize(self, spec: InstanceSpec, *, token: int) -> None:
        with _storage_errors():
            self._kind_of(spec).resize(spec, token)

    def remove(self, instance_id: str) -> None:
        paths = instance_paths(self._settings, instance_id)
        with _storage_errors():
            self._take_away(paths, [(kind, kind.find(instance_id)) for kind in self._kinds], disks=True)

    def withdraw(self, instance_id: str, *, paused_too: bool = False, running_too: bool = False) -> None:
        paths = instance_paths(self._settings, instance_id)
        allowed = {"running": running_too, "paused": paused_too or running_too}
        with _storage_errors():
            found = [(kind, kind.find(instance_id)) for kind in self._kinds]
            for _kind, seen in found:
                if seen is not None and seen.power in ACTIVE and not allowed[seen.power]:
                    raise Never("domain_running", f"domain {seen.name} is {seen.power} here")
            self._take_away(paths, found, disks=False)

    # -- from host to host

    def receive(self, spec: InstanceSpec, *, storage_id: str) -> Readiness:
        with _storage_errors():
            return self._migrations.receive(spec, storage_id=storage_id)

    def migrate(self, spec: InstanceSpec, job: MigrationJob, *, stop: bool) -> MigrationStatus:
        with _storage_errors():
            return self._migrations.migrate(spec, job, stop=stop)

    def look(self, instance_id: str) -> DomainLook:
        container = self._containers.find(instance_id)
        if container is not None:
            return DomainLook(container.power, persistent=container.persistent)
        return self._migrations.look(instance_id)

    def adopt(self, spec: InstanceSpec, *, token: int, resume: bool) -> PowerState:
        with _storage_errors():
            return self._migrations.adopt(spec, token=token, resume=resume)

    # -- parts

    def _take_away(
        self, paths: InstancePaths, found: list[tuple[GuestKind, SeenDomain | None]], *, disks: bool
    ) -> None:
        """Ensure that the domain as `found` by each kind, its ports and its directory on the host are gone."""
        devices = set(read_ports(paths))
        for kind, seen in found:
            if seen is not None:
                devices.update(kind.port_devices(seen))
                kind.remove(seen)
            else:
                kind.tidy(paths.local.name)
        # After the guest is off, so that nothing runs unfiltered; before the list of ports goes with its directory.
        for device in sorted(devices):
            self._network.remove_port(device)
        if disks:
            remove_directory(paths.shared)
        remove_directory(paths.local)

    def _kind_of(self, spec: InstanceSpec) -> GuestKind:
        return self._vms if spec.kind == "vm" else self._containers

    def _look_after(self, kind: GuestKind, seen: SeenDomain) -> None:
        """Small chores at every look: consoles are read after a restart of the node worker, logs stay bounded."""
        with contextlib.suppress(OSError):
            trim(instance_paths(self._settings, seen.uuid).console)
            if kind is self._containers and seen.power in ACTIVE:
                self._containers.record_console(seen)


def _report(kind: GuestKind, seen: SeenDomain) -> DomainReport:
    return DomainReport(
        uuid=seen.uuid,
        name=seen.name,
        instance_id=seen.instance_id,
        kind=kind.kind,
        power=seen.power,
        token=seen.token if seen.instance_id else 0,
        cpu_seconds=seen.cpu_seconds,
        memory_mib=seen.memory_mib,
    )


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    """Turn errors of the file system into the contract's."""
    try:
        yield
    except OSError as error:
        raise RetryLater("storage_full" if error.errno in _FULL else "storage_error", str(error)) from error
