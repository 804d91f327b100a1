"""One lab host's namespaces: made, entered, and ended with every process in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from compute.node.settings import partition_base
from deploy.labhosts.groups import drop_groups
from deploy.steps.files import read_env, write
from deploy.steps.place import REPO, Place
from deploy.steps.progress import SetupError, run

UNDERLAY = "10.97.0"
UNDERLAY_MTU = 1600


@dataclass(frozen=True, slots=True)
class LabHost:
    """A lab host by its place and number (1..200). Its address on the underlay exists in the lab's namespaces only."""

    place: Place
    number: int

    @property
    def name(self) -> str:
        return f"host{self.number}"

    @property
    def netns(self) -> str:
        return f"cn{self.place.cloud_id}-{self.name}"

    @property
    def address(self) -> str:
        return f"{UNDERLAY}.{self.number}"

    @property
    def dir(self) -> Path:
        return self.place.lab(self.name)

    @property
    def mount_file(self) -> Path:
        return self.dir / "ns" / "mnt"

    @property
    def uts_file(self) -> Path:
        return self.dir / "ns" / "uts"

    def enter(self) -> list[str]:
        """Return the words that put a command into the host. `ip netns exec` would hide the cgroups behind a fresh /sys."""
        return [
            "nsenter",
            f"--net=/run/netns/{self.netns}",
            f"--mount={self.mount_file}",
            f"--uts={self.uts_file}",
            "--",
        ]

    def exists(self) -> bool:
        """Return whether the namespaces are there and whole."""
        if not _namespace(Path(f"/run/netns/{self.netns}")) or not (self.dir / "ns" / "made").exists():
            return False
        probe = subprocess.run(
            [*self.enter(), "mountpoint", "-q", "/var/lib/cenote/shared"], capture_output=True, check=False
        )
        return probe.returncode == 0


def switch_name(place: Place) -> str:
    return f"cn{place.cloud_id}-sw"


def _ip(*words: str, netns: str | None = None) -> None:
    run("ip", *(["-n", netns] if netns else []), *words)


def make_switch(place: Place) -> None:
    """Make the underlay: a bridge in a namespace of its own, to which every host has a cable."""
    name = switch_name(place)
    if not _namespace(Path(f"/run/netns/{name}")):
        # Where /run is no tmpfs, a file without a namespace is left over from before the machine's reboot.
        Path(f"/run/netns/{name}").unlink(missing_ok=True)
        _ip("netns", "add", name)
    done = subprocess.run(["ip", "-n", name, "link", "show", "br0"], capture_output=True, check=False)
    if done.returncode != 0:
        _ip("link", "add", "br0", "type", "bridge", netns=name)
    _ip("link", "set", "br0", "mtu", str(UNDERLAY_MTU), "up", netns=name)


def make_host(host: LabHost) -> None:
    """Make namespaces, cable and directories. What is there and whole is left alone."""
    _make_directories(host)
    if host.exists():
        return
    end_processes(host)
    unmake(host)
    _ip("netns", "add", host.netns)
    _ip("link", "set", "lo", "up", netns=host.netns)
    _plug_in(host)
    ns = host.dir / "ns"
    ns.mkdir(mode=0o700, exist_ok=True)
    # A namespace can be kept by a file only on a mount that is not shared with it.
    run("mount", "--bind", ns, ns)
    run("mount", "--make-private", ns)
    for file in (host.mount_file, host.uts_file):
        file.touch()
    run(
        *("nsenter", f"--net=/run/netns/{host.netns}", "--"),
        *("unshare", f"--mount={host.mount_file}", f"--uts={host.uts_file}", "--"),
        *(REPO / "deploy" / "labhosts" / "inside.sh", host.dir, host.name, host.place.state, host.place.venv),
    )
    (ns / "made").touch()


def _make_directories(host: LabHost) -> None:
    for part in ("etc/libvirt", "etc/pki", "etc/cenote", "lib", "log", "cache", "run", "hold"):
        (host.dir / part).mkdir(parents=True, exist_ok=True)
    for part in ("shared", "local", "node"):
        (host.dir / "cenote" / part).mkdir(parents=True, exist_ok=True)
    for part in ("lock", "libvirt", "cenote"):
        (host.dir / "run" / part).mkdir(exist_ok=True)


def boot(host: LabHost) -> None:
    """Note that the host has just been switched on: its own boot id, and nothing that must not outlive a reboot."""
    run("find", host.dir / "run", "-mindepth", "1", "-delete")
    _make_directories(host)
    write(host.dir / "run" / "cenote" / "boot_id", f"{uuid.uuid4()}\n")


def _plug_in(host: LabHost) -> None:
    switch, port = switch_name(host.place), f"p{host.number}"
    subprocess.run(["ip", "-n", switch, "link", "delete", port], capture_output=True, check=False)
    _ip("link", "add", port, "netns", switch, "type", "veth", "peer", "name", "underlay", "netns", host.netns)
    _ip("link", "set", port, "master", "br0", "mtu", str(UNDERLAY_MTU), "up", netns=switch)
    _ip("addr", "add", f"{host.address}/24", "dev", "underlay", netns=host.netns)
    _ip("link", "set", "underlay", "mtu", str(UNDERLAY_MTU), "up", netns=host.netns)


def processes(host: LabHost) -> set[int]:
    """Return every process of the host: those in its namespaces, and all their descendants (containers have their own)."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    marks = {_namespace(Path(f"/run/netns/{host.netns}")), _namespace(host.mount_file)} - {0}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        pid = int(entry)
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            parents[pid] = int(stat[stat.rindex(")") + 2 :].split()[1])
            if {_namespace(Path(f"/proc/{pid}/ns/net")), _namespace(Path(f"/proc/{pid}/ns/mnt"))} & marks:
                found.add(pid)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in found} - found
        found |= below
        grown = bool(below)
    return found - {os.getpid()}


def _namespace(path: Path) -> int:
    """Return the number of the namespace that a file stands for, 0 when it stands for none (any more)."""
    try:
        found = path.stat()
        return found.st_ino if found.st_dev == os.stat("/proc/self/ns/net").st_dev else 0
    except OSError:
        return 0


def end_processes(host: LabHost) -> int:
    """kill -9 everything of the host, by process id, until nothing is left: the power plug. Return how many."""
    ended: set[int] = set()
    deadline = time.monotonic() + 20
    while True:
        alive = processes(host)
        if not alive:
            return len(ended)
        if time.monotonic() > deadline:
            raise SetupError(f"{host.name}: processes {sorted(alive)[:8]} do not die")
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= alive
        time.sleep(0.1)


def unmake(host: LabHost) -> None:
    """Take the namespaces and control groups away. The host's directories stay."""
    (host.dir / "ns" / "made").unlink(missing_ok=True)
    for file in (host.mount_file, host.uts_file):
        while _is_mounted(file):
            run("umount", "-l", file)
    while _is_mounted(host.dir / "ns"):
        run("umount", "-l", host.dir / "ns")
    (host.dir / "ns" / "made").unlink(missing_ok=True)
    if Path(f"/run/netns/{host.netns}").exists():
        _ip("netns", "delete", host.netns)
    if (host_id := read_env(host.dir / "etc" / "cenote" / "node.env").get("CENOTE_NODE_ID")) is not None:
        drop_groups(partition_base(host_id))


def unmake_switch(place: Place) -> None:
    if Path(f"/run/netns/{switch_name(place)}").exists():
        _ip("netns", "delete", switch_name(place))


def _is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()
