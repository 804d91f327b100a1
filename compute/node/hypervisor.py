"""The watchdog: one child process holds the driver, and is killed when a call overruns its deadline.

A libvirt call on a frozen daemon can be ended neither by a signal nor by a thread, only with its process. Whatever was in
flight then is `unknown`; the next call gets a fresh child. Deaths in a row make the next start wait, so that a host whose
libvirtd is gone for good does not spin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from compute.wire import Call, CallAnswer, CallError, DomainReport, HostInventory, PartitionReport, TenantShares

log = logging.getLogger(__name__)
GRACE_SECONDS = 3.0  # past a call's deadline: the driver's own time-outs come first and say more
LOOK_SECONDS = 12.0
START_SECONDS = (
    90.0  # a fresh child's, apart from its looks: on a slow machine Python alone takes as long as a look may
)
PAUSE_LIMIT_SECONDS = 20.0

READY = 0  # the number of the line by which a child says that its driver is open; questions begin at 1

Reply = dict[str, Any]


class Lost(Exception):
    """The child died or was killed before it answered, or may not be started yet."""


class _Child:
    """One child process. Its pipes are served by two threads, so that a child that reads nothing blocks no caller."""

    def __init__(self, env: Mapping[str, str]) -> None:
        # A process group of its own: its helpers (qemu-img, tar) are killed with it, before a fresh child begins anew.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compute.node.hypervisor_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(env),
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._number = 0
        self._waiting: dict[int, SimpleQueue[Reply | None]] = {}
        self._outbox: SimpleQueue[bytes | None] = SimpleQueue()
        self._reaped = False
        self._started = time.monotonic()
        self._ready = threading.Event()
        self.dead = False
        for name, target in (("hypervisor-reader", self._read), ("hypervisor-writer", self._write)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def ask(self, what: str, body: dict[str, Any] | None, timeout: float) -> Reply:
        """Return the child's reply. Raises Lost when it died, TimeoutError when it did not reply in time."""
        box: SimpleQueue[Reply | None] = SimpleQueue()
        with self._lock:
            if self.dead:
                raise Lost
            self._number += 1
            number = self._number
            self._waiting[number] = box
        self._outbox.put(json.dumps({"id": number, "what": what, "body": body}).encode() + b"\n")
        try:
            reply = box.get(timeout=max(timeout, 0.0))
        except Empty:
            raise TimeoutError from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if reply is None:
            raise Lost
        return reply

    def wait_until_ready(self) -> bool:
        """Wait until the driver is open, or the child dead. False when it has had START_SECONDS and is neither."""
        return self._ready.wait(max(self._started + START_SECONDS - time.monotonic(), 0.0))

    def kill(self) -> None:
        """End the child and its helpers. Nobody waits for it any more, even where the kernel cannot end it yet."""
        self._signal_group()
        self._bury()

    def _write(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            while (line := self._outbox.get()) is not None:
                self.process.stdin.write(line)
                self.process.stdin.flush()
        self._bury()
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout:
                reply = json.loads(line)
                if reply.get("id") == READY:
                    self._ready.set()
                with self._lock:
                    box = self._waiting.get(reply.get("id"))
                if box is not None:
                    box.put(reply)
        self._bury()
        # Also when it died by itself: its helpers must not go on writing beside those of its successor. Before `wait`,
        # since until then its number cannot come to mean another process.
        self._signal_group()
        with self._lock:
            self._reaped = True
        self.process.wait()

    def _signal_group(self) -> None:
        with self._lock:
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.process.pid, signal.SIGKILL)

    def _bury(self) -> None:
        with self._lock:
            self.dead = True
            self._ready.set()
            for box in self._waiting.values():
                box.put(None)
        self._outbox.put(None)


class Hypervisor:
    """The driver, at arm's length. Safe for many threads."""

    def __init__(self, env: Mapping[str, str] | None = None, *, grace_seconds: float = GRACE_SECONDS) -> None:
        self._env = dict(os.environ if env is None else env)
        self._grace = grace_seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._deaths = 0
        self._slow_looks = 0
        self._not_before = 0.0
        self._closed = threading.Event()

    def run(self, call: Call) -> CallAnswer:
        """Run one call to its end, at the latest its deadline plus a little. Never raises."""
        began = time.monotonic()
        answer = self._run(call)
        return dataclasses.replace(answer, seconds=round(time.monotonic() - began, 4))

    def _run(self, call: Call) -> CallAnswer:
        give_up = time.monotonic() + call.deadline_seconds + self._grace
        try:
            child = self._living(give_up)
            if not child.wait_until_ready():
                self._put_down(child, f"it did not start in {START_SECONDS:g} s")
                return _unknown(call, "hypervisor_lost", "the hypervisor process did not start")
            # The call's time begins with a process that can do it: a starting Python is no slow libvirt.
            give_up = time.monotonic() + call.deadline_seconds + self._grace
            reply = child.ask("call", call.to_json(), give_up - time.monotonic())
        except Lost:
            return _unknown(call, "hypervisor_lost", "the hypervisor process died in the middle of the call")
        except TimeoutError:
            self._put_down(child, f"{call.method} overran {call.deadline_seconds:g} s")
            return _unknown(call, "watchdog", f"{call.method} did not end in {call.deadline_seconds:g} s")
        if "ok" not in reply:
            return _unknown(call, "driver_fault", str(reply.get("message", "")))
        self._deaths = 0
        return CallAnswer.from_json(reply["ok"])

    def domains(self) -> tuple[DomainReport, ...] | None:
        """Return what runs here, or None when nobody can say now."""
        reply = self._look("domains")
        return None if reply is None else tuple(DomainReport.from_json(item) for item in reply)

    def disks(self) -> tuple[str, ...] | None:
        """Return the instances that have a directory in storage, or None when nobody can say now."""
        reply = self._look("disks")
        return None if reply is None else tuple(reply)

    def inventory(self) -> HostInventory | None:
        """Return what the host offers, or None when nobody can say now."""
        reply = self._look("inventory")
        return None if reply is None else HostInventory.from_json(reply)

    def partitions(self) -> tuple[PartitionReport, ...] | None:
        """Return what ran in the tenants' partitions, or None when nobody can say now."""
        reply = self._look("partitions")
        return None if reply is None else tuple(PartitionReport.from_json(item) for item in reply)

    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        """Have the tenants' partitions weigh that much. Where that fails now, the next heartbeat asks for it again."""
        self._look("weigh", {"shares": [item.to_json() for item in shares]})

    def pid(self) -> int | None:
        """Return the child's process id, None while there is none."""
        with self._lock:
            return None if self._child is None or self._child.dead else self._child.process.pid

    def close(self) -> None:
        """End the child; calls in flight end as `unknown`. Guests run on."""
        self._closed.set()
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def _look(self, what: str, body: dict[str, Any] | None = None) -> Any | None:
        try:
            child = self._living(time.monotonic())
            if not child.wait_until_ready():
                self._put_down(child, f"it did not start in {START_SECONDS:g} s")
                return None
            reply = child.ask(what, body, LOOK_SECONDS)
        except Lost:
            return None
        except TimeoutError:
            log.warning("looking at %s overran %g s", what, LOOK_SECONDS)
            # The first may be a busy machine, and calls are in flight; after the second the child has no thread left
            # that could look.
            self._slow_looks += 1
            if self._slow_looks >= 2:
                self._put_down(child, "it cannot see any more")
            return None
        self._slow_looks = 0
        if "ok" not in reply:
            log.warning("looking at %s failed: %s", what, reply.get("message"))
            return None
        return reply["ok"]

    def _living(self, give_up: float) -> _Child:
        """Return a child that lives, starting one if need be. Raises Lost when there is none until `give_up`."""
        while True:
            with self._lock:
                if self._closed.is_set():
                    raise Lost
                if self._child is not None and not self._child.dead:
                    return self._child
                now = time.monotonic()
                if now >= self._not_before:
                    return self._start(now)
                pause = self._not_before - now
            if now + pause > give_up:
                raise Lost
            self._closed.wait(pause)

    def _start(self, now: float) -> _Child:
        if self._child is not None:
            self._deaths += 1
            log.warning("starting the hypervisor process again, death %s in a row", self._deaths)
        self._not_before = now + min(PAUSE_LIMIT_SECONDS, 0.5 * 2 ** min(self._deaths, 10))
        self._slow_looks = 0
        try:
            self._child = _Child(self._env)
        except OSError as error:
            log.error("the hypervisor process could not be started: %s", error)
            raise Lost from None
        return self._child

    def _put_down(self, child: _Child, reason: str) -> None:
        log.error("killing the hypervisor process %s: %s", child.process.pid, reason)
        child.kill()


def _unknown(call: Call, code: str, message: str) -> CallAnswer:
    return CallAnswer(call.id, call.token, "unknown", error=CallError(code, message))
