"""The domain of a container, built from its spec. It is unprivileged: its root is nobody on the host."""

from __future__ import annotations

from typing import Final

from lxml import etree

from compute.node.drivers.cpus import cpu_list
from compute.node.drivers.libvirt.cgroups import Cgroups
from compute.node.drivers.libvirt.metadata import metadata_element
from compute.node.drivers.libvirt.xml import add_memory_cells, add_partition, check_allowed, domain_name, node
from compute.node.drivers.settings import DriverSettings
from compute.node.images.layout import InstancePaths
from compute.wire import InstanceSpec

CPU_PERIOD_US: Final = 100_000
INIT: Final = "/sbin/init"
# A user namespace confines these already; a guest has no use for them, and each has let somebody out once.
DROPPED: Final = (
    *("audit_control", "block_suspend", "mac_admin", "mac_override", "mknod"),
    *("sys_module", "sys_rawio", "sys_time", "syslog", "wake_alarm"),
)
_ELEMENTS = """
    name uuid metadata memory currentMemory vcpu cputune cputune/shares cputune/period cputune/quota
    resource resource/partition numatune numatune/memory memtune memtune/hard_limit memtune/swap_hard_limit blkiotune blkiotune/weight
    os os/type os/init os/initarg idmap idmap/uid idmap/gid features features/privnet features/capabilities
    clock on_poweroff on_reboot on_crash
    devices devices/filesystem devices/filesystem/source devices/filesystem/target
    devices/interface devices/interface/mac devices/interface/source devices/interface/target
    devices/interface/guest devices/console
"""
ALLOWED: Final = frozenset(_ELEMENTS.split()) | {f"features/capabilities/{name}" for name in DROPPED}


def build_container(
    spec: InstanceSpec,
    *,
    token: int,
    name: str | None,
    cgroups: Cgroups,
    settings: DriverSettings,
    paths: InstancePaths,
    bridges: tuple[str, ...],
    partition: str | None = None,
    init: tuple[str, ...] = (INIT,),
    shared_cpus: tuple[int, ...] = (),
) -> etree._Element:
    """Return the domain. `bridges` are those of `spec.nics`, in order; `name` keeps the one a defined domain has.

    `shared_cpus`: where it runs unless it has CPUs to itself; () for anywhere.

    What the kernel cannot limit (`cgroups`) is left out, since libvirt would refuse the whole.
    Raises Never("definition_refused").
    """
    domain = etree.Element("domain", type="lxc")
    node(domain, "name", name or domain_name(spec))
    node(domain, "uuid", spec.id)
    node(domain, "metadata").append(metadata_element(spec, token))
    node(domain, "memory", str(spec.memory_mib), unit="MiB")
    node(domain, "currentMemory", str(spec.memory_mib), unit="MiB")
    _add_limits(domain, spec, cgroups, shared_cpus)
    add_memory_cells(domain, spec)
    add_partition(domain, partition)
    system = node(domain, "os")
    node(system, "type", "exe", arch="x86_64")
    node(system, "init", init[0])
    for argument in init[1:]:
        node(system, "initarg", argument)
    idmap = node(domain, "idmap")
    for kind in ("uid", "gid"):
        node(idmap, kind, start=0, target=settings.idmap_base, count=settings.idmap_count)
    guest = node(domain, "features")
    node(guest, "privnet")  # its own network even without a card; else it would share the host's
    capabilities = node(guest, "capabilities", policy="default")
    for dropped in DROPPED:
        node(capabilities, dropped, state="off")
    node(domain, "clock", offset="utc")
    node(domain, "on_poweroff", "destroy")
    node(domain, "on_reboot", "restart")
    node(domain, "on_crash", "destroy")
    devices = node(domain, "devices")
    root = node(devices, "filesystem", type_="mount", accessmode="passthrough")
    node(root, "source", dir=str(paths.rootfs))
    node(root, "target", dir="/")
    for index, (nic, bridge) in enumerate(zip(spec.nics, bridges, strict=True)):
        interface = node(devices, "interface", type_="bridge")
        node(interface, "mac", address=nic.mac)
        node(interface, "source", bridge=bridge)
        node(interface, "target", dev=nic.device)
        node(interface, "guest", dev=f"eth{index}")
    node(devices, "console", type_="pty")
    check_allowed(domain, ALLOWED, directories=(paths.shared,))
    return domain


def _add_limits(domain: etree._Element, spec: InstanceSpec, cgroups: Cgroups, shared_cpus: tuple[int, ...]) -> None:
    if "memory" in cgroups.features:
        memory = node(domain, "memtune")
        node(memory, "hard_limit", str(spec.memory_mib), unit="MiB")
        if "memory_swap" in cgroups.features:
            # Version 1 counts memory and swap together here: equal to the limit means no swap.
            node(memory, "swap_hard_limit", str(spec.memory_mib), unit="MiB")
    if "io_weight" in cgroups.features:
        node(node(domain, "blkiotune"), "weight", str(spec.io_weight))
    vcpus = node(domain, "vcpu", str(spec.vcpus), placement="static")
    # A container's processes have no vCPU of their own to be pinned: all of them have all of its CPUs.
    if cpus := [cpu for part in spec.cells for cpu in part.cpus] or shared_cpus:
        vcpus.set("cpuset", cpu_list(cpus))
    if "cpu_shares" in cgroups.features or "cpu_quota" in cgroups.features:
        tune = node(domain, "cputune")
        if "cpu_shares" in cgroups.features:
            node(tune, "shares", str(cgroups.cpu_shares(spec.cpu_shares)))
        if "cpu_quota" in cgroups.features:
            node(tune, "period", str(CPU_PERIOD_US))
            node(tune, "quota", str(spec.vcpus * CPU_PERIOD_US))
