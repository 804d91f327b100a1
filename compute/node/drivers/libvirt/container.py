"""System containers: libvirt's LXC driver, always unprivileged."""

from __future__ import annotations

import contextlib
import shutil
from typing import Final

from lxml import etree

from compute.node.drivers.base import Never, RetryLater
from compute.node.drivers.libvirt.cgroups import Cgroups, forbid_swap, forget_processes, limit_processes
from compute.node.drivers.libvirt.connection import Hypervisor, SeenDomain
from compute.node.drivers.libvirt.console import ConsoleRecorder
from compute.node.drivers.libvirt.kind import GuestKind
from compute.node.drivers.libvirt.metadata import PARSER
from compute.node.drivers.libvirt.partitions import Partitions
from compute.node.drivers.libvirt.xml_container import build_container
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths, image_paths, instance_paths
from compute.node.images.rootfs import copy_tree, ensure_tree, plant_seed
from compute.node.images.store import ImageStore
from compute.wire import InstanceSpec, Kind

_MOUNT_POINTS: Final = ("dev", "devpts", "fuse")


class ContainerKind(GuestKind):
    """The containers of this host."""

    kind: Kind = "container"
    log_folder = "lxc"

    def __init__(
        self,
        settings: DriverSettings,
        network: PortManager,
        hypervisor: Hypervisor,
        partitions: Partitions,
        *,
        store: ImageStore,
        cgroups: Cgroups,
    ) -> None:
        super().__init__(settings, network, hypervisor, partitions)
        self._store = store
        self._cgroups = cgroups
        self._consoles = ConsoleRecorder()

    def check_image(self, spec: InstanceSpec) -> None:
        if spec.disk.image.format != "rootfs-tar":
            raise Never("image_corrupt", "a container needs a root archive")
        self._store.ensure_usable(spec.disk.image)

    def prepare_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        image = image_paths(self._settings, spec.disk.image)
        ensure_tree(image.disk, image.tree, self._settings)
        part = paths.rootfs.with_name("rootfs.part")
        if part.exists():
            shutil.rmtree(part)
        copy_tree(image.tree, part)
        plant_seed(part, spec, self._settings)
        part.rename(paths.rootfs)

    def has_storage(self, paths: InstancePaths) -> bool:
        return paths.rootfs.is_dir()

    def resize_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        pass  # a tree in the storage's file system, without a size of its own

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
        return build_container(
            spec,
            token=token,
            name=name,
            cgroups=self._cgroups,
            settings=self._settings,
            paths=paths,
            bridges=bridges,
            partition=partition,
            shared_cpus=self.shared_cpus(spec),
        )

    def settle(self, spec: InstanceSpec, seen: SeenDomain, paths: InstancePaths) -> None:
        self.record_console(seen)
        forbid_swap(self._cgroups, seen.pid)
        if "pids" not in self._cgroups.features:
            return  # the host's proof says so
        limited = limit_processes(self._cgroups, instance_id=spec.id, controller_pid=seen.pid, limit=spec.pids_limit)
        # A container that ended meanwhile has nothing left to limit; the next look at it will tell.
        if not limited and self._power(spec.id) == "running":
            raise RetryLater("limit_failed", f"container {spec.id} escaped its process limit of {spec.pids_limit}")

    def ask(self, instance_id: str, attempt: int) -> None:
        self.hypervisor.ask_to_stop(instance_id, agent=True)

    def sweep(self, name: str) -> None:
        directory = self._settings.libvirt_run_dir / "lxc"
        for ending in _MOUNT_POINTS:
            # Only ever an empty directory: what is still mounted there must not be emptied.
            with contextlib.suppress(OSError):
                (directory / f"{name}.{ending}").rmdir()
        (directory / f"{name}.sock").unlink(missing_ok=True)

    def tidy(self, instance_id: str) -> None:
        self._consoles.detach(instance_id)
        forget_processes(self._cgroups, instance_id)

    def record_console(self, seen: SeenDomain) -> None:
        """Ensure that a running container's console is read. Costs a call only when it is not yet."""
        if self._consoles.is_attached(seen.uuid):
            return
        xml = self.hypervisor.definition(seen.uuid)
        source = etree.fromstring(xml.encode(), PARSER).find("devices/console/source") if xml else None
        if source is not None and (pty := source.get("path")):
            log = instance_paths(self._settings, seen.uuid).console
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._consoles.attach(seen.uuid, pty, log)

    def close(self) -> None:
        """Stop reading consoles and let go of the connection."""
        self._consoles.close()
        self.hypervisor.close()
