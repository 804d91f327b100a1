"""Tenants, hosts, instances, quotas and grants under random acts, with workers in parallel that are killed at random.

The test does a step and then asks every invariant of the audit, on one snapshot of the database; meanwhile clients,
engines and hosts, in processes of their own, act on the same rows, and now and then one of them gets SIGKILL. In the end
everything is deleted and nothing may be left. A run prints its seed, its steps and its time; CENOTE_SEED repeats the
dice (not the scheduling of the processes). CENOTE_LONG=1: 10,000 steps, and as many kills as come with them.

Not Hypothesis's: it shrinks a failure by repeating it, and a failure of parallel processes does not repeat.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from compute import states
from compute.models import Alarm, Allocation, Grant, Host, HostCall, Instance, Keypair, Operation, SetAside
from compute.node.drivers.fake import FakeHost, FakeWire
from compute.reconcilers import promises
from compute.selectors.invariants import Violation, check_all
from compute.services.grants import delete_grant
from compute.services.instances_delete import delete_instance
from compute.services.keypairs import delete_keypair
from tenants.errors import DomainError
from tenants.models import Quota
from tests.concurrency.conftest import database_url, die_with_the_tests
from tests.concurrency.machine.rules import ACTOR, Rules
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.nodes import make_due
from tests.factories.tenants import make_tenant, make_user

pytestmark = [pytest.mark.faults, pytest.mark.django_db(transaction=True), pytest.mark.timeout(7200)]

LONG = os.environ.get("CENOTE_LONG") == "1"
STEPS = 10_000 if LONG else 120
# A short run throws the same dice each time: a change is judged by itself, not by its luck. Long runs look further.
SEED = int(os.environ.get("CENOTE_SEED") or (random.SystemRandom().randrange(10**6) if LONG else 100038))
WORKERS = ("clients", "clients", "engines", "engines", "hosts")
_START = """
import sys, django
from pathlib import Path
django.setup()
from tests.concurrency.machine.workers import main
main(Path(sys.argv[1]))
"""


class Nursery:
    """The process that forks workers; kills them by their id."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "CENOTE_DATABASE_URL": database_url()}
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(folder)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_the_tests,
        )
        self._born = 0
        self.workers: list[tuple[str, int]] = []

    def bear(self, kind: str, seed: int) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._born += 1
        self._process.stdin.write(f"{kind} {seed}-{self._born}\n")
        self._process.stdin.flush()
        self.workers.append((kind, int(self._process.stdout.readline())))

    def kill(self, index: int) -> str:
        kind, pid = self.workers.pop(index)
        os.kill(pid, signal.SIGKILL)
        return kind

    def close(self) -> None:
        while self.workers:
            self.kill(0)
        self._process.kill()
        self._process.wait(20)


@pytest.fixture
def nursery(transactional_db: None, tmp_path: Path) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path)
    yield nursery
    nursery.close()


@pytest.fixture
def cloud(transactional_db: None) -> None:
    """A pool of four hosts that promises through the loss of one, a few tenants on several levels, users."""
    pool = make_pool("lab")
    pool.host_losses, pool.shared_storage_id = 1, "fake-storage"
    pool.save()
    for number in range(4):
        make_host(pool, vcpus=8, memory_mib=8192, disk_gib=80, name=f"host-{number}")
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    make_flavor("unit", vcpus=2, memory_mib=2048, disk_gib=20)
    make_flavor("small", vcpus=1, memory_mib=512, disk_gib=5)
    make_flavor("wide", vcpus=3, memory_mib=256, disk_gib=5)
    make_flavor("tall", vcpus=1, memory_mib=2560, disk_gib=20)
    make_image("tiny")
    for number in range(3):
        top = make_tenant(f"top-{number}")
        make_tenant("below", parent=make_tenant("middle", parent=top))
    for _ in range(4):
        make_user()


def _faults() -> list[Violation]:
    """What is wrong. A promise that a host loss has just put at risk gets its alarm by the reconciler, which may be due."""
    found = check_all()
    if any("no alarm is raised" in violation.detail for violation in found):
        promises.run()
        found = check_all()
    return found


def _stuck() -> list[tuple[str, Any]]:
    """What the operations that no rule covers met last."""
    return list(Operation.objects.filter(state="stuck").values_list("kind", "error"))


def _pass_time() -> None:
    """Back-offs and leases run out, as they would in half a minute."""
    for operation_id in Operation.objects.filter(state__in=states.OPERATION_DUE).values_list("id", flat=True):
        make_due(operation_id)  # one by one: a statement for all would wait for one row while it holds another
    for call_id in HostCall.objects.filter(state__in=["waiting", "taken"]).values_list("id", flat=True):
        call = HostCall.objects.filter(id=call_id)
        call.filter(state="taken").update(lease_until=timezone.now() - timedelta(seconds=1))
        call.filter(state="taken", operation=None).update(state="waiting", lease_until=None)
        call.filter(state="waiting").update(not_before=None)


def _deadlocks() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        count: int = cursor.fetchone()[0]
        return count


def _end_everything(nursery: Nursery) -> None:
    """Without clients: let all operations end, delete every guest, key and grant; engines and hosts go on meanwhile."""
    for index in reversed(range(len(nursery.workers))):
        if nursery.workers[index][0] == "clients":
            nursery.kill(index)
    Host.objects.update(admin_state="enabled")
    deadline = time.monotonic() + 120
    while True:
        for instance_id in Instance.unscoped.exclude(state="deleted").values_list("id", flat=True):
            try:
                delete_instance(actor=ACTOR, instance_id=instance_id)
            except DomainError:
                continue
        _pass_time()
        open_now = Operation.objects.filter(state__in=states.OPERATION_OPEN)
        owed = HostCall.objects.filter(state__in=["waiting", "taken"])
        if not Instance.unscoped.exclude(state="deleted").exists() and not open_now.exists() and not owed.exists():
            break
        assert time.monotonic() < deadline, (list(open_now.values()), list(owed.values()))
        time.sleep(1.0)
    for keypair_id in Keypair.unscoped.values_list("id", flat=True):
        delete_keypair(actor=ACTOR, keypair_id=keypair_id)
    for grant in Grant.unscoped.order_by("-tenant__path__len"):
        delete_grant(actor=ACTOR, grant_id=grant.id)
    promises.run()


def test_every_invariant_holds_after_every_step(cloud: None, nursery: Nursery, tmp_path: Path) -> None:
    dice = random.Random(SEED)
    rules = Rules(dice)
    killed: Counter[str] = Counter()
    deadlocks, began, checking = _deadlocks(), time.monotonic(), 0.0
    for kind in WORKERS:
        nursery.bear(kind, SEED)
    for step in range(STEPS):
        roll = dice.random()
        if roll < 0.04:
            kind = nursery.kill(dice.randrange(len(nursery.workers)))
            killed[kind] += 1
            if kind == "hosts" and dice.random() < 0.5:
                (tmp_path / "cut").touch()
                killed["power cut"] += 1
            nursery.bear(kind, SEED)
            act = f"kill {kind}"
        elif roll < 0.10:
            _pass_time()
            act = "time"
        elif roll < 0.13:
            act = rules.run(dice.choice([rules.host_switch, rules.host_switch, rules.host_drain]))
            promises.run()
        else:
            act = rules.step()
        at = time.monotonic()
        faults = _faults()
        checking += time.monotonic() - at
        assert faults == [], f"seed {SEED}, step {step}: after {act}; stuck: {_stuck()}"
        if LONG and step % 500 == 0:
            print(f"seed {SEED}: step {step} after {time.monotonic() - began:.0f} s", flush=True)
        file = tmp_path / "faults"
        assert not file.exists(), f"seed {SEED}, step {step}:\n{file.read_text()}"
    seconds = time.monotonic() - began
    ended = Operation.objects.filter(state__in=states.OPERATION_FINAL).count()
    print(
        f"\nseed {SEED}: {STEPS} steps in {seconds:.0f} s, every invariant after each ({checking / STEPS * 1000:.0f} ms); "
        f"{sum(killed.values())} kills {dict(killed)}; {Instance.unscoped.count()} instances, {ended} operations ended; "
        f"of the steps: {dict(rules.outcomes.most_common())}"
    )
    _end_everything(nursery)
    assert check_all() == []
    assert not (tmp_path / "faults").exists(), (tmp_path / "faults").read_text()
    assert _deadlocks() == deadlocks
    assert not Allocation.objects.exists()
    assert not SetAside.objects.exists()
    assert not Alarm.objects.filter(cleared_at=None).exists()
    assert not Quota.unscoped.filter(resource__in=["instances", "vcpus", "keypairs"], used__gt=0).exists()
    assert {(host.used_vcpus, host.held_vcpus) for host in Host.objects.all()} == {(0, 0)}
    wire = FakeWire.load(tmp_path / "storage.json")
    assert wire.disks == {}
    for host in Host.objects.all():
        machine = FakeHost.load(tmp_path / f"{host.name}.json", wire=wire)
        assert (machine.domains, machine.expected, machine.arrived) == ({}, set(), set())
