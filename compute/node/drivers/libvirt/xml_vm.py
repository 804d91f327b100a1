"""The domain of a VM, built from its spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from lxml import etree

from compute.node.drivers.cpus import cpu_list
from compute.node.drivers.libvirt.cgroups import Cgroups
from compute.node.drivers.libvirt.metadata import metadata_element
from compute.node.drivers.libvirt.xml import add_memory_cells, add_partition, check_allowed, domain_name, node
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import ImagePaths, InstancePaths
from compute.wire import CellSpec, InstanceSpec

AGENT_CHANNEL: Final = "org.qemu.guest_agent.0"
RANDOM: Final = "/dev/urandom"
HOST_PROCESSOR: Final = "host-passthrough"
_ELEMENTS = """
    name uuid metadata memory currentMemory memoryBacking memoryBacking/hugepages memoryBacking/hugepages/page
    vcpu cputune cputune/shares cputune/vcpupin cputune/emulatorpin numatune numatune/memory numatune/memnode blkiotune blkiotune/weight
    resource resource/partition
    os os/type os/kernel os/initrd os/cmdline os/boot features features/acpi features/apic
    cpu cpu/model cpu/feature cpu/numa cpu/numa/cell clock clock/timer on_poweroff on_reboot on_crash
    devices devices/disk devices/disk/driver devices/disk/source devices/disk/target devices/disk/readonly
    devices/disk/boot devices/interface devices/interface/mac devices/interface/source devices/interface/target
    devices/interface/model devices/interface/mtu devices/controller devices/serial devices/serial/log
    devices/serial/target devices/console devices/console/target devices/channel devices/channel/target
    devices/graphics devices/graphics/listen devices/video devices/video/model devices/rng devices/rng/backend
    devices/memballoon
"""
ALLOWED: Final = frozenset(_ELEMENTS.split())


@dataclass(frozen=True, slots=True)
class Machine:
    """What the host decided for its VMs once: how they run, and as which machine. The same for a whole pool's life."""

    mode: Literal["kvm", "qemu"]
    machine: str  # versioned ("pc-q35-7.2"), so that a newer QEMU goes on showing guests the machine they know
    cpu_model: str
    cache: Literal["none", "writeback"] = "none"


def build_vm(
    spec: InstanceSpec,
    *,
    token: int,
    name: str | None,
    machine: Machine,
    cgroups: Cgroups,
    settings: DriverSettings,
    image: ImagePaths,
    paths: InstancePaths,
    bridges: tuple[str, ...],
    partition: str | None = None,
    shared_cpus: tuple[int, ...] = (),
) -> etree._Element:
    """Return the domain. `bridges` are those of `spec.nics`, in order; `name` keeps the one a defined domain has.

    `shared_cpus`: where the threads run that have no CPU to themselves; () for anywhere.

    Raises Never("definition_refused").
    """
    domain = etree.Element("domain", type=machine.mode)
    node(domain, "name", name or domain_name(spec))
    node(domain, "uuid", spec.id)
    node(domain, "metadata").append(metadata_element(spec, token))
    node(domain, "memory", str(spec.memory_mib), unit="MiB")
    node(domain, "currentMemory", str(spec.memory_mib), unit="MiB")
    if spec.cells and (size := spec.cells[0].page_kib):
        node(node(node(domain, "memoryBacking"), "hugepages"), "page", size=size, unit="KiB")
    vcpus = node(domain, "vcpu", str(spec.vcpus), placement="static")
    if shared_cpus:
        vcpus.set("cpuset", cpu_list(shared_cpus))
    _add_cpu_tuning(domain, spec, cgroups, shared_cpus)
    add_memory_cells(domain, spec)
    if "io_weight" in cgroups.features:
        node(node(domain, "blkiotune"), "weight", str(spec.io_weight))
    add_partition(domain, partition)
    _add_boot(domain, spec, machine, image)
    _add_devices(node(domain, "devices"), spec, machine, paths, bridges)
    check_allowed(domain, ALLOWED, directories=(settings.shared_dir, settings.local_dir), files=(RANDOM,))
    return domain


def _add_cpu_tuning(domain: etree._Element, spec: InstanceSpec, cgroups: Cgroups, shared_cpus: tuple[int, ...]) -> None:
    own = [cpu for part in spec.cells for cpu in part.cpus]
    if not own and "cpu_shares" not in cgroups.features:
        return
    tune = node(domain, "cputune")
    if "cpu_shares" in cgroups.features:
        node(tune, "shares", str(cgroups.cpu_shares(spec.cpu_shares)))
    for vcpu, cpu in enumerate(own):
        node(tune, "vcpupin", vcpu=vcpu, cpuset=cpu)
    if own:
        # QEMU's own threads (I/O, migration) would take the guest's CPUs from it.
        node(tune, "emulatorpin", cpuset=cpu_list(shared_cpus))


def _add_boot(domain: etree._Element, spec: InstanceSpec, machine: Machine, image: ImagePaths) -> None:
    system = node(domain, "os")
    node(system, "type", "hvm", arch="x86_64", machine=machine.machine)
    if spec.disk.image.boot == "kernel":
        node(system, "kernel", str(image.kernel))
        node(system, "initrd", str(image.initrd))
        node(system, "cmdline", spec.disk.image.kernel_args)
    else:
        node(system, "boot", dev="hd")
    features = node(domain, "features")
    node(features, "acpi")  # the power button
    node(features, "apic")
    add_processor(domain, machine, model=spec.cpu_model, flags=spec.cpu_flags, cells=spec.cells)
    clock = node(domain, "clock", offset="utc")
    node(clock, "timer", name="rtc", tickpolicy="catchup")
    node(clock, "timer", name="pit", tickpolicy="delay")
    node(clock, "timer", name="hpet", present="no")
    node(domain, "on_poweroff", "destroy")
    node(domain, "on_reboot", "restart")
    node(domain, "on_crash", "destroy")


def add_processor(
    domain: etree._Element,
    machine: Machine,
    *,
    model: str = "",
    flags: tuple[str, ...] = (),
    cells: tuple[CellSpec, ...] = (),
) -> None:
    """Append the processor: a named model, since a guest must find the same one on every host of its pool.

    `model` "": the one that the host chose for all. `flags` it must have beyond the model's own. `cells`: the guest's
    own NUMA nodes, where it has several.
    """
    named = model or machine.cpu_model
    if named == HOST_PROCESSOR:
        processor = node(domain, "cpu", mode=HOST_PROCESSOR, check="none")
    else:
        # check=none: translation lacks a few flags of every model, and says so by itself.
        check = "partial" if machine.mode == "kvm" else "none"
        processor = node(domain, "cpu", mode="custom", match="exact", check=check)
        node(processor, "model", named, fallback="forbid")
    for flag in flags:
        node(processor, "feature", policy="require", name=flag)
    if len(cells) > 1:
        numa, first = node(processor, "numa"), 0
        for number, part in enumerate(cells):
            mine = cpu_list(range(first, first + part.vcpus))
            node(numa, "cell", id=number, cpus=mine, memory=part.memory_mib, unit="MiB")
            first += part.vcpus


def _add_devices(
    devices: etree._Element, spec: InstanceSpec, machine: Machine, paths: InstancePaths, bridges: tuple[str, ...]
) -> None:
    _add_disk(devices, str(paths.disk), "vda", format="qcow2", machine=machine)
    seed = _add_disk(devices, str(paths.seed), "vdb", format="raw", machine=machine)
    node(seed, "readonly")
    for nic, bridge in zip(spec.nics, bridges, strict=True):
        interface = node(devices, "interface", type_="bridge")
        node(interface, "mac", address=nic.mac)
        node(interface, "source", bridge=bridge)
        node(interface, "target", dev=nic.device)
        node(interface, "model", type_="virtio")
        node(interface, "mtu", size=nic.network.mtu)
    node(devices, "controller", type_="usb", model="none")
    serial = node(devices, "serial", type_="pty")
    node(serial, "log", file=str(paths.console), append="on")
    node(serial, "target", port=0)
    console = node(devices, "console", type_="pty")
    node(console, "target", type_="serial", port=0)
    channel = node(devices, "channel", type_="unix")
    node(channel, "target", type_="virtio", name=AGENT_CHANNEL)
    graphics = node(devices, "graphics", type_="vnc")
    # No path: libvirt makes the socket in the domain's own directory, where QEMU may write whoever it runs as.
    node(graphics, "listen", type_="socket")
    node(node(devices, "video"), "model", type_="vga")
    node(node(devices, "rng", model="virtio"), "backend", RANDOM, model="random")
    node(devices, "memballoon", model="virtio")


def _add_disk(devices: etree._Element, file: str, target: str, *, format: str, machine: Machine) -> etree._Element:
    disk = node(devices, "disk", type_="file", device="disk")
    driver = node(disk, "driver", name="qemu", type_=format, cache=machine.cache, discard="unmap")
    if machine.cache == "none":
        driver.set("io", "native")
    node(disk, "source", file=file)
    node(disk, "target", dev=target, bus="virtio")
    return disk
