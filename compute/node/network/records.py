"""What this host should have, in one file: networks with their peers, and ports.

The kernel's state is derived from this file, and this file from the control plane (`PortManager.restore`). It lies in a
run directory, gone at reboot together with the bridges. Each write replaces it whole by rename: readers need no lock.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compute.node.drivers.base import RetryLater
from compute.wire import Message, NetworkSpec, WireError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NetworkRecord(Message):
    """A network of this host. `peers` are the underlay addresses of the other hosts that have it."""

    spec: NetworkSpec
    peers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortRecord(Message):
    """A guest's port of this host."""

    device: str
    mac: str
    address: str
    port_id: str
    network_id: str


@dataclass(frozen=True, slots=True)
class State(Message):
    """All of it. Keys: network id, device name."""

    networks: dict[str, NetworkRecord] = field(default_factory=dict)
    ports: dict[str, PortRecord] = field(default_factory=dict)

    def with_network(self, record: NetworkRecord) -> State:
        return dataclasses.replace(self, networks={**self.networks, record.spec.id: record})

    def without_network(self, network_id: str) -> State:
        return dataclasses.replace(self, networks={k: v for k, v in self.networks.items() if k != network_id})

    def with_port(self, record: PortRecord) -> State:
        return dataclasses.replace(self, ports={**self.ports, record.device: record})

    def without_port(self, device: str) -> State:
        return dataclasses.replace(self, ports={k: v for k, v in self.ports.items() if k != device})

    def ports_of(self, network_id: str) -> tuple[PortRecord, ...]:
        """Return the network's ports in order of device name."""
        return tuple(self.ports[k] for k in sorted(self.ports) if self.ports[k].network_id == network_id)


class Records:
    """The state file and its lock. One per host; safe between threads and between processes."""

    def __init__(self, run_dir: Path, lock_seconds: float) -> None:
        self._dir = run_dir
        self._lock_seconds = lock_seconds

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the host's network lock. Raises RetryLater("network_busy") when it stays taken."""
        make_directory(self._dir)
        # Every holder opens the file itself: flock then also holds threads of one process apart.
        handle = os.open(self._dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            give_up = time.monotonic() + self._lock_seconds
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > give_up:
                        raise RetryLater("network_busy", f"the network lock was taken for {self._lock_seconds:.0f} s")
                    time.sleep(0.002)
            yield
        finally:
            os.close(handle)

    def read(self) -> State:
        """Return the state; empty when there is none yet, or none that can be read.

        No fsync at writing: a crash of the machine may leave an empty file, but it took bridges and guests along.
        Reading it as empty then lets no frame of any port pass until the ports are ensured again.
        """
        try:
            return State.from_json(json.loads((self._dir / "state.json").read_text()))
        except FileNotFoundError:
            return State()
        except (ValueError, WireError) as error:
            log.error("network state is unreadable and counts as empty: %s", error)
            return State()

    def write(self, state: State) -> None:
        """Replace the state. Call only under the lock."""
        write_file(self._dir / "state.json", json.dumps(state.to_json(), indent=1))


def find_port(run_dir: Path, address: str) -> PortRecord | None:
    """Return the port that has this address on the host whose run directory this is, or None. Takes no lock."""
    ports = Records(run_dir, 0).read().ports.values()
    return next((port for port in ports if port.address == address), None)


def make_directory(path: Path) -> None:
    """Ensure a directory that dnsmasq's own user can enter, whatever this process's umask is. Raises RetryLater."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
    except OSError as error:
        raise RetryLater("network_state_failed", f"{path}: {error}")


def write_file(path: Path, text: str) -> None:
    """Replace a file whole, readable by dnsmasq's own user. Raises RetryLater("network_state_failed")."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(text)
        fresh.chmod(0o644)
        fresh.rename(path)
    except OSError as error:
        raise RetryLater("network_state_failed", f"{path}: {error}")
