"""A node worker without its process: fetches, runs and answers calls on a fake host, one at a time and by hand."""

from __future__ import annotations

import uuid
from pathlib import Path

from django.utils import timezone

from compute.models import Host, Operation
from compute.node.drivers.fake import FakeDriver, FakeHost, FakeWire
from compute.node.drivers.settings import DriverSettings
from compute.node.methods import execute
from compute.sagas.engine import take_turn
from compute.services import nodes
from compute.wire import Call, CallAnswer, HostReport


class PlayedHost:
    """One host row with a fake hypervisor behind it."""

    def __init__(self, host: Host, driver: FakeDriver) -> None:
        self.host = host
        self.driver = driver
        self.calls: list[Call] = []

    def run_calls(self, *, answer: bool = True, twice: bool = False) -> int:
        """Fetch and run all waiting calls; return how many. `answer` False: the answers are lost."""
        calls = nodes.fetch_calls(host=Host.objects.get(id=self.host.id), limit=16)
        for call in calls:
            self.calls.append(call)
            reply = self.execute(call)
            if twice:
                reply = self.execute(call)
            if answer:
                nodes.answer_call(host=self.host, call_id=uuid.UUID(call.id), answer=reply)
        return len(calls)

    def execute(self, call: Call) -> CallAnswer:
        return execute(self.driver, call)

    def beat(self, *, listing: bool = True) -> None:
        """Send a heartbeat with what the fake host shows."""
        report = HostReport(
            boot_id="boot-1",
            clock=timezone.now().isoformat(),
            domains=self.driver.list_domains() if listing else None,
            inventory=None,
            disks=self.driver.list_disks(),
            partitions=self.driver.list_partitions() if listing else None,
        )
        answer = nodes.heartbeat(host=self.host, report=report)
        if answer.shares is not None:
            self.driver.weigh(answer.shares)


def play(host: Host, folder: Path, *, wire: FakeWire | None = None, beside: PlayedHost | None = None) -> PlayedHost:
    """Put a fake hypervisor behind a host row. Guests migrate between those that share a `wire`, and see one storage.

    `beside` another one it sees that one's storage, and no guest can migrate.
    """
    settings = DriverSettings(
        shared_dir=folder,
        local_dir=folder / "local",
        vcpus=host.total_vcpus,
        memory_mib=host.total_memory_mib,
        disk_gib=host.total_disk_gib,
        underlay_address=str(host.address),
    )
    machine = FakeHost(wire=wire) if beside is None else FakeHost(disks=beside.driver.host.disks)
    return PlayedHost(host, FakeDriver(settings, machine))


def make_due(operation_id: uuid.UUID) -> None:
    """Pass over the back-off, as time would."""
    Operation.objects.filter(id=operation_id).update(next_attempt_at=timezone.now())


def run_to_end(operation_id: uuid.UUID, *hosts: PlayedHost, twice: bool = False, rounds: int = 80) -> Operation:
    """Give the operation turns and run its hosts' calls until it has ended or is stuck."""
    for _ in range(rounds):
        make_due(operation_id)
        take_turn(operation_id)
        if twice:
            take_turn(operation_id)
        operation = Operation.objects.get(id=operation_id)
        if operation.state in ("succeeded", "failed", "cancelled", "stuck"):
            return operation
        for host in hosts:
            host.run_calls(twice=twice)
    raise AssertionError(f"{operation} does not end: {operation.state} step {operation.step}")
