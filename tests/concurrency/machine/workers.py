"""The processes of the state machine: clients, engines and hosts, forked by a nursery that has Django loaded.

The nursery (`main`, in a process of its own) reads "KIND SEED" lines, forks a worker for each and answers with its process
id. Workers run until they are killed, and die with the nursery. What is no outcome (a deadlock, a time-out, a
defect) is appended to FOLDER/faults.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

from django.db import connection

from compute.errors import StaleAnswer
from compute.models import Host, HostCall, Operation
from compute.node.drivers.fake import FakeDriver, FakeHost, FakeWire
from compute.node.drivers.faults import Fault, FaultKind
from compute.node.drivers.settings import DriverSettings
from compute.reconcilers import instances, leases, plans, promises
from compute.reconcilers.operations import due_operations
from compute.sagas.engine import take_turn
from compute.services import nodes
from compute.services.leases import end_lease
from tests.concurrency.machine.rules import Rules
from tests.factories.nodes import PlayedHost


def main(folder: Path) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # reaped by the kernel
    for line in sys.stdin:
        kind, seed = line.split()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)
            _live(LOOPS[kind], random.Random(f"{kind}{seed}"), folder)
        print(pid, flush=True)


def _live(loop: Callable[[random.Random, Path], None], dice: random.Random, folder: Path) -> None:
    while True:
        try:
            loop(dice, folder)
        except Exception:
            with (folder / "faults").open("a") as file:
                file.write(traceback.format_exc() + "\n")
            connection.close()
            time.sleep(0.2)


def clients(dice: random.Random, folder: Path) -> None:
    """Call services, one after another."""
    rules = Rules(dice)
    while True:
        rules.step()
        time.sleep(dice.random() * 0.05)


def engines(dice: random.Random, folder: Path) -> None:
    """Give turns: to what is due, and now and then to any operation, as a doubled or late message would."""
    while True:
        due = due_operations()
        dice.shuffle(due)
        if dice.random() < 0.1:
            count = Operation.objects.count()
            if count:
                due.insert(0, Operation.objects.order_by("pk").values_list("id", flat=True)[dice.randrange(count)])
        for operation_id in due[:4]:
            take_turn(operation_id)
        if dice.random() < 0.02:
            instances.run()
            plans.run()
            promises.run()
            for instance_id in leases.due_leases():
                end_lease(instance_id=instance_id)  # what its `run` would log is a fault here
        time.sleep(0.01)


def hosts(dice: random.Random, folder: Path) -> None:
    """Play all hosts: fetch, run, answer, some of it twice, some answers lost; report.

    A file `cut` says that the power was cut: what ran is stopped.
    """
    wire = FakeWire.load(folder / "storage.json")
    played = [_PlayedOn(host, folder, wire) for host in Host.objects.order_by("name")]
    if (folder / "cut").exists():
        for host in played:
            host.cut_power()
        (folder / "cut").unlink()
    next_beat = 0.0
    while True:
        for host in played:
            host.work(dice)
        if time.monotonic() >= next_beat:
            for host in played:
                host.beat()
            next_beat = time.monotonic() + 0.5
        time.sleep(0.01)


class _PlayedOn(PlayedHost):
    """A played host whose machine outlives its worker: it lies in a file."""

    def __init__(self, host: Host, folder: Path, wire: FakeWire) -> None:
        settings = DriverSettings(
            shared_dir=folder,
            local_dir=folder / host.name,
            vcpus=host.total_vcpus,
            memory_mib=host.total_memory_mib,
            disk_gib=host.total_disk_gib,
            underlay_address=str(host.address),
        )
        super().__init__(host, FakeDriver(settings, FakeHost.load(folder / f"{host.name}.json", wire=wire)))

    def work(self, dice: random.Random) -> None:
        for call in nodes.fetch_calls(host=self.host, limit=16):
            if call.method == "instance.migrate":
                self.driver.host.job_questions = dice.choice([0, 0, 1, 3])
            if dice.random() < 0.06:
                method = call.method.removeprefix("instance.")
                kinds: list[FaultKind] = ["retry", "unknown", "unknown_after"]
                # A host that can never remove a guest, let go of one that moved, take one on that came, or take back a step,
                # leaves the operation to an operator: "stuck", rightly.
                if (
                    method not in ("remove", "withdraw", "adopt")
                    and not HostCall.objects.filter(id=call.id, purpose="undo").exists()
                ):
                    kinds.append("never")
                self.driver.inject(Fault(method, dice.choice(kinds), instance_id=call.target_id))
            answer = self.execute(call)
            if dice.random() < 0.05:
                answer = self.execute(call)
            if dice.random() < 0.03:
                continue
            try:
                for _ in range(dice.choice([1, 1, 1, 2])):
                    nodes.answer_call(host=self.host, call_id=uuid.UUID(call.id), answer=answer)
            except StaleAnswer:
                continue

    def cut_power(self) -> None:
        for domain in list(self.driver.host.domains):
            self.driver.set_power(domain, "stopped")


LOOPS = {"clients": clients, "engines": engines, "hosts": hosts}
