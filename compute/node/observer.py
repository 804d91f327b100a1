"""The heartbeat: says that this host lives, what it sees, and which calls it has in hand.

A look that fails or takes too long is reported as such (`domains` None), never as an empty host, and never holds the
heartbeat up: a frozen libvirtd makes a host blind, not dead. Nothing here may end the loop.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from compute.node.client import ApiRefused, ApiUnavailable
from compute.node.runner import Runner
from compute.wire import DomainReport, HeartbeatAnswer, HostInventory, HostReport, PartitionReport, TenantShares

log = logging.getLogger(__name__)
SLOW_LOOK_SECONDS = 30.0  # inventory, disks
PATIENCE_SECONDS = 3.0  # how long a heartbeat waits for its look
FRESH_SECONDS = 1.0  # how old a look may be that ended between two heartbeats
SETTLE_SECONDS = 0.2  # several calls often end together: one report for all of them


class Eyes(Protocol):
    """Who looks: the hypervisor process, or a fake host."""

    def domains(self) -> tuple[DomainReport, ...] | None: ...

    def disks(self) -> tuple[str, ...] | None: ...

    def inventory(self) -> HostInventory | None: ...

    def partitions(self) -> tuple[PartitionReport, ...] | None: ...

    def weigh(self, shares: tuple[TenantShares, ...]) -> None: ...


class Api(Protocol):
    """The part of nodeapi that the observer needs."""

    def heartbeat(self, report: HostReport) -> HeartbeatAnswer: ...


def boot_id() -> str:
    """Return an id that changes when the machine boots. A lab host has its own, made when its namespaces are."""
    for path in (Path("/run/cenote/boot_id"), Path("/proc/sys/kernel/random/boot_id")):
        try:
            return path.read_text().strip()
        except OSError:
            continue
    return "unknown"


@dataclass(frozen=True, slots=True)
class _Look:
    at: float
    seen: tuple[DomainReport, ...] | None
    partitions: tuple[PartitionReport, ...] | None = None


_BLIND = _Look(0.0, None)


@dataclass(frozen=True, slots=True)
class _Slow:
    inventory: HostInventory | None
    disks: tuple[str, ...] | None


class Observer:
    """`run` in a thread of its own until `stop`."""

    def __init__(self, api: Api, eyes: Eyes, runner: Runner, *, boot: str | None = None, seconds: float = 5.0) -> None:
        self._api = api
        self._eyes = eyes
        self._runner = runner
        self._boot = boot_id() if boot is None else boot
        self._seconds = seconds
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._next_slow = 0.0
        self._looking: Future[_Look] | None = None
        self._looking_slowly: Future[_Slow] | None = None
        # One thread for each kind of look: a storage directory that hangs must not hide the domains.
        self._looks = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._weighs = ThreadPoolExecutor(1, thread_name_prefix="weigh")
        self._weighing: Future[None] | None = None
        self._slow_looks = ThreadPoolExecutor(1, thread_name_prefix="slow-look")

    def poke(self) -> None:
        """Report soon: something has changed."""
        self._wake.set()

    def look_again(self) -> None:
        """Look at inventory and disks at once: what was reported of them has changed."""
        self._next_slow = 0.0
        self._wake.set()

    def stop(self) -> None:
        """Send no more heartbeats."""
        self._stopping.set()
        self._wake.set()
        for pool in (self._looks, self._slow_looks, self._weighs):
            pool.shutdown(wait=False, cancel_futures=True)

    def run(self) -> None:
        """Report until `stop`: at once, when poked, and every few seconds as the control plane wishes."""
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._beat()
            except Exception:
                # The loop is the host's sign of life; whatever broke this round may work in the next.
                if not self._stopping.is_set():
                    log.exception("a heartbeat failed")
                    self._stopping.wait(1.0)
            if self._wake.wait(self._seconds):
                self._stopping.wait(SETTLE_SECONDS)

    def _beat(self) -> None:
        look, slow = self._seen(), self._slow()
        domains = look.seen
        report = HostReport(
            boot_id=self._boot,
            clock=datetime.now(UTC).isoformat(),
            domains=domains,
            calls_in_hand=self._runner.in_hand(),
            inventory=slow.inventory if slow else None,
            disks=slow.disks if slow and domains is not None else None,
            partitions=look.partitions,
        )
        try:
            answer = self._api.heartbeat(report)
        except (ApiUnavailable, ApiRefused) as error:
            log.warning("the heartbeat was not taken: %s", error)
            return
        if slow and domains is not None:
            self._looking_slowly = None
        if answer.shares is not None:
            self._weigh(answer.shares)
        self._runner.cancel(answer.cancel)
        self._seconds = min(max(answer.heartbeat_seconds, 0.2), 60.0)
        self._runner.tune(min(max(answer.sweep_seconds, 0.2), 60.0))

    def _seen(self) -> _Look:
        """Return what runs now; it holds None when nobody can say soon enough."""
        pending = self._looking
        if pending is not None and pending.done() and time.monotonic() - pending.result().at > FRESH_SECONDS:
            pending = None  # it ended between two heartbeats, and may be out of date by now
        if pending is None:
            pending = self._looks.submit(self._look)
        try:
            found = pending.result(timeout=PATIENCE_SECONDS)
        except TimeoutError:
            if self._looking is not pending:
                log.warning("nobody can say what runs here: no answer in %g s", PATIENCE_SECONDS)
                self._looking = pending
                pending.add_done_callback(lambda _: self.poke())
            return _BLIND
        self._looking = None
        return found

    def _weigh(self, shares: tuple[TenantShares, ...]) -> None:
        """Have the weights written, at each heartbeat: also what was changed by hand since is mended. Never waits."""
        if self._weighing is None or self._weighing.done():
            self._weighing = self._weighs.submit(self._eyes.weigh, shares)
            self._weighing.add_done_callback(_log_failure)

    def _look(self) -> _Look:
        seen, partitions = None, None
        try:
            seen = self._eyes.domains()
            if seen is not None:  # else nobody can see anything now, and both looks would have to be waited for
                partitions = self._eyes.partitions()
        except Exception:
            # What was seen of the domains stays seen: weights are the smaller matter.
            log.exception("looking at the %s failed", "domains" if seen is None else "partitions")
        return _Look(time.monotonic(), seen, partitions)

    def _slow(self) -> _Slow | None:
        """Return inventory and disks when a look at them has ended since they were last reported."""
        if self._looking_slowly is None and time.monotonic() >= self._next_slow:
            self._next_slow = time.monotonic() + SLOW_LOOK_SECONDS
            self._looking_slowly = self._slow_looks.submit(self._look_slowly)
            self._looking_slowly.add_done_callback(lambda _: self.poke())
        if self._looking_slowly is None or not self._looking_slowly.done():
            return None
        return self._looking_slowly.result()

    def _look_slowly(self) -> _Slow:
        try:
            return _Slow(self._eyes.inventory(), self._eyes.disks())
        except Exception:
            log.exception("looking at the host failed")
            return _Slow(None, None)


def _log_failure(weighing: Future[None]) -> None:
    if not weighing.cancelled() and (error := weighing.exception()) is not None:
        log.error("weighing the tenants' partitions failed: %s", error)
