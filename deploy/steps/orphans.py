"""Processes that outlived their supervisor: kill -9 of supervisord leaves its children running, unattended.

They hold the database's lock, the web's port and libvirt's sockets, so that nothing can start in their place. Guests and
the DHCP servers of their networks are not among them: those are meant to outlive everything but their host.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from deploy.steps.place import Place
from deploy.steps.progress import SetupError

GRACE_SECONDS = 30.0
KILL_SECONDS = 10.0


def find(place: Place) -> dict[int, signal.Signals]:
    """Return the processes that a supervisord of this cloud started, each with the signal that ends it in good order:
    SIGINT for PostgreSQL and Redis, on which the others lean, SIGTERM for the rest.

    To be asked only when no supervisord runs. A process is known by what it was given at its start, never by its name
    alone: several clouds may run on one machine, each with its own PostgreSQL.
    """
    mark = f"SUPERVISOR_SERVER_URL=unix://{place.private / 'supervisor.sock'}".encode()
    found: dict[int, signal.Signals] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        pid = int(entry)
        command = _read(pid, "cmdline").split(b"\0")
        name = os.path.basename(command[0])
        if not name:
            # In the middle of its exec: what it will be cannot be told yet, and it might be a guest's DHCP server.
            continue
        if name == b"postgres" and command[1:3] == [b"-D", str(place.state / "postgres").encode()]:
            found[pid] = signal.SIGINT
        elif command[0].endswith(f"redis-server unixsocket:{place.doors / 'redis.sock'}".encode()):
            # Redis writes its title over its environment.
            found[pid] = signal.SIGINT
        elif name != b"dnsmasq" and mark in _read(pid, "environ").split(b"\0"):
            found[pid] = signal.SIGTERM
    return found


def end(place: Place) -> int:
    """End them in good order; what does not obey is killed. Return how many there were. Raises SetupError."""
    first = find(place)
    # A worker whose broker is gone before it waits for it at its own end.
    _end(place, signal.SIGTERM)
    _end(place, signal.SIGINT)
    return len(first)


def _end(place: Place, kind: signal.Signals) -> None:
    """End those whose signal is `kind`."""
    deadline, asked = time.monotonic() + GRACE_SECONDS, set[int]()
    while alive := {pid for pid, number in find(place).items() if number == kind}:
        late = time.monotonic() - deadline
        if late > KILL_SECONDS:
            raise SetupError(f"Processes of an earlier run do not end: {sorted(alive)}")
        for pid in alive if late > 0 else alive - asked:
            _send(pid, signal.SIGKILL if late > 0 else kind)
        asked |= alive
        time.sleep(0.1)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
