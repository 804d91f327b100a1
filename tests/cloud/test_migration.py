"""Live migration on real hypervisors: a guest that counts and writes is moved about, and parts are killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy.labhosts import lab
from tests.cloud.conftest import RunningCloud

LONG = os.environ.get("CENOTE_LONG") == "1"
pytestmark = [pytest.mark.cloud, pytest.mark.timeout(5400 if LONG else 900)]
MOVES = 50 if LONG else 3
TRIALS = 60 if LONG else 5
SETTLE_SECONDS = 60
Make = Callable[..., dict[str, Any]]
# It counts ten times a second, writes each number to its disk, and fills and checks 256 KiB that nobody may lose.
WORK = """#!/bin/sh
(cd /root && dd if=/dev/urandom of=data bs=1024 count=256 2>/dev/null && sha256sum data >sum && chmod 755 /root
i=0; while :; do i=$((i+1)); echo $i >>ticks; sleep 0.1; done) >/dev/null 2>&1 &
"""


WRITER = (
    "dd if=/dev/urandom of=/root/noise bs=1024k count=48 2>/dev/null; mkdir -p /tmp/fast; mount -t tmpfs none /tmp/fast;"
    " (while :; do cat /root/noise >/tmp/fast/noise; done) >/dev/null 2>&1 </dev/null &"
)


class Guest:
    """One VM at work, as its tenant, the operators and the hosts see it."""

    def __init__(self, running: RunningCloud, instance: dict[str, Any]) -> None:
        self.running = running
        self.instance = instance
        self.id = str(instance["id"])

    def shown(self) -> dict[str, Any]:
        return self.running.read(self.running.operator.get(f"/instances/{self.id}"))

    def host(self) -> str:
        return str(self.shown()["host"]["name"])

    def order(self, **body: Any) -> str:
        answer = self.running.operator.post(f"/instances/{self.id}/actions/migrate", json=body)
        return str(self.running.read(answer, status=202)["operation"]["id"])

    def newest(self) -> dict[str, Any]:
        rows = self.running.read(self.running.operator.get("/migrations", params={"instance": self.id}))["items"]
        found: dict[str, Any] = rows[0]
        return found

    def ticks(self) -> int:
        """Return how far it has counted; each number must be there once, in order, and its data whole."""
        # A copy is counted: the guest writes on meanwhile.
        command = (
            "cd /root && sha256sum -c sum >/dev/null && cp ticks seen && wc -l <seen && tail -n 1 seen"
            " && sort -n seen | uniq -d | wc -l"
        )
        lines, last, doubled = map(int, self.running.ssh(self.instance, f"doas sh -c '{command}'").split())
        assert (lines, doubled) == (last, 0), "a tick was lost or came twice"
        return last

    def domains(self) -> dict[str, str]:
        """Return each host's word on its domain, where it has one."""
        found = {}
        for host in lab.hosts(self.running.place):
            done = subprocess.run(
                [*host.enter(), "virsh", "-c", "qemu:///system", "domstate", self.id],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            if done.returncode == 0:
                found[host.name] = done.stdout.strip()
        return found

    def assert_at_one_place(self) -> None:
        """Within a minute it runs where the books say, is defined nowhere else, and everything adds up."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            faults = [] if self.domains() == {self.host(): "running"} else [f"{self.domains()}, books: {self.host()}"]
            faults += self.running.audit() if not faults else []
            if not faults:
                return
            assert time.monotonic() < deadline, faults
            time.sleep(1)


@pytest.fixture
def guest(running: RunningCloud, made: Make) -> Guest:
    instance = made("wanderer", image="tiny", flavor="micro", user_data=WORK)
    guest = Guest(running, instance)
    deadline = time.monotonic() + 60
    while not running.ssh(instance, "cat /root/ticks 2>/dev/null || true"):
        assert time.monotonic() < deadline, "it does not count"
        time.sleep(0.5)
    return guest


def test_a_guest_at_work_is_moved_about_and_loses_nothing(running: RunningCloud, guest: Guest) -> None:
    addresses, counted = guest.shown()["addresses"], guest.ticks()
    for _ in range(MOVES):
        before = guest.host()
        began = time.monotonic()
        ended = running.wait(guest.order(reason="a walk"))
        assert ended["state"] == "succeeded", ended
        migration = guest.newest()
        seconds, status = time.monotonic() - began, migration["status"]
        print(
            f"{before} -> {guest.host()}: {seconds:.2f} s, copy {status['elapsed_seconds']} s, stop {status['downtime_ms']} ms"
        )
        assert guest.host() == migration["destination"]["name"] != before
        assert guest.shown()["addresses"] == addresses
        now = guest.ticks()
        assert now > counted
        counted = now
        guest.assert_at_one_place()
    xml = {}
    for flag in ("--inactive", "--live"):
        words = ["dumpxml", guest.id, *([] if flag == "--live" else [flag])]
        xml[flag] = running.lab("exec", guest.host(), "--", "virsh", *words)
    for text in xml.values():
        assert f"/instances/{guest.id}/disk.qcow2" in text, "the next boot has the same disk"
        assert addresses[0]["mac"] in text


def test_cancelled_it_runs_on_where_it_was(running: RunningCloud, guest: Guest) -> None:
    here = guest.host()
    operation = guest.order(bandwidth_mib_s=1)
    deadline = time.monotonic() + 60
    while not (guest.newest()["status"] or {}).get("done_bytes"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert guest.shown()["status"] == "migrating"
    mine = running.read(running.tenant.get(f"/operations/{operation}"))
    assert mine["kind"] == "instance_migrate"
    for name in ("host1", "host2", "host3"):
        assert name not in running.tenant.get(f"/operations/{operation}").text, "tenants do not see hosts"
    running.read(running.operator.post(f"/operations/{operation}/cancel", json={}), status=202)
    assert running.wait(operation)["state"] == "cancelled"
    assert guest.host() == here
    assert guest.newest()["state"] == "aborted"
    guest.assert_at_one_place()
    guest.ticks()


def test_out_of_time_it_is_given_up_and_runs_on(running: RunningCloud, guest: Guest) -> None:
    here = guest.host()
    ended = running.wait(guest.order(bandwidth_mib_s=1, deadline_seconds=10))
    assert ended["state"] == "failed"
    assert ended["error"]["code"] == "deadline"
    assert guest.host() == here
    guest.assert_at_one_place()
    guest.ticks()


@pytest.mark.parametrize("at_the_end", ["give_up", "pause"])
def test_a_guest_that_writes_faster_than_is_copied_is_given_up_or_paused_as_was_said(
    running: RunningCloud, guest: Guest, at_the_end: str
) -> None:
    """48 MiB written over and over: at 16 MiB/s a round takes three seconds, more than any pause that is allowed."""
    running.ssh(guest.instance, f"doas sh -c '{WRITER}'")
    here, began = guest.host(), time.monotonic()
    terms = {"bandwidth_mib_s": 16, "downtime_limit_ms": 600, "auto_converge": False, "deadline_seconds": 240}
    ended = running.wait(guest.order(**terms, at_the_end=at_the_end), 280)
    migration = guest.newest()
    stop, rounds = migration["status"]["downtime_ms"], migration["status"]["iterations"]
    print(f"{at_the_end}: {ended['state']} after {time.monotonic() - began:.1f} s, {rounds} rounds, stop {stop} ms")
    assert rounds > 2, "it was copied again and again"
    if at_the_end == "give_up":
        assert (ended["state"], ended["error"]["code"]) == ("failed", "not_converging")
        assert guest.host() == here
    else:
        assert ended["state"] == "succeeded", ended
        assert guest.host() != here
        assert stop > terms["downtime_limit_ms"], "it was paused for the rest, longer than any pause that was allowed"
    guest.assert_at_one_place()
    guest.ticks()


def _program(running: RunningCloud, name: str) -> None:
    pid = int(running.supervisor._raw("pid", name).stdout.strip() or 0)
    if pid > 0:
        os.kill(pid, signal.SIGKILL)


def _incoming_qemu(running: RunningCloud, host: str, instance_id: str) -> None:
    """kill -9 the QEMU of this guest on this host, found by its number that libvirt keeps."""
    directory = running.place.lab(host) / "run" / "libvirt" / "qemu"
    for file in directory.glob("*.pid"):
        if instance_id[-12:] in file.name:
            try:
                os.kill(int(Path(file).read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                continue


VICTIMS = (
    "source worker",
    "destination worker",
    "control worker",
    "source libvirtd",
    "destination libvirtd",
    "destination QEMU",
)


@pytest.mark.faults
def test_kill_9_at_any_moment_leaves_one_running_copy(running: RunningCloud, guest: Guest) -> None:
    seed = int(os.environ.get("CENOTE_SEED", "0")) or random.randrange(10**6)
    dice = random.Random(seed)
    print(f"seed {seed}")
    hosts = [host.name for host in lab.hosts(running.place)]
    ends: dict[str, int] = {}
    for trial in range(TRIALS):
        victim = VICTIMS[trial % len(VICTIMS)] if LONG else dice.choice(VICTIMS)
        source = guest.host()
        destination = dice.choice([name for name in hosts if name != source])
        strikes: dict[str, Callable[[], None]] = {
            "source worker": lambda source=source: _program(running, f"{source}-node"),
            "destination worker": lambda to=destination: _program(running, f"{to}-node"),
            "control worker": lambda: _program(running, "worker"),
            "source libvirtd": lambda source=source: _program(running, f"{source}-libvirtd"),
            "destination libvirtd": lambda to=destination: _program(running, f"{to}-libvirtd"),
            "destination QEMU": lambda to=destination: _incoming_qemu(running, to, guest.id),
        }
        delay = dice.uniform(0.0, 5.0)
        # The guest is the victim's only where it has come to run there: a kill after the end is no trial of the move.
        before_end = victim != "destination QEMU"
        operation = guest.order(destination=destination, bandwidth_mib_s=40)
        timer = threading.Timer(delay if before_end else min(delay, 1.5), strikes[victim])
        timer.start()
        ended = running.wait(operation, 300)
        timer.join()
        print(f"{victim} killed after {delay:.1f} s: {ended['state']} {(ended['error'] or {}).get('code', '')}")
        assert ended["state"] in ("succeeded", "failed"), ended
        ends[ended["state"]] = ends.get(ended["state"], 0) + 1
        expected = destination if ended["state"] == "succeeded" else source
        assert guest.host() == expected
        guest.assert_at_one_place()
        guest.ticks()
        _wait_until_all_answer(running)
    print(ends)


def _wait_until_all_answer(running: RunningCloud) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        rows = running.read(running.operator.get("/hosts"))["items"]
        if all(row["observed_state"] == "up" for row in rows):
            return
        assert time.monotonic() < deadline, [(row["name"], row["observed_state"]) for row in rows]
        time.sleep(1)
