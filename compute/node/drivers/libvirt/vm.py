"""VMs: QEMU, by translation or by KVM, whichever the host's proof found to be real."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from lxml import etree

from compute.node.drivers.base import Never
from compute.node.drivers.libvirt.cgroups import Cgroups
from compute.node.drivers.libvirt.connection import Hypervisor, SeenDomain
from compute.node.drivers.libvirt.facts import best_processor, flags_of, usable_models
from compute.node.drivers.libvirt.kind import GuestKind
from compute.node.drivers.libvirt.partitions import Partitions
from compute.node.drivers.libvirt.xml_vm import HOST_PROCESSOR, Machine, build_vm
from compute.node.drivers.network import PortManager
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths, image_paths
from compute.node.images.qcow2 import create_overlay, resize_overlay
from compute.node.images.seed import write_seed_iso
from compute.node.images.store import ImageStore
from compute.wire import InstanceSpec, Kind

VmMode = Literal["kvm", "qemu"]
# Best first; the first that the host can offer is taken. All are old enough that any server of a pool has them, so a
# guest can move; Nehalem is the least that current enterprise distributions start on.
CPU_MODELS: Final = ("Westmere", "Nehalem", "qemu64")
MACHINE_FAMILY: Final = re.compile(r"pc-q35-(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Processors:
    """What VMs of one mode can be given here: named models, and flags beyond those of a model."""

    models: tuple[str, ...]
    flags: tuple[str, ...]


class VmKind(GuestKind):
    """The VMs of this host."""

    kind: Kind = "vm"
    log_folder = "qemu"

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
        self._mode_file = settings.local_dir / "vm-mode"
        self._machines: dict[VmMode, Machine] = {}
        self._processors: dict[VmMode, Processors] = {}
        self._lock = threading.Lock()

    # -- how VMs run here

    @property
    def mode(self) -> VmMode:
        """The mode that the last proof found; translation until there was one, since it runs anywhere."""
        try:
            return "kvm" if self._mode_file.read_text("utf-8").strip() == "kvm" else "qemu"
        except FileNotFoundError:
            return "qemu"

    def choose_mode(self, mode: VmMode) -> None:
        """Keep the proof's finding for all VMs that are started from now on."""
        part = self._mode_file.with_suffix(".part")
        part.write_text(mode, "utf-8")
        part.replace(self._mode_file)

    def machine(self, mode: VmMode) -> Machine:
        """Return machine type and processor model for a mode. Asks libvirt once. Raises Never, Unknown."""
        with self._lock:
            known = self._machines.get(mode)
        if known is not None:
            return known
        usable = self.processors(mode).models
        models: list[str] = [model for model in CPU_MODELS if model in usable]
        if not models and mode == "kvm":
            # A processor that libvirt knows no model for: guests get it as it is, and can move to its like only.
            models = [HOST_PROCESSOR]
        if not models:
            raise Never("cpu_model_missing", f"this host offers none of {', '.join(CPU_MODELS)} in mode {mode}")
        found = Machine(mode, self._machine_type, models[0], self._cache)
        with self._lock:
            return self._machines.setdefault(mode, found)

    def processors(self, mode: VmMode) -> Processors:
        """Return what processors VMs can be given in a mode. Asks libvirt once. Raises Never, Unknown."""
        with self._lock:
            known = self._processors.get(mode)
        if known is not None:
            return known
        capabilities = self.hypervisor.domain_capabilities(mode)
        best = best_processor(capabilities)
        flags: tuple[str, ...] = ()
        with contextlib.suppress(Never):  # no flags then: nobody who asks for one is sent here
            flags = flags_of(self.hypervisor.expanded(best, mode)) if best is not None else ()
        with self._lock:
            return self._processors.setdefault(mode, Processors(usable_models(capabilities), flags))

    @cached_property
    def _machine_type(self) -> str:
        names = self.hypervisor.machine_types()
        versions = [(int(match[1]), int(match[2])) for name in names if (match := MACHINE_FAMILY.fullmatch(name))]
        if not versions:
            raise Never("machine_missing", "this QEMU has no versioned q35 machine")
        return "pc-q35-{}.{}".format(*max(versions))

    @cached_property
    def _cache(self) -> Literal["none", "writeback"]:
        """`none` goes past the host's page cache, which live migration needs; some file systems cannot."""
        probe = self._settings.shared_dir / f".direct-{os.getpid()}"
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600))
        except OSError:
            return "writeback"
        finally:
            probe.unlink(missing_ok=True)
        return "none"

    # -- GuestKind

    def check_image(self, spec: InstanceSpec) -> None:
        paths = self._store.ensure_usable(spec.disk.image)
        self._store.header(spec.disk.image, paths, size_gib=spec.disk.size_gib)

    def prepare_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        image = spec.disk.image
        if image.format == "rootfs-tar":
            raise Never("image_corrupt", "a root archive cannot be the disk of a VM")
        if not paths.disk.is_file():
            part = _fresh(paths.disk)
            create_overlay(image_paths(self._settings, image).disk, image.format, part, size_gib=spec.disk.size_gib)
            part.chmod(0o600)
            part.replace(paths.disk)
        if not paths.seed.is_file():
            part = _fresh(paths.seed)
            write_seed_iso(spec, part)
            part.replace(paths.seed)

    def has_storage(self, paths: InstancePaths) -> bool:
        return paths.seed.is_file() and paths.disk.is_file()

    def resize_storage(self, spec: InstanceSpec, paths: InstancePaths) -> None:
        resize_overlay(paths.disk, size_gib=spec.disk.size_gib)

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
        return build_vm(
            spec,
            token=token,
            name=name,
            machine=self.machine(self.mode),
            cgroups=self._cgroups,
            settings=self._settings,
            image=image_paths(self._settings, spec.disk.image),
            paths=paths,
            bridges=bridges,
            partition=partition,
            shared_cpus=self.shared_cpus(spec),
        )

    def settle(self, spec: InstanceSpec, seen: SeenDomain, paths: InstancePaths) -> None:
        pass  # QEMU keeps all of its promises by itself

    def ask(self, instance_id: str, attempt: int) -> None:
        # The button first: it needs no agent and returns at once. An agent that hangs holds a call for seconds.
        self.hypervisor.ask_to_stop(instance_id, agent=attempt % 2 == 1)

    def sweep(self, name: str) -> None:
        pass  # libvirt's QEMU driver leaves nothing under a name but its log

    def tidy(self, instance_id: str) -> None:
        pass  # libvirt removes sockets and groups of a QEMU that ended


def _fresh(path: Path) -> Path:
    """Return the temporary name for a file, with nothing under it: a worker may have died while it wrote there."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    return part
