"""A private libvirt host for tests: libvirtd and virtlogd in network, mount and UTS namespaces of their own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from compute.wire import NetworkSpec, NicSpec
from deploy.labhosts.groups import drop_groups

READY_SECONDS = 30.0
_ENTER = """
set -e
mount --make-rprivate /
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
mount --bind "$1/etc" /etc/libvirt
mount --bind "$1/lib" /var/lib/libvirt
mount --bind "$1/log" /var/log/libvirt
mount --bind "$1/cache" /var/cache/libvirt
mount --bind "$1/run" /run
# As udev makes it on a real machine. Where only root may open it, a daemon whose QEMU is not root believes that KVM has
# just become usable, and probes all of QEMU again at every call.
if [ "$3" != root ] && [ -c /dev/kvm ]; then
    [ -c "$1/kvm" ] || mknod "$1/kvm" c 10 232
    chgrp kvm "$1/kvm"
    chmod 660 "$1/kvm"
    mount --bind "$1/kvm" /dev/kvm
fi
# As systemd does on a real machine: without it libvirt knows of no huge pages.
mkdir -p /dev/hugepages
if ! mountpoint -q /dev/hugepages; then mount -t hugetlbfs hugetlbfs /dev/hugepages || true; fi
hostname "$2"
if ! kill -0 "$(cat /run/virtlogd.pid 2>/dev/null)" 2>/dev/null; then virtlogd -d -p /run/virtlogd.pid; fi
exec libvirtd -p /run/libvirtd.pid
"""
_QEMU_CONF = """
user = "{user}"
group = "{user}"
security_driver = "none"
namespaces = []
remember_owner = 0
stdio_handler = "file"
"""


@dataclass(slots=True)
class PrivateHost:
    """A running private host. Its directories are the same inside and outside, so a driver may run outside."""

    root: Path
    netns: str
    qemu_user: str
    daemon: subprocess.Popen[bytes]
    connections: list[libvirt.virConnect] = field(default_factory=list)

    @property
    def qemu_uri(self) -> str:
        return f"qemu+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"

    @property
    def lxc_uri(self) -> str:
        return f"lxc+unix:///system?socket={self.root}/run/libvirt/libvirt-sock"

    def run(self, *command: str) -> str:
        """Run a command in the host's network namespace and return what it prints."""
        enter = ["nsenter", f"--net=/run/netns/{self.netns}", "--", *command]
        return subprocess.run(enter, check=True, capture_output=True, text=True, timeout=30).stdout

    def kill_daemon(self) -> None:
        """kill -9 libvirtd; guests stay."""
        self.daemon.kill()
        self.daemon.wait(10)

    def start_daemon(self) -> None:
        """Start libvirtd again in the host's namespaces and wait until it answers."""
        self.daemon = _start(self.root, self.netns, self.qemu_user)
        _wait_ready(self)


@dataclass(slots=True)
class PlainBridge:
    """A network without filters, DHCP or tunnels: bridges in the private host, and a record of the ports."""

    host: PrivateHost
    ports: dict[str, NicSpec] = field(default_factory=dict)

    def bridge_name(self, network: NetworkSpec) -> str:
        return f"cnb{network.vni:x}"

    def ensure_port(self, nic: NicSpec) -> None:
        bridge = self.bridge_name(nic.network)
        with contextlib.suppress(subprocess.CalledProcessError):
            self.host.run("ip", "link", "add", bridge, "type", "bridge")
        self.host.run("ip", "link", "set", bridge, "up")
        self.ports[nic.device] = nic

    def announce_port(self, device: str) -> None:
        pass

    def reached(self) -> tuple[str, ...] | None:
        return tuple(sorted({nic.network.id for nic in self.ports.values()}))

    def remove_port(self, device: str) -> None:
        self.ports.pop(device, None)


@contextlib.contextmanager
def private_host(*, qemu_user: str = "root") -> Iterator[PrivateHost]:
    """A private host for as long as the context lasts; all of its domains, processes and files end with it."""
    netns = f"cndrv{uuid.uuid4().hex[:6]}"
    root = Path(tempfile.mkdtemp(prefix=f"{netns}-"))
    root.chmod(0o711)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        for name in ("etc", "lib", "log", "cache", "run"):
            (root / name).mkdir(mode=0o755)
        (root / "etc" / "qemu.conf").write_text(_QEMU_CONF.format(user=qemu_user))
        (root / "etc" / "libvirtd.conf").write_text(
            f'host_uuid = "{uuid.uuid4()}"\nunix_sock_group = "root"\nauth_unix_rw = "none"\n'
        )
        subprocess.run(["ip", "netns", "add", netns], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "delete", netns], check=False)
        stack.callback(drop_groups, netns)
        host = PrivateHost(root, netns, qemu_user, _start(root, netns, qemu_user))
        stack.callback(_end, host)
        host.run("ip", "link", "set", "lo", "up")
        _wait_ready(host)
        yield host


def _start(root: Path, netns: str, qemu_user: str) -> subprocess.Popen[bytes]:
    log = (root / "log" / "daemon.log").open("ab")
    enter = ["nsenter", f"--net=/run/netns/{netns}", "--", "unshare", "--mount", "--uts", "--", "sh", "-c", _ENTER]
    with log:
        return subprocess.Popen(
            [*enter, "sh", str(root), netns, qemu_user], stdout=log, stderr=log, start_new_session=True
        )


def _wait_ready(host: PrivateHost) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            for uri in (host.qemu_uri, host.lxc_uri):
                libvirt.open(uri).close()
            return
        except libvirt.libvirtError:
            if time.monotonic() > deadline or host.daemon.poll() is not None:
                raise RuntimeError((host.root / "log" / "daemon.log").read_text()[-2000:])
            time.sleep(0.1)


def _end(host: PrivateHost) -> None:
    """End the guests by libvirt, then the daemons by their ids."""
    for uri in (host.qemu_uri, host.lxc_uri):
        with contextlib.suppress(libvirt.libvirtError):
            connection = libvirt.open(uri)
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                domain.destroy()
            connection.close()
    host.daemon.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.daemon.wait(10)
    host.daemon.kill()
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((host.root / "run" / "virtlogd.pid").read_text()), signal.SIGTERM)
