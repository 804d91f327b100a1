"""What a driver needs to know of its host. The node worker reads it from its environment, drivers do not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHARED_DIR = Path("/var/lib/cenote/shared")
LOCAL_DIR = Path("/var/lib/cenote/local")


@dataclass(frozen=True, slots=True)
class DriverSettings:
    """Settings of one host.

    `shared_dir` is the pool's storage, `local_dir` the host's own (console logs, sockets, caches; 0700).
    `vcpus`, `memory_mib` and `disk_gib` are the declared slice of the machine. `underlay_address` is the host's IPv4
    address towards the other hosts, "" on a host that stands alone.
    `network_dir` holds the network state, which must not outlive a reboot. `libvirt_log_dir` is where the daemon keeps
    one log for each domain name, in `qemu/` and `lxc/`;
    `libvirt_run_dir` is where its LXC driver keeps sockets and mount points.
    `cpus` are the processors of the slice, by the kernel's numbers; () for all of the machine's. `dedicated_cpus` of them are kept
    for guests that have a CPU to themselves; what else runs there, on a machine that several hosts share, their slices say.
    `huge_pages`: whether the machine's huge pages are this host's to give.
    `partition` is the group, below the machine's own for guests, that holds all tenants' partitions of this host: letters
    and digits only. Hosts that are one machine (a lab) need different ones.
    Containers' user and group ids 0..idmap_count-1 are idmap_base.. on the host.
    """

    vcpus: int
    memory_mib: int
    disk_gib: int
    shared_dir: Path = SHARED_DIR
    local_dir: Path = LOCAL_DIR
    underlay_address: str = ""
    qemu_uri: str = "qemu:///system"
    lxc_uri: str = "lxc:///system"
    network_dir: Path = Path("/run/cenote/network")
    libvirt_log_dir: Path = Path("/var/log/libvirt")
    libvirt_run_dir: Path = Path("/run/libvirt")
    cpus: tuple[int, ...] = ()
    dedicated_cpus: tuple[int, ...] = ()
    huge_pages: bool = True
    partition: str = "cenote"
    idmap_base: int = 100_000
    idmap_count: int = 65_536
