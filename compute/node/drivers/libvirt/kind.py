"""What VMs and containers have in common: the ensures over one libvirt connection.

Each method observes, decides, acts, and observes again; libvirt's own answers are never taken for the state.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lxml import etree

from compute.node.drivers.base import Never, RetryLater, Unknown
from compute.node.drivers.cpus import check_cells, shared_cpus
from compute.node.drivers.libvirt.connection import Hypervisor, SeenDomain
from compute.node.drivers.libvirt.facts import huge_sizes, numa_cells
from compute.node.drivers.libvirt.metadata import PARSER, metadata_text
from compute.node.drivers.libvirt.partitions import Partitions
from compute.node.drivers.libvirt.xml import to_text
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths, instance_paths, trash_path
from compute.wire import InstanceSpec, Kind, NumaCell, PowerState

ACTIVE: Final = frozenset({"running", "paused"})
ASK_AGAIN_SECONDS: Final = 5.0  # a guest that is still booting misses the first press of its power button
POLL_SECONDS: Final = 0.05
CUT_SECONDS: Final = 15.0
PROOF_PREFIX: Final = "cenote-proof-"


class GuestKind(abc.ABC):
    """The instances of one kind on this host."""

    kind: Kind
    log_folder: str  # of the daemon's logs, one for each domain name

    def __init__(
        self, settings: DriverSettings, network: PortManager, hypervisor: Hypervisor, partitions: Partitions
    ) -> None:
        self._settings = settings
        self._network = network
        self._partitions = partitions
        self.hypervisor = hypervisor

    # -- what the kinds do differently

    @abc.abstractmethod
    def prepare_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        """Ensure disk or tree, and seed. The directories exist; the instance is not running."""

    @abc.abstractmethod
    def check_image(self, spec: InstanceSpec) -> None:
        """Check that the image is whole and the disk large enough for it. Makes nothing for the instance."""

    @abc.abstractmethod
    def has_storage(self, paths: InstancePaths) -> bool:
        """Return whether `prepare_storage` came to its end."""

    @abc.abstractmethod
    def resize_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        """Bring the disk to the size that the spec says. The instance is not running."""

    @abc.abstractmethod
    def build(
        self,
        spec: InstanceSpec,
        paths: InstancePaths,
        *,
        token: int,
        name: str | None,
        bridges: tuple[str, ...],
        partition: str | None,
    ) -> etree._Element:
        """Return the domain."""

    @abc.abstractmethod
    def settle(self, spec: InstanceSpec, seen: SeenDomain, paths: InstancePaths) -> None:
        """Ensure what libvirt does not do for a running instance."""

    @abc.abstractmethod
    def ask(self, instance_id: str, attempt: int) -> None:
        """Ask the guest to shut down, for the `attempt`-th time (from 0)."""

    @abc.abstractmethod
    def sweep(self, name: str) -> None:
        """Take away what libvirt leaves behind for a domain name that is no more."""

    @abc.abstractmethod
    def tidy(self, instance_id: str) -> None:
        """Take away what the kind left on the host for an instance that is off."""

    # -- processors

    def cells(self) -> tuple[NumaCell, ...]:
        """Return the NUMA cells of the slice, as they are now. Raises Unknown."""
        capabilities = self.hypervisor.capabilities()
        settings = self._settings
        free = {}
        if settings.huge_pages:
            numbers = [cell.id for cell in numa_cells(capabilities, {})]
            free = self.hypervisor.free_pages(huge_sizes(capabilities), numbers)
        found = numa_cells(capabilities, free, cpus=settings.cpus, dedicated=settings.dedicated_cpus)
        return found if settings.huge_pages else tuple(dataclasses.replace(cell, huge_pages=()) for cell in found)

    def shared_cpus(self, spec: InstanceSpec) -> tuple[int, ...]:
        """Return where the guest's threads run that have no CPU to themselves; () for anywhere.

        Raises Never("cells_refused"), Unknown.
        """
        if not (spec.cells or self._settings.cpus or self._settings.dedicated_cpus):
            return ()
        cells = self.cells()
        check_cells(spec, cells)
        return shared_cpus(spec, cells)

    # -- the ensures

    def find(self, instance_id: str) -> SeenDomain | None:
        """Return the instance's domain. Raises Never("foreign_domain") when the UUID is another's, Unknown."""
        seen = self.hypervisor.find(instance_id)
        if seen is not None and seen.instance_id != instance_id:
            raise Never("foreign_domain", f"domain {seen.name} has the UUID {instance_id} and is not Cenote's")
        return seen

    def prepare(self, spec: InstanceSpec) -> None:
        """See Driver.prepare."""
        if spec.disk.image.virtual_size_gib > spec.disk.size_gib:
            raise Never(
                "disk_too_small", f"{spec.disk.size_gib} GiB, the image needs {spec.disk.image.virtual_size_gib}"
            )
        self.check_image(spec)
        paths = instance_paths(self._settings, spec.id)
        # Others pass through to an unprivileged container's tree; the files themselves are 0600.
        paths.shared.mkdir(mode=0o711, parents=True, exist_ok=True)
        if not self.has_storage(paths):
            seen = self.find(spec.id)
            if seen is None or seen.power not in ACTIVE:
                self.prepare_storage(spec, paths)
        self.make_room(spec)

    def make_room(self, spec: InstanceSpec) -> None:
        """Ensure what is a host's own for an instance whose disk is in shared storage: its directory, its ports."""
        paths = instance_paths(self._settings, spec.id)
        paths.local.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written before the first port exists: a removal after a crash finds them by it.
        _write_ports(paths, [nic.device for nic in spec.nics])
        for nic in spec.nics:
            self._network.ensure_port(nic)

    def define_anew(self, spec: InstanceSpec, token: int, seen: SeenDomain) -> None:
        """Ensure that the next boot of a domain, which may run, is what the spec says. Raises Never, Unknown."""
        with self._partitions.hold(spec.partition) as partition:
            self._define(spec, token, seen, instance_paths(self._settings, spec.id), partition)

    def start(self, spec: InstanceSpec, token: int) -> PowerState:
        """See Driver.start."""
        paths = instance_paths(self._settings, spec.id)
        seen = self.find(spec.id)
        if seen is not None and seen.power in ACTIVE:
            self.hypervisor.set_metadata(spec.id, metadata_text(spec, token), live=True)
            if seen.power == "paused":
                self.hypervisor.resume(spec.id)
        else:
            if not self.has_storage(paths):
                raise Never("disk_missing", f"{paths.shared} was not prepared")
            self._define_and_run(spec, token, seen, paths)
        seen = self.find(spec.id)
        power = "absent" if seen is None else seen.power
        if seen is None or power != "running":
            raise Never("start_failed", f"domain {spec.id} is {power} right after its start")
        self.settle(spec, seen, paths)
        return power

    def stop(self, seen: SeenDomain, graceful_seconds: float) -> PowerState:
        """See Driver.stop."""
        power: PowerState = seen.power
        if power in ACTIVE and graceful_seconds > 0:
            power = self._stop_gracefully(seen.uuid, graceful_seconds)
        if power in ACTIVE:
            power = self._cut(seen.uuid)
        self.tidy(seen.uuid)
        return power

    def resize(self, spec: InstanceSpec, token: int) -> None:
        """See Driver.resize."""
        paths = instance_paths(self._settings, spec.id)
        seen = self.find(spec.id)
        if seen is not None and seen.power in ACTIVE:
            raise Never("domain_running", f"domain {spec.id} is {seen.power}; only a stopped instance is resized")
        if not self.has_storage(paths):
            raise Never("disk_missing", f"{paths.shared} was not prepared")
        # The definition first: what can still be refused comes before what is not simply written back.
        with self._partitions.hold(spec.partition) as partition:
            self._define(spec, token, seen, paths, partition)
        self.resize_storage(spec, paths)

    def remove(self, seen: SeenDomain) -> None:
        """Ensure that domain, definition and the daemon's own files on it are gone."""
        if seen.power in ACTIVE:
            self._cut(seen.uuid)
        self.hypervisor.undefine(seen.uuid)
        self.tidy(seen.uuid)
        (self._settings.libvirt_log_dir / self.log_folder / f"{seen.name}.log").unlink(missing_ok=True)
        self.sweep(seen.name)

    def port_devices(self, seen: SeenDomain) -> Iterator[str]:
        """Yield the device names in the instance's definition."""
        xml = self.hypervisor.definition(seen.uuid)
        if xml is not None:
            for target in etree.fromstring(xml.encode(), PARSER).iterfind("devices/interface/target"):
                if name := target.get("dev"):
                    yield name

    # -- parts

    def _define_and_run(self, spec: InstanceSpec, token: int, seen: SeenDomain | None, paths: InstancePaths) -> None:
        # Again, since the host may have been rebooted: filters do not outlive that.
        self.make_room(spec)
        with self._partitions.hold(spec.partition) as partition:
            self._define(spec, token, seen, paths, partition)
            self.hypervisor.create(spec.id)

    def _define(
        self, spec: InstanceSpec, token: int, seen: SeenDomain | None, paths: InstancePaths, partition: str | None
    ) -> None:
        bridges = tuple(self._network.bridge_name(nic.network) for nic in spec.nics)
        name = seen.name if seen else None
        domain = self.build(spec, paths, token=token, name=name, bridges=bridges, partition=partition)
        try:
            self.hypervisor.define(to_text(domain))
        except Never as error:
            # Another thread or an earlier, lost call may have defined it under this UUID meanwhile: that is as well.
            if error.code != "name_taken" or self.find(spec.id) is None:
                raise

    def _stop_gracefully(self, uuid: str, seconds: float) -> PowerState:
        deadline = time.monotonic() + seconds
        attempt, ask_at = 0, time.monotonic()
        while True:
            now = time.monotonic()
            if now >= ask_at and now < deadline:
                # No agent, no init control: a guest that cannot be asked has its power cut in the end.
                with contextlib.suppress(RetryLater, Never):
                    self.ask(uuid, attempt)
                attempt, ask_at = attempt + 1, now + ASK_AGAIN_SECONDS
            power = self._power(uuid)
            if power not in ACTIVE or time.monotonic() >= deadline:
                return power
            time.sleep(POLL_SECONDS)

    def _cut(self, uuid: str) -> PowerState:
        deadline = time.monotonic() + CUT_SECONDS
        failure: RetryLater | Unknown | None = None
        while True:
            try:
                self.hypervisor.cut_power(uuid)
            except (RetryLater, Unknown) as error:
                # "Some processes refused to die" today may be dead a moment later: what counts is what is seen.
                failure = error
            power = self._power(uuid)
            if power not in ACTIVE:
                return power
            if time.monotonic() > deadline:
                raise RetryLater("stop_failed", f"domain {uuid} is still {power}: {failure}")
            time.sleep(POLL_SECONDS * 4)

    def _power(self, uuid: str) -> PowerState:
        seen = self.hypervisor.find(uuid)
        return "absent" if seen is None else seen.power


def read_ports(paths: InstancePaths) -> list[str]:
    """Return the device names that `prepare` wrote down; empty when it did not come so far."""
    try:
        return [str(name) for name in json.loads(paths.ports.read_text("utf-8"))]
    except (FileNotFoundError, ValueError):
        return []


def remove_directory(directory: Path) -> None:
    """Ensure that a directory is gone. The rename makes it disappear at once; a crash leaves only the renamed one."""
    trash = trash_path(directory)
    if trash.exists():
        shutil.rmtree(trash)
    try:
        directory.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash)


def _write_ports(paths: InstancePaths, devices: list[str]) -> None:
    text = json.dumps(devices)
    try:
        if paths.ports.read_text("utf-8") == text:
            return
    except FileNotFoundError:
        pass
    part = paths.ports.with_name(f"ports.{os.getpid()}.part")
    part.write_text(text, "utf-8")
    part.replace(paths.ports)
