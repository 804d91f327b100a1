from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compute.node import observer as observer_module
from compute.node.client import ApiUnavailable
from compute.node.journal import Journal
from compute.node.observer import Observer
from compute.node.runner import Runner
from compute.wire import DomainReport, HeartbeatAnswer, HostInventory, HostReport, PartitionReport, TenantShares
from tests.node.control import wait_for
from tests.node.orders import an_id
from tests.node.test_runner import Api as CallsApi
from tests.node.test_runner import Executor

GUEST = DomainReport(uuid=an_id(), name="guest", instance_id=an_id(), kind="vm", power="running")


PARTITION = PartitionReport(("0123456789ab",), cpu_shares=100, cpu_seconds=1.0, waited_seconds=0.0, at=1.0)


class Api:
    def __init__(self) -> None:
        self.reports: list[HostReport] = []
        self.at: list[float] = []
        self.answer = HeartbeatAnswer(heartbeat_seconds=0.2)
        self.down = False

    def heartbeat(self, report: HostReport) -> HeartbeatAnswer:
        if self.down:
            raise ApiUnavailable("gone")
        self.reports.append(report)
        self.at.append(time.monotonic())
        return self.answer


class Eyes:
    """Sees one guest; each kind of look waits while its gate is closed."""

    def __init__(self) -> None:
        self.domains_gate, self.disks_gate = threading.Event(), threading.Event()
        self.domains_gate.set()
        self.disks_gate.set()
        self.broken = False
        self.partitions_broken = False
        self.weighed: list[tuple[TenantShares, ...]] = []
        self.weighing_fails = False

    def domains(self) -> tuple[DomainReport, ...] | None:
        self.domains_gate.wait(20)
        if self.broken:
            raise RuntimeError("a bug")
        return (GUEST,)

    def disks(self) -> tuple[str, ...] | None:
        self.disks_gate.wait(20)
        return ("a disk",)

    def partitions(self) -> tuple[PartitionReport, ...] | None:
        if self.partitions_broken:
            raise RuntimeError("a bug")
        return (PARTITION,)

    def weigh(self, shares: tuple[TenantShares, ...]) -> None:
        self.weighed.append(shares)
        if self.weighing_fails:
            raise OSError("read-only")

    def inventory(self) -> HostInventory | None:
        return HostInventory(1, 1, 1, ("lxc",), "", 1, "", "", "", "")


class Host:
    def __init__(self, file: Path) -> None:
        self.api, self.eyes = Api(), Eyes()
        self.runner = Runner(CallsApi(), Journal(file), Executor(), on_finished=lambda: None)
        self.observer = Observer(self.api, self.eyes, self.runner, boot="boot", seconds=0.2)
        self.thread = threading.Thread(target=self.observer.run, daemon=True)

    def reports_after(self, moment: float) -> list[HostReport]:
        return [report for report, at in zip(self.api.reports, self.api.at, strict=False) if at > moment]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(observer_module, "PATIENCE_SECONDS", 0.3)
    made = Host(tmp_path / "journal.sqlite")
    yield made
    made.eyes.domains_gate.set()
    made.eyes.disks_gate.set()
    made.observer.stop()
    made.thread.join(5)
    assert not made.thread.is_alive()


def seen(host: Host, **wanted: Any) -> bool:
    return any(all(getattr(report, key) == value for key, value in wanted.items()) for report in host.api.reports)


def test_it_says_what_is_there(host: Host) -> None:
    host.thread.start()
    wait_for(lambda: seen(host, domains=(GUEST,), disks=("a disk",), boot_id="boot"), 3, "a whole report")
    assert sum(report.inventory is not None for report in host.api.reports) == 1  # and not with each heartbeat


def test_it_looks_at_once_at_what_has_changed(host: Host) -> None:
    host.thread.start()
    wait_for(lambda: seen(host, disks=("a disk",)), 3, "the first slow look")
    host.observer.look_again()
    wait_for(lambda: sum(report.inventory is not None for report in host.api.reports) == 2, 3, "the second")


def test_a_blind_host_still_beats_and_claims_nothing(host: Host) -> None:
    host.thread.start()
    wait_for(lambda: seen(host, domains=(GUEST,)), 3, "a first look")
    host.eyes.domains_gate.clear()
    time.sleep(0.5)
    frozen = time.monotonic()
    time.sleep(2)
    blind = host.reports_after(frozen)
    assert len(blind) >= 3
    assert {report.domains for report in blind} == {None}
    host.eyes.domains_gate.set()
    opened = time.monotonic()
    wait_for(lambda: any(r.domains == (GUEST,) for r in host.reports_after(opened)), 2, "sight")


def test_storage_that_hangs_does_not_hide_the_domains(host: Host) -> None:
    host.eyes.disks_gate.clear()
    host.thread.start()
    wait_for(lambda: len(host.api.reports) > 4, 5, "heartbeats")
    assert {report.domains for report in host.api.reports} == {(GUEST,)}
    assert {report.disks for report in host.api.reports} == {None}


def test_a_bug_in_a_look_is_not_an_empty_host(host: Host) -> None:
    host.eyes.broken = True
    host.thread.start()
    wait_for(lambda: len(host.api.reports) > 2, 5, "heartbeats")
    assert {report.domains for report in host.api.reports} == {None}


def test_what_was_looked_up_in_an_outage_is_told_after_it(host: Host) -> None:
    host.api.down = True
    host.thread.start()
    time.sleep(1)
    host.api.down = False
    wait_for(lambda: seen(host, disks=("a disk",)), 3, "the inventory and disks")


def test_a_poke_reports_before_its_time(host: Host) -> None:
    host.api.answer = HeartbeatAnswer(heartbeat_seconds=60)
    host.thread.start()
    wait_for(lambda: seen(host, disks=("a disk",)), 3, "the first reports")
    time.sleep(0.5)
    poked = time.monotonic()
    host.observer.poke()
    wait_for(lambda: bool(host.reports_after(poked)), 1, "a report")
    time.sleep(0.5)
    assert len(host.reports_after(poked)) == 1


@pytest.mark.parametrize(("wish", "kept"), [(0.0, 0.2), (1e9, 60.0)])
def test_tuning_without_sense_is_bounded(host: Host, wish: float, kept: float) -> None:
    host.api.answer = HeartbeatAnswer(heartbeat_seconds=wish, sweep_seconds=wish)
    host.thread.start()
    wait_for(lambda: host.observer._seconds == kept and host.runner._sweep_seconds == kept, 3, "the tuning")


def test_what_ran_in_partitions_is_told_with_the_domains(host: Host) -> None:
    host.thread.start()
    wait_for(lambda: seen(host, domains=(GUEST,), partitions=(PARTITION,)), 3, "a report of partitions")


def test_domains_are_told_though_partitions_cannot_be_seen(host: Host) -> None:
    host.eyes.partitions_broken = True
    host.thread.start()
    wait_for(lambda: seen(host, domains=(GUEST,), partitions=None), 3, "a report without partitions")


def test_weights_are_written_at_each_heartbeat_that_says_them(host: Host) -> None:
    host.thread.start()
    wait_for(lambda: len(host.api.reports) > 2, 3, "heartbeats without weights")
    assert host.eyes.weighed == []
    shares = (TenantShares(an_id(), cpu=300, io=100),)
    host.api.answer = HeartbeatAnswer(heartbeat_seconds=0.2, shares=shares)
    wait_for(lambda: len(host.eyes.weighed) > 2, 3, "the weights, again and again")
    assert set(host.eyes.weighed) == {shares}


def test_weights_that_cannot_be_written_end_no_heartbeat(host: Host) -> None:
    host.eyes.weighing_fails = True
    host.api.answer = HeartbeatAnswer(heartbeat_seconds=0.2, shares=())
    host.thread.start()
    wait_for(lambda: len(host.eyes.weighed) > 2, 5, "another try")
    assert len(host.api.reports) > 2
