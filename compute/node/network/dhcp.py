"""One dnsmasq per network on each host, DHCP only, for the guests whose port is on this host.

It keeps leases in memory alone: each address is fixed by the hosts file, so a restarted server, or the server of the
host that a guest moved to, confirms what the guest has. Its process is found by what it runs (command line and network
namespace), never by a number alone: a pid may have been given to another process, also to another lab host's dnsmasq.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from compute.node.drivers.base import RetryLater
from compute.node.network.names import bridge_name
from compute.node.network.programs import run
from compute.node.network.records import PortRecord, make_directory, write_file
from compute.node.network.settings import NetworkSettings
from compute.wire import NetworkSpec

_STOP_SECONDS = 3.0


def config_text(spec: NetworkSpec, *, directory: Path, bridge_index: int, settings: NetworkSettings) -> str:
    """Return dnsmasq's configuration. Pure.

    `bridge_index` stands in it because the server's socket is bound to the device itself: a bridge that was made again
    under the same name needs a new server, and a changed text is what brings it.
    """
    cidr = ipaddress.IPv4Network(spec.cidr)
    dns = ",".join(("option:dns-server", *spec.dns))
    lines = (
        f"# network {spec.id}, bridge index {bridge_index}",
        "port=0",  # no DNS
        f"interface={bridge_name(spec)}",
        "except-interface=lo",
        "bind-interfaces",
        "no-resolv",
        "no-hosts",
        "no-ping",
        "quiet-dhcp",
        "leasefile-ro",
        "dhcp-authoritative",
        "dhcp-lease-max=65536",
        f"dhcp-range={cidr.network_address},static,{cidr.netmask},{settings.lease_seconds}",
        "dhcp-ignore=tag:!known",
        f"dhcp-option=option:router,{spec.gateway}",
        f"dhcp-option=option:mtu,{spec.mtu}",
        f"dhcp-option={dns}",
        f"dhcp-hostsfile={directory / 'hosts'}",
        f"pid-file={directory / 'dnsmasq.pid'}",
        f"log-facility={directory / 'dnsmasq.log'}",
        f"user={settings.dnsmasq_user}",
    )
    return "\n".join(lines) + "\n"


def hosts_text(ports: tuple[PortRecord, ...]) -> str:
    """Return the hosts file: which MAC has which address. Pure."""
    return "".join(f"{port.mac},{port.address}\n" for port in ports)


class DhcpServer:
    """The DHCP server of one network on this host. All calls happen under the host's network lock."""

    def __init__(self, network_id: str, settings: NetworkSettings) -> None:
        self._dir = settings.run_dir / network_id
        self._settings = settings

    def ensure(self, spec: NetworkSpec, ports: tuple[PortRecord, ...], *, bridge_index: int) -> None:
        """Ensure one server that runs the wanted configuration and knows exactly these ports."""
        text = config_text(spec, directory=self._dir, bridge_index=bridge_index, settings=self._settings)
        # The digest in the file's name shows in the process's command line: it tells which text was read at its start.
        config = self._dir / f"dnsmasq-{hashlib.sha256(text.encode()).hexdigest()[:12]}.conf"
        hosts, wanted = self._dir / "hosts", hosts_text(ports)
        make_directory(self._dir)
        if not hosts.exists() or hosts.read_text() != wanted:
            write_file(hosts, wanted)
        pid = self._recorded_pid()
        if pid and _command_of(pid) == self._command(config) and not self._lease_in_the_way(ports):
            # Asked of the note and not of the file: a crash between writing the file and the signal must not go unseen.
            if self._told() != _told_note(pid, wanted):
                self._reload(pid, self._command(config), ports)
                write_file(self._dir / "told", _told_note(pid, wanted))
            return
        self._check_reachable()
        self._stop_all()
        for old in self._dir.glob("dnsmasq-*.conf"):
            old.unlink(missing_ok=True)
        write_file(config, text)
        self._remember(ports, fresh=True)
        run(*self._command(config))
        write_file(self._dir / "told", _told_note(self._recorded_pid(), wanted))

    def remove(self) -> None:
        """Ensure that no server runs and no file is left."""
        self._stop_all()
        shutil.rmtree(self._dir, ignore_errors=True)

    def _check_reachable(self) -> None:
        """The server gives root up and then reads the hosts file: were it unable to, no guest would get an address."""
        for directory in (self._dir, *self._dir.absolute().parents):
            if not directory.stat().st_mode & stat.S_IXOTH:
                raise RetryLater("dhcp_unreadable", f"{directory} is closed to the user {self._settings.dnsmasq_user}")

    def _command(self, config: Path) -> list[str]:
        return ["dnsmasq", f"--conf-file={config}"]

    def _recorded_pid(self) -> int:
        try:
            pid = int((self._dir / "dnsmasq.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if pid > 1 and _in_our_namespace(pid) else 0

    def _is_ours(self, pid: int) -> bool:
        command = _command_of(pid)
        start = f"--conf-file={self._dir}/dnsmasq-"
        return (
            len(command) == 2
            and command[0].endswith("dnsmasq")
            and command[1].startswith(start)
            and _in_our_namespace(pid)
        )

    def _reload(self, pid: int, command: list[str], ports: tuple[PortRecord, ...]) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            raise RetryLater("dhcp_died", f"dnsmasq {pid} ended while being told of a port")
        try:
            # Checked again through the handle's lifetime: from here on the number cannot come to mean another process.
            if _command_of(pid) == command and _in_our_namespace(pid):
                self._remember(ports, fresh=False)
                signal.pidfd_send_signal(handle, signal.SIGHUP)
        except ProcessLookupError:
            raise RetryLater("dhcp_died", f"dnsmasq {pid} ended while being told of a port")
        finally:
            os.close(handle)

    def _lease_in_the_way(self, ports: tuple[PortRecord, ...]) -> bool:
        """Return whether the running server may have leased one of the addresses to another MAC.

        It would refuse the address to its new owner until that lease ends; memory is all that knows the lease, so a
        restart forgets it. `given.json` holds every pair that the running server was told of.
        """
        given = self._given()
        return any(given.get(port.address, port.mac) != port.mac for port in ports)

    def _told(self) -> str:
        try:
            return (self._dir / "told").read_text()
        except (OSError, ValueError):
            return ""

    def _given(self) -> dict[str, str]:
        try:
            return {str(k): str(v) for k, v in json.loads((self._dir / "given.json").read_text()).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def _remember(self, ports: tuple[PortRecord, ...], *, fresh: bool) -> None:
        before = {} if fresh else self._given()
        after = before | {port.address: port.mac for port in ports}
        if fresh or after != before:
            write_file(self._dir / "given.json", json.dumps(after))

    def _stop_all(self) -> None:
        """End every server of this network, also one whose pid file was lost. Raises RetryLater("dhcp_stuck")."""
        give_up = time.monotonic() + _STOP_SECONDS
        while found := [pid for pid in _processes() if self._is_ours(pid)]:
            if time.monotonic() > give_up:
                raise RetryLater("dhcp_stuck", f"dnsmasq {found} did not end within {_STOP_SECONDS:.0f} s")
            for pid in found:
                self._end(pid)
            time.sleep(0.005)

    def _end(self, pid: int) -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self._is_ours(pid):
                signal.pidfd_send_signal(
                    handle, signal.SIGKILL
                )  # it has nothing to save, and SIGTERM would only add a wait
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _told_note(pid: int, hosts: str) -> str:
    return f"{pid} {hashlib.sha256(hosts.encode()).hexdigest()}"


def _processes() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def _command_of(pid: int) -> list[str]:
    """Return the process's arguments; empty for one that is gone, or dead and not yet collected."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _in_our_namespace(pid: int) -> bool:
    try:
        theirs, ours = os.stat(f"/proc/{pid}/ns/net"), os.stat("/proc/self/ns/net")
    except OSError:
        return False
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
