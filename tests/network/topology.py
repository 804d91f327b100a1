"""Hosts and guests made of network namespaces, with the product's own PortManager at work in each host."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from compute.node.drivers.base import DriverError
from compute.node.network.names import bridge_name
from compute.node.network.ports import PortManager
from compute.node.network.settings import NetworkSettings
from compute.wire import NetworkSpec, NicSpec

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)
_FORK = multiprocessing.get_context("fork")
_UDHCPC_SCRIPT = '#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n'


def sh(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0 or not check, f"{arguments}: {done.stderr}{done.stdout}"
    return done.stdout


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _LIBC.setns(handle, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(handle)


def inside(namespace: str, action: Callable[[], T]) -> T:
    """Run `action` in a thread within the namespace. A socket made there stays there."""
    result: list[T] = []

    def work() -> None:
        enter(namespace)
        result.append(action())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return result[0]


class Host:
    """A namespace with an underlay address, and a process in it that runs the product's PortManager."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.namespace = f"{lab.prefix}h{number}"
        self.underlay = f"10.250.0.{number}"
        self.run_dir = lab.directory / f"host{number}"
        self.settings = NetworkSettings(run_dir=self.run_dir, underlay_address=self.underlay)
        sh("ip", "netns", "add", self.namespace)
        self.ip("link", "set", "lo", "up")
        lab.plug(self.namespace, number, f"{self.underlay}/24")
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_serve, args=(theirs, self.namespace, self.settings), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a PortManager method in this host. Raises the DriverError that it raised."""
        self._pipe.send((method, arguments))
        kind, value = self._pipe.recv()
        if kind == "error":
            raise value[0](value[1], value[2])
        return value

    def timed(self, method: str, *arguments: Any) -> float:
        """Return how many milliseconds a call took."""
        start = time.perf_counter()
        self.call(method, *arguments)
        return (time.perf_counter() - start) * 1000

    def ip(self, *arguments: str) -> str:
        return sh("ip", "-n", self.namespace, *arguments)

    def run(self, *arguments: str, check: bool = True) -> str:
        return sh("nsenter", f"--net=/run/netns/{self.namespace}", *arguments, check=check)

    def reboot(self) -> None:
        """Lose what a reboot loses: devices, rules, the DHCP servers, the run directory."""
        self.stop()
        for link in self.ip("-br", "link").splitlines():
            name = link.split()[0].split("@")[0]
            if name.startswith("cn"):
                sh("ip", "-n", self.namespace, "link", "delete", name, check=False)
        self.run("nft", "flush", "ruleset")
        shutil.rmtree(self.run_dir)
        self._start()

    def dnsmasq_pids(self) -> list[int]:
        """Return this namespace's living dnsmasq processes, found without the product's help."""
        ours = os.stat(f"/run/netns/{self.namespace}").st_ino
        pids = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and (entry / "comm").read_text() == "dnsmasq\n":
                    alive = (entry / "cmdline").read_bytes() != b""
                    if alive and os.stat(entry / "ns/net").st_ino == ours:
                        pids.append(int(entry.name))
            except OSError:
                continue
        return pids

    def stop(self) -> None:
        """End the host's processes."""
        self._pipe.close()
        self._process.join(5)
        for pid in self.dnsmasq_pids():
            os.kill(pid, 9)


def _serve(pipe: Any, namespace: str, settings: NetworkSettings) -> None:
    enter(namespace)
    manager = PortManager(settings)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("value", getattr(manager, method)(*arguments)))
        except DriverError as error:
            pipe.send(("error", (type(error), error.code, str(error))))


class Guest:
    """A namespace whose only device is the other end of a port's device, as a container's is."""

    def __init__(self, lab: Lab, host: Host, nic: NicSpec, *, device: str = "") -> None:
        self.lab, self.host, self.nic = lab, host, nic
        self.mac, self.address = nic.mac, nic.address
        self.device = device or nic.device
        self.namespace = lab.new_name("g")
        sh("ip", "netns", "add", self.namespace)
        sh("ip", "-n", self.namespace, "link", "set", "lo", "up")
        self.plug(host)

    def plug(self, host: Host) -> None:
        """Connect to the bridge of a host (as the hypervisor does, or live migration)."""
        self.host = host
        host.ip("link", "add", self.device, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        sh("ip", "-n", self.namespace, "link", "set", "eth0", "address", self.mac, "up")
        host.ip("link", "set", self.device, "master", bridge_name(self.nic.network), "up")

    def unplug(self) -> None:
        self.host.ip("link", "delete", self.device)

    def configure(self) -> None:
        """Set the address by hand, for tests that are not about DHCP."""
        prefix = self.nic.network.cidr.split("/")[1]
        sh("ip", "-n", self.namespace, "address", "add", f"{self.address}/{prefix}", "dev", "eth0")

    def lease(self, *, tries: int = 6) -> dict[str, str] | None:
        """Ask for an address as a real client does; return what the server said, None when nobody answered."""
        said = self.run("busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", str(tries), "-T", "1",
                        "-O", "mtu", "-O", "router", "-s", str(self.lab.udhcpc_script), check=False)  # fmt: skip
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        return values if "ip" in values else None

    def ping(self, address: str, *, size: int = 56) -> bool:
        """Return whether one echo comes back."""
        came = ", 0% packet loss" in self.run(
            "busybox", "ping", "-c", "1", "-W", "1", "-s", str(size), address, check=False
        )
        if not came:  # forget the search for the address: the next one must not wait for its back-off
            sh("ip", "-n", self.namespace, "neigh", "flush", "to", address)
        return came

    def run(self, *arguments: str, check: bool = True) -> str:
        return sh("nsenter", f"--net=/run/netns/{self.namespace}", *arguments, check=check)

    def neighbour(self, address: str) -> str:
        """Return the MAC that the guest has found for an address."""
        words = sh("ip", "-n", self.namespace, "neigh", "show", address).split()
        return words[words.index("lladdr") + 1] if "lladdr" in words else ""

    def socket(self) -> socket.socket:
        """Return a raw socket on the guest's device: all frames in, any frame out."""

        def make() -> socket.socket:
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            link.bind(("eth0", 3))
            return link

        return inside(self.namespace, make)

    def send(self, frame: bytes) -> None:
        with self.socket() as link:
            link.send(frame)


def listener(device: str) -> socket.socket:
    """Return a raw socket that hears all frames of a device of the namespace one is in."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    link.bind((device, 3))
    return link


@contextmanager
def listening(namespace: str, program: str) -> Iterator[None]:
    """Run a Python program in a namespace, from when it has said that it is up."""
    command = ("nsenter", f"--net=/run/netns/{namespace}", "python3", "-c", program)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield
        finally:
            process.kill()


class Ear:
    """What arrives at a guest from now on."""

    def __init__(self, guest: Guest) -> None:
        self._link = guest.socket()
        self._heard: list[bytes] = []

    def hears(self, note: bytes, *, seconds: float) -> bool:
        """Return whether a frame with `note` in it comes within the time (or has come already)."""
        give_up = time.monotonic() + seconds
        while not any(note in frame for frame in self._heard):
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            self._link.settimeout(left)
            try:
                frame, address = self._link.recvfrom(65536)
            except TimeoutError:
                return False
            if address[2] != socket.PACKET_OUTGOING:
                self._heard.append(frame)
        return True

    def heard(self, note: bytes) -> bool:
        return any(note in frame for frame in self._heard)

    def close(self) -> None:
        self._link.close()


class Lab:
    """Hosts on one underlay. Everything made here is gone after `close`."""

    def __init__(self) -> None:
        self.prefix = f"cnt{os.getpid() % 65536:x}"
        self.directory = Path(tempfile.mkdtemp(prefix="cenote-network-"))
        self.directory.chmod(0o755)  # dnsmasq reads its files as a user of its own
        self.udhcpc_script = self.directory / "udhcpc"
        self.udhcpc_script.write_text(_UDHCPC_SCRIPT)
        self.udhcpc_script.chmod(0o755)
        self.hosts: list[Host] = []
        self._count = 0
        self.switch = f"{self.prefix}sw"
        sh("ip", "netns", "add", self.switch)
        sh("ip", "-n", self.switch, "link", "add", "sw", "type", "bridge")
        sh("ip", "-n", self.switch, "link", "set", "sw", "up")

    def plug(self, namespace: str, number: int, address: str) -> None:
        """Connect a namespace to the underlay."""
        sh(
            "ip",
            "-n",
            namespace,
            "link",
            "add",
            "under",
            "type",
            "veth",
            "peer",
            "name",
            f"p{number}",
            "netns",
            self.switch,
        )
        sh("ip", "-n", self.switch, "link", "set", f"p{number}", "master", "sw", "up")
        sh("ip", "-n", namespace, "address", "add", address, "dev", "under")
        sh("ip", "-n", namespace, "link", "set", "under", "up")

    def add_host(self) -> Host:
        host = Host(self, len(self.hosts) + 1)
        self.hosts.append(host)
        return host

    def new_name(self, role: str) -> str:
        self._count += 1
        return f"{self.prefix}{role}{self._count}"

    def nic(self, network: NetworkSpec, number: int) -> NicSpec:
        """Return the network's n-th port."""
        base = network.cidr.split("/")[0].rsplit(".", 2)[0]
        mac = f"52:54:00:{network.vni % 256:02x}:{number >> 8:02x}:{number & 255:02x}"
        address = f"{base}.{1 + (number >> 8)}.{number & 255}"
        return NicSpec(f"port-{network.vni}-{number}", mac, address, network, f"cnp{network.vni:05x}{number:06x}")

    def connect(self, network: NetworkSpec) -> None:
        """Ensure the network on all hosts, each knowing the others."""
        for host in self.hosts:
            host.call("sync_peers", network, [h.underlay for h in self.hosts])

    def guest(self, host: Host, nic: NicSpec) -> Guest:
        host.call("ensure_port", nic)
        guest = Guest(self, host, nic)
        guest.configure()
        return guest

    def close(self) -> None:
        for host in self.hosts:
            host.stop()
        for line in sh("ip", "netns", "list").splitlines():
            name = line.split()[0]
            if name.startswith(self.prefix):
                sh("ip", "netns", "delete", name, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)
