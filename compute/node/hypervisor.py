"""The watchdog: one child process holds the driver, and is killed when a call overruns its deadline.

A libvirt call on a frozen daemon can be ended neither by a signal nor by a thread, only with its process. Whatever was in
flight then is `unknown`; the next call gets a fresh child. Kills in a row make the next start wait, so that a host whose
libvirtd is gone for good does not spin.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from queue import Empty, SimpleQueue
from typing import Any

from compute.wire import Call, CallAnswer, CallError, DomainReport, HostInventory

log = logging.getLogger(__name__)
GRACE_SECONDS = 3.0
LOOK_SECONDS = 12.0
PAUSE_LIMIT_SECONDS = 20.0


class Lost(Exception):
    """The child died or was killed before it answered."""


class _Child:
    def __init__(self, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "compute.node.hypervisor_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(env),
        )
        self._lock = threading.Lock()
        self._number = 0
        self._waiting: dict[int, SimpleQueue[dict[str, Any] | None]] = {}
        self.dead = False
        threading.Thread(target=self._read, name="hypervisor-reader", daemon=True).start()

    def ask(self, what: str, body: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
        """Return the child's reply. Raises Lost when it died, TimeoutError when it did not reply in time."""
        box: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        with self._lock:
            if self.dead:
                raise Lost
            self._number += 1
            number = self._number
            self._waiting[number] = box
            line = json.dumps({"id": number, "what": what, "body": body}).encode() + b"\n"
            try:
                assert self.process.stdin is not None
                self.process.stdin.write(line)
                self.process.stdin.flush()
            except OSError:
                self._waiting.pop(number, None)
                raise Lost from None
        try:
            reply = box.get(timeout=timeout)
        except Empty:
            raise TimeoutError from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if reply is None:
            raise Lost
        return reply

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                reply = json.loads(line)
            except ValueError:
                break
            with self._lock:
                box = self._waiting.get(reply.get("id"))
            if box is not None:
                box.put(reply)
        with self._lock:
            self.dead = True
            for box in self._waiting.values():
                box.put(None)
        self.process.wait()

    def kill(self) -> None:
        self.process.kill()


class Hypervisor:
    """The driver, at arm's length. Safe for many threads."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = os.environ if env is None else env
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._deaths = 0
        self._not_before = 0.0
        self._closed = False

    def run(self, call: Call) -> CallAnswer:
        """Run one call to its end, at the latest its deadline plus a little. Never raises."""
        began = time.monotonic()
        answer = self._run(call)
        return CallAnswer(
            answer.call_id,
            answer.token,
            answer.outcome,
            answer.result,
            answer.error,
            round(time.monotonic() - began, 4),
        )

    def _run(self, call: Call) -> CallAnswer:
        try:
            child = self._living()
            reply = child.ask("call", call.to_json(), call.deadline_seconds + GRACE_SECONDS)
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

    def close(self) -> None:
        """End the child. Guests run on."""
        self._closed = True
        with self._lock:
            if self._child is not None:
                self._child.kill()

    def _look(self, what: str) -> Any | None:
        try:
            child = self._living()
            reply = child.ask(what, None, LOOK_SECONDS)
        except Lost:
            return None
        except TimeoutError:
            self._put_down(child, f"looking at {what} overran {LOOK_SECONDS:g} s")
            return None
        if "ok" not in reply:
            log.warning("looking at %s failed: %s", what, reply.get("message"))
            return None
        return reply["ok"]

    def _living(self) -> _Child:
        with self._lock:
            if self._closed:
                raise Lost
            if self._child is None or self._child.dead:
                if time.monotonic() < self._not_before:
                    raise Lost
                if self._child is not None:
                    self._deaths += 1
                    self._not_before = time.monotonic() + min(PAUSE_LIMIT_SECONDS, 0.25 * 2**self._deaths)
                self._child = _Child(self._env)
            return self._child

    def _put_down(self, child: _Child, reason: str) -> None:
        log.error("killing the hypervisor process %s: %s", child.process.pid, reason)
        child.kill()


def _unknown(call: Call, code: str, message: str) -> CallAnswer:
    return CallAnswer(call.id, call.token, "unknown", error=CallError(code, message))
