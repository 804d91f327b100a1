"""Enrolment by proof: what a host shows before it may carry instances.

A device node or a version number proves nothing: there are machines whose /dev/kvm answers and whose guests hang.
So a real kernel is booted to its init in each mode, and the faster mode is used; a real container is run, and asked
whether it is confined. The files for that lie in shared storage under `proof/`: `kernel`, `initrd` (with busybox in
/bin) and `root.tar` (a container's root with /bin/sh).
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from lxml import etree

from compute.node.drivers.base import DriverError, Never
from compute.node.drivers.libvirt.cgroups import Cgroups, forget_processes, limit_processes
from compute.node.drivers.libvirt.connection import Hypervisor
from compute.node.drivers.libvirt.container import ContainerKind
from compute.node.drivers.libvirt.cpio import write_archive
from compute.node.drivers.libvirt.kind import PROOF_PREFIX
from compute.node.drivers.libvirt.vm import VmKind, VmMode
from compute.node.drivers.libvirt.xml import node, to_text
from compute.node.drivers.libvirt.xml_container import build_container
from compute.node.drivers.libvirt.xml_vm import Machine, add_processor
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths, read_marker
from compute.node.images.rootfs import unpack
from compute.wire import DiskSpec, HostInventory, HostProof, ImageRef, InstanceSpec, ProofStep

MODES: Final[tuple[VmMode, ...]] = ("kvm", "qemu")
BOOT_SECONDS: Final[dict[VmMode, float]] = {"kvm": 20.0, "qemu": 180.0}  # translation on a busy machine is slow
CONTAINER_SECONDS: Final = 15.0
CLOCK_SKEW_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.02
STALE_SECONDS: Final = 600.0
MARK: Final = b"CENOTE-PROOF-UP"
# The loop is work for the processor in user mode, where bad virtualization is slowest.
VM_INIT: Final = b"""#!/bin/busybox sh
i=0
while [ $i -lt 5000 ]; do i=$((i+1)); done
echo CENOTE-PROOF-UP
/bin/busybox sleep 1
/bin/busybox poweroff -f
"""
# Opened, not asked about: `test -w` says yes to whoever is root, also where the open is refused.
CONTAINER_INIT: Final = """
umask 022
{ read -r first outside count </proc/self/uid_map; echo "uid $first $outside $count"; } >/proof.part
mknod /proof.node c 1 3 2>/dev/null && echo "mknod worked" >>/proof.part
(: >>/proc/sysrq-trigger) 2>/dev/null && echo "sysrq writable" >>/proof.part
mv /proof.part /proof
sleep 60
"""


class _Failed(Exception):
    """A check that did not hold; the text is for the operator."""


def prove_host(
    settings: DriverSettings,
    vms: VmKind,
    containers: ContainerKind,
    cgroups: Cgroups,
    inventory: Callable[[], HostInventory],
) -> HostProof:
    """Run all checks, keep the faster VM mode for this host, and leave nothing behind. Raises Unknown, Never."""
    _sweep(settings, vms.hypervisor, containers.hypervisor)
    steps = [
        _step("libvirt", lambda: _check_versions(vms, containers)),
        _step("storage", lambda: _check_storage(settings)),
        _step("clock", lambda: _check_clock(settings)),
        _step("cgroups", lambda: _check_cgroups(cgroups)),
    ]
    with _scratch(settings) as scratch:
        boots = {mode: _step(f"boot_{mode}", functools.partial(_boot, settings, vms, mode, scratch)) for mode in MODES}
        steps.append(_step("container", lambda: _check_container(settings, containers, cgroups, scratch)))
    booted = sorted((boots[mode].seconds, mode) for mode in MODES if boots[mode].ok)
    chosen = booted[0][1] if booted else None
    if chosen is not None:
        vms.choose_mode(chosen)
    steps.append(_vm_verdict(boots, chosen))
    return HostProof(steps=tuple(steps), inventory=inventory(), vm_mode=chosen)


def _vm_verdict(boots: dict[VmMode, ProofStep], chosen: VmMode | None) -> ProofStep:
    told = "; ".join(f"{mode}: {step.detail}" for mode, step in boots.items())
    if chosen is None:
        return ProofStep("vm", False, f"no guest kernel came up. {told}")
    names = {"kvm": "hardware virtualization (KVM)", "qemu": "QEMU's translation"}
    return ProofStep("vm", True, f"VMs run on {names[chosen]}. {told}", boots[chosen].seconds)


def _step(name: str, check: Callable[[], str]) -> ProofStep:
    begun = time.monotonic()
    try:
        ok, detail = True, check()
    except (DriverError, _Failed, OSError) as error:
        ok, detail = False, " ".join(str(error).split())
    return ProofStep(name, ok, detail, round(time.monotonic() - begun, 3))


# -- checks


def _check_versions(vms: VmKind, containers: ContainerKind) -> str:
    libvirt_version, qemu_version = vms.hypervisor.versions()
    containers.hypervisor.versions()  # dials LXC, too
    return f"libvirt {libvirt_version} with QEMU {qemu_version} and LXC"


def _check_storage(settings: DriverSettings) -> str:
    marker = read_marker(settings.shared_dir)
    if not marker:
        raise _Failed(f"{settings.shared_dir} has no storage marker: is the pool's storage mounted there?")
    probe = settings.shared_dir / f".proof-{uuid.uuid4()}"
    content = os.urandom(4096)
    try:
        with probe.open("xb") as file:
            file.write(content)
            os.fsync(file.fileno())
        if probe.read_bytes() != content:
            raise _Failed(f"{settings.shared_dir} gave back other bytes than were written")
    finally:
        probe.unlink(missing_ok=True)
    room = shutil.disk_usage(settings.shared_dir).free >> 30
    return f"storage {marker} is readable and writable, {room} GiB free"


def _check_clock(settings: DriverSettings) -> str:
    """Hold the host's clock against the storage's, which all hosts of the pool share."""
    probe = settings.shared_dir / f".proof-{uuid.uuid4()}"
    try:
        probe.touch()
        skew = abs(probe.stat().st_mtime - time.time())
    finally:
        probe.unlink(missing_ok=True)
    if skew > CLOCK_SKEW_SECONDS:
        raise _Failed(f"the host's clock is {skew:.1f} s away from the storage's")
    return "the clock agrees with the storage's"


def _check_cgroups(cgroups: Cgroups) -> str:
    if cgroups.version == 0:
        raise _Failed("no control groups: instances could not be kept to their share")
    if "memory" not in cgroups.features:
        raise _Failed("the kernel cannot limit a container's memory")
    missing = ", ".join(cgroups.missing)
    note = f"; this kernel cannot do {missing}, which is left out" if missing else ""
    return f"control groups version {cgroups.version}{note}"


def _boot(settings: DriverSettings, vms: VmKind, mode: VmMode, scratch: Path) -> str:
    """Boot the proof kernel to its init in this mode; return a sentence with the time it took."""
    if mode == "kvm" and not os.path.exists("/dev/kvm"):
        raise _Failed("there is no /dev/kvm")
    machine = vms.machine(mode)
    kernel, initrd = _need(settings, "kernel"), _need(settings, "initrd")
    log = scratch / f"{mode}.log"
    # Several archives in a row unpack one over the other: this adds our init to the image's own initrd.
    combined = scratch / f"{mode}.initrd"
    with combined.open("wb") as file:
        file.write(initrd.read_bytes())
        write_archive(file, {"cenote-proof": (VM_INIT, 0o755)})
    domain_id = str(uuid.uuid4())
    begun = time.monotonic()
    try:
        vms.hypervisor.create_transient(to_text(_proof_vm(domain_id, machine, kernel, combined, log)))
        while time.monotonic() - begun < BOOT_SECONDS[mode]:
            if log.exists() and MARK in log.read_bytes():
                return f"a guest kernel reached its init in {time.monotonic() - begun:.1f} s"
            if vms.hypervisor.find(domain_id) is None:
                break
            time.sleep(POLL_SECONDS)
        said = log.read_bytes()[-200:].decode(errors="replace") if log.exists() else ""
        raise _Failed(f"no init within {BOOT_SECONDS[mode]:.0f} s; the guest's last words: {said!r}")
    finally:
        vms.hypervisor.cut_power(domain_id)


def _check_container(settings: DriverSettings, containers: ContainerKind, cgroups: Cgroups, scratch: Path) -> str:
    archive = _need(settings, "root.tar")
    paths = InstancePaths(scratch, scratch)
    paths.rootfs.mkdir(mode=0o755)
    unpack(archive, paths.rootfs, settings)
    spec = _container_spec()
    init = ("/bin/sh", "-c", CONTAINER_INIT)
    domain = build_container(
        spec,
        token=0,
        name=f"{PROOF_PREFIX}{spec.id}",
        cgroups=cgroups,
        settings=settings,
        paths=paths,
        bridges=(),
        init=init,
    )
    begun = time.monotonic()
    try:
        containers.hypervisor.create_transient(to_text(domain))
        result = paths.rootfs / "proof"
        while not result.exists():
            if time.monotonic() - begun > CONTAINER_SECONDS:
                raise _Failed(f"the container's init did not run within {CONTAINER_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)
        _check_confinement(result, settings)
        seen = containers.hypervisor.find(spec.id)
        if "pids" in cgroups.features and not (
            seen and limit_processes(cgroups, instance_id=spec.id, controller_pid=seen.pid, limit=spec.pids_limit)
        ):
            raise _Failed("the container's number of processes could not be limited")
    finally:
        containers.hypervisor.cut_power(spec.id)
        forget_processes(cgroups, spec.id)
    return f"an unprivileged container ran in {time.monotonic() - begun:.1f} s, its root is {settings.idmap_base} here"


def _check_confinement(result: Path, settings: DriverSettings) -> None:
    # The container wrote this: it is read as text of a regular file, and compared, nothing more.
    descriptor = os.open(result, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        lines = file.read(4096).decode(errors="replace").splitlines()
    expected = f"uid 0 {settings.idmap_base} {settings.idmap_count}"
    if lines != [expected]:
        raise _Failed(f"the container is not confined: expected {expected!r} alone, it said {lines!r}")


# -- what is booted


def _need(settings: DriverSettings, name: str) -> Path:
    path = settings.shared_dir / "proof" / name
    if not path.is_file():
        raise Never("proof_missing", f"no {path}: the proof needs it in the pool's storage")
    return path


def _proof_vm(domain_id: str, machine: Machine, kernel: Path, initrd: Path, log: Path) -> etree._Element:
    domain = etree.Element("domain", type=machine.mode)
    node(domain, "name", f"{PROOF_PREFIX}{domain_id}")
    node(domain, "uuid", domain_id)
    node(domain, "memory", "128", unit="MiB")
    node(domain, "vcpu", "1")
    system = node(domain, "os")
    node(system, "type", "hvm", arch="x86_64", machine=machine.machine)
    node(system, "kernel", str(kernel))
    node(system, "initrd", str(initrd))
    node(system, "cmdline", "console=ttyS0 quiet rdinit=/cenote-proof panic=-1")
    node(node(domain, "features"), "acpi")
    add_processor(domain, machine)
    node(domain, "on_reboot", "destroy")
    devices = node(domain, "devices")
    node(devices, "controller", type_="usb", model="none")
    serial = node(devices, "serial", type_="file")
    node(serial, "source", path=str(log))
    node(serial, "target", port=0)
    node(devices, "memballoon", model="none")
    return domain


def _container_spec() -> InstanceSpec:
    instance_id = str(uuid.uuid4())
    image = ImageRef(id=instance_id, format="rootfs-tar", sha256="", size_bytes=0, virtual_size_gib=0, boot="init")
    return InstanceSpec(
        id=instance_id,
        tenant_id=instance_id,
        name="proof",
        kind="container",
        vcpus=1,
        memory_mib=64,
        disk=DiskSpec(id=instance_id, size_gib=1, image=image),
        nics=(),
        pids_limit=256,
    )


# -- leaving nothing behind


@contextlib.contextmanager
def _scratch(settings: DriverSettings) -> Iterator[Path]:
    """A directory in shared storage, where instances live: if a container cannot reach it there, that is a finding."""
    directory = settings.shared_dir / f".proof-{uuid.uuid4()}"
    directory.mkdir(mode=0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _sweep(settings: DriverSettings, *hypervisors: Hypervisor) -> None:
    """Take away what an earlier proof left when its process was killed. Other hosts' running proofs are left alone."""
    for hypervisor in hypervisors:
        for seen in hypervisor.list_domains():
            if seen.name.startswith(PROOF_PREFIX):
                hypervisor.cut_power(seen.uuid)
    for path in settings.shared_dir.glob(".proof-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
