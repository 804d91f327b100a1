"""Serial consoles as logs: bounded, readable at any time, kept over restarts of guest and node worker.

QEMU writes a VM's log itself. A container's console is a pseudo-terminal that somebody must read: while nobody does,
the guest's writes stop when the terminal's buffer is full. `ConsoleRecorder` reads them all in one thread; after a
restart of the node worker, containers are attached again at the first look at the host's domains.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import termios
import threading
import tty
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

TRIM_BYTES: Final = 4 << 20  # a log that grew past this is trimmed: a guest must not fill its host's disk
KEEP_BYTES: Final = 1 << 20
_READ = 1 << 16


def trim(log: Path) -> None:
    """Cut a log that grew too long; its newest part stays beside it as `<name>.0`.

    The file stays the same one and is emptied in place: its writer has it open for appending.
    """
    try:
        if log.stat().st_size <= TRIM_BYTES:
            return
        tail = _tail(log, KEEP_BYTES)
        part = log.with_name(f"{log.name}.part")
        part.write_bytes(tail)
        part.replace(log.with_name(f"{log.name}.0"))
        os.truncate(log, 0)
    except FileNotFoundError:
        return


def read_log(log: Path, max_bytes: int) -> bytes:
    """Return the newest `max_bytes` of a log and what was trimmed from it; empty when there is none.

    `<name>.0` is also where virtlogd puts the older part, when it is the one that writes.
    """
    if max_bytes <= 0:
        return b""
    newest = _tail(log, max_bytes)
    missing = max_bytes - len(newest)
    return (_tail(log.with_name(f"{log.name}.0"), missing) if missing else b"") + newest


def _tail(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - count, 0))
            return file.read(count)
    except FileNotFoundError:
        return b""


@dataclass(slots=True)
class _Attached:
    pty: str
    descriptor: int
    log: Path


class ConsoleRecorder:
    """Copies what containers say on their consoles to their logs. Safe for many threads."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._attached: dict[str, _Attached] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def is_attached(self, instance_id: str) -> bool:
        """Return whether this container's console is being read."""
        with self._lock:
            return instance_id in self._attached

    def attach(self, instance_id: str, pty: str, log: Path) -> None:
        """Read this terminal from now on; what it holds already is read too. A terminal that is gone is no error."""
        with self._lock:
            known = self._attached.get(instance_id)
            if self._closed or (known is not None and known.pty == pty):
                return
            if known is not None:
                self._drop(instance_id, known)
            try:
                descriptor = os.open(pty, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return
            with contextlib.suppress(OSError, termios.error):
                # No echo: the guest would read its own words as input. At once: a flush would lose its first words.
                tty.setraw(descriptor, termios.TCSANOW)
            attached = _Attached(pty, descriptor, log)
            self._attached[instance_id] = attached
            self._selector.register(descriptor, selectors.EVENT_READ, (instance_id, attached))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="console-recorder", daemon=True)
                self._thread.start()

    def detach(self, instance_id: str) -> None:
        """Stop reading; an unknown container is no error."""
        with self._lock:
            if attached := self._attached.get(instance_id):
                self._copy(attached)
                self._drop(instance_id, attached)

    def close(self) -> None:
        """Stop reading all; the guests go on."""
        with self._lock:
            self._closed = True
            for instance_id, attached in list(self._attached.items()):
                self._drop(instance_id, attached)

    def _drop(self, instance_id: str, attached: _Attached) -> None:
        self._attached.pop(instance_id, None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(attached.descriptor)
        with contextlib.suppress(OSError):
            os.close(attached.descriptor)

    def _run(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select(timeout=1.0):
                instance_id, attached = cast(tuple[str, _Attached], key.data)
                with self._lock:
                    is_current = self._attached.get(instance_id) is attached
                    if is_current and not self._copy(attached):
                        self._drop(instance_id, attached)

    def _copy(self, attached: _Attached) -> bool:
        """Copy what is there; return False when the terminal has ended."""
        try:
            content = os.read(attached.descriptor, _READ)
        except BlockingIOError:
            return True
        except OSError:
            return False  # EIO: the container is over
        if content:
            with contextlib.suppress(OSError), attached.log.open("ab") as file:  # a full disk must not stop the guest
                file.write(content)
            trim(attached.log)
        return bool(content)
