"""Hosts and guests made of network namespaces, with the product's own PortManager at work in each host."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from compute.node.network.names import bridge_name
from compute.node.network.settings import NetworkSettings
from compute.wire import NetworkSpec, NicSpec
from tests.network.namespaces import raw_socket, sh
from tests.network.worker import Worker

_UDHCPC_SCRIPT = '#!/bin/sh\n[ "$1" = bound ] && env\nexit 0\n'


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
        self.worker = self.add_worker()

    def add_worker(self, settings: NetworkSettings | None = None) -> Worker:
        return Worker(self.namespace, settings or self.settings)

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a PortManager method in this host. Raises the DriverError that it raised."""
        self.worker.send(method, *arguments)
        return self.worker.answer()

    def call_and_die(self, number: int, method: str, *arguments: Any) -> bool:
        """Call a method in a process that is killed in place of its n-th program. Return whether it came to that."""
        doomed = self.add_worker()
        doomed.kill_in_place_of_program(number)
        doomed.send(method, *arguments)
        try:
            doomed.answer()
        except EOFError:
            return True
        finally:
            doomed.end()
        return False

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
        self.worker = self.add_worker()

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
        self.worker.end()
        for pid in self.dnsmasq_pids():
            os.kill(pid, 9)


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

        return raw_socket(self.namespace, "eth0")

    def send(self, frame: bytes) -> None:
        with self.socket() as link:
            link.send(frame)


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
