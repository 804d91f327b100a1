"""The heartbeat: says that this host lives and what it sees, and keeps its network as the control plane has it.

A look that fails is reported as such (`domains` None), never as an empty host. Nothing here may end the loop.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from compute.node.client import ApiRefused, ApiUnavailable
from compute.node.runner import Runner
from compute.wire import DomainReport, HeartbeatAnswer, HostInventory, HostReport, WireError

log = logging.getLogger(__name__)
SLOW_LOOK_SECONDS = 30.0


class Eyes(Protocol):
    """Who looks: the hypervisor process, or a fake host."""

    def domains(self) -> tuple[DomainReport, ...] | None: ...

    def disks(self) -> tuple[str, ...] | None: ...

    def inventory(self) -> HostInventory | None: ...


class Api(Protocol):
    """The part of nodeapi that the observer needs."""

    def heartbeat(self, report: HostReport) -> HeartbeatAnswer: ...

    def network(self) -> dict[str, Any]: ...


def boot_id() -> str:
    """Return an id that changes when the machine boots. A lab host has its own, made when its namespaces are."""
    for path in (Path("/run/cenote/boot_id"), Path("/proc/sys/kernel/random/boot_id")):
        try:
            return path.read_text().strip()
        except OSError:
            continue
    return "unknown"


class Observer:
    """`run` in a thread of its own until `stop`."""

    def __init__(
        self,
        api: Api,
        eyes: Eyes,
        runner: Runner,
        *,
        apply_network: Callable[[dict[str, Any]], None],
        seconds: float = 5.0,
    ) -> None:
        self._api = api
        self._eyes = eyes
        self._runner = runner
        self._apply_network = apply_network
        self._seconds = seconds
        self._wake = threading.Event()
        self._stopping = False
        self._next_slow = 0.0
        self._next_network = 0.0

    def poke(self) -> None:
        """Report soon: something has changed."""
        self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def run(self) -> None:
        # Before the first heartbeat, which makes the host eligible: guests that start need their network.
        self._network()
        while not self._stopping:
            self._wake.clear()
            try:
                self._beat()
                self._network()
            except Exception:
                # The loop is the host's sign of life; whatever broke this round may work in the next.
                log.exception("a heartbeat failed")
            self._wake.wait(self._seconds)
            if self._wake.is_set():
                # Several calls often end together: one report for all of them.
                time.sleep(0.2)

    def _beat(self) -> None:
        slow = time.monotonic() >= self._next_slow
        report = HostReport(
            boot_id=boot_id(),
            clock=datetime.now(UTC).isoformat(),
            domains=self._eyes.domains(),
            calls_in_hand=self._runner.in_hand(),
            inventory=self._eyes.inventory() if slow else None,
            disks=self._eyes.disks() if slow else None,
        )
        try:
            answer = self._api.heartbeat(report)
        except (ApiUnavailable, ApiRefused, WireError) as error:
            log.warning("the heartbeat was not taken: %s", error)
            return
        if slow:
            self._next_slow = time.monotonic() + SLOW_LOOK_SECONDS
        self._runner.cancel(answer.cancel)
        self._seconds = min(max(answer.heartbeat_seconds, 0.5), 60.0)
        self._runner.sweep_seconds = min(max(answer.sweep_seconds, 0.5), 60.0)

    def _network(self) -> None:
        if time.monotonic() < self._next_network:
            return
        try:
            self._apply_network(self._api.network())
        except (ApiUnavailable, ApiRefused) as error:
            log.warning("the network's state could not be read: %s", error)
            self._next_network = time.monotonic() + 5.0
        except Exception:
            log.exception("the network could not be brought up to date")
            self._next_network = time.monotonic() + 10.0
        else:
            self._next_network = time.monotonic() + 15.0
