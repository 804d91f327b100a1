"""Parts are killed at random while instances are made and deleted; afterwards everything has an end and the books agree."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.labhosts import lab, namespaces
from tests.cloud.conftest import FINAL, RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.faults]
LONG = os.environ.get("CENOTE_LONG") == "1"
CREATES = 30 if LONG else 10
SETTLE_SECONDS = 90


def _children(pid: int) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
                found.append(int(entry))
    return found


def _kill(running: RunningCloud, program: str) -> None:
    """kill -9 a supervised program's process and its children, by their ids. The supervisor starts it again."""
    done = running.supervisor._raw("pid", program)
    pid = int(done.stdout.strip() or 0)
    if pid <= 0:
        return
    for victim in [*_children(pid), pid]:
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _empty_broker(running: RunningCloud) -> None:
    """kill -9 Redis and throw away what it kept: it comes back knowing nothing."""
    _kill(running, "redis")
    for file in (running.place.state / "redis").rglob("appendonly*"):
        if file.is_file():
            file.unlink(missing_ok=True)
    _kill(running, "redis")


def _victims(running: RunningCloud) -> dict[str, Any]:
    return {
        "control worker": lambda: _kill(running, "worker"),
        "node worker": lambda: _kill(running, "host1-node"),
        "libvirtd": lambda: _kill(running, "host2-libvirtd"),
        "redis, emptied": lambda: _empty_broker(running),
    }


@pytest.mark.parametrize("victim", ["control worker", "node worker", "libvirtd", "redis, emptied"])
def test_kill_9_during_creates_and_deletes_leaves_nothing_behind(running: RunningCloud, victim: str) -> None:
    seed = int(os.environ.get("CENOTE_SEED", "0")) or random.randrange(10**6)
    print(f"{victim}: seed {seed}")
    dice = random.Random(seed)
    strike = _victims(running)[victim]
    operations: list[str] = []
    instances: list[str] = []
    over = threading.Event()

    def torment() -> None:
        while not over.is_set():
            over.wait(dice.uniform(0.5, 3.0))
            strike()

    tormentor = threading.Thread(target=torment)
    tormentor.start()
    try:
        for number in range(CREATES):
            made = _create(running, f"chaos-{number}", dice.choice(["tiny", "tiny-container"]))
            while made is None:
                # Full: the lab is small. One goes, and its room comes back when its delete has ended.
                operations += _delete(running, instances.pop(dice.randrange(len(instances)))) if instances else []
                time.sleep(2)
                made = _create(running, f"chaos-{number}", dice.choice(["tiny", "tiny-container"]))
            operations.append(made["operation"]["id"])
            instances.append(made["instance"]["id"])
            time.sleep(dice.uniform(0.05, 0.6))
            if dice.random() < 0.6:
                operations += _delete(running, instances.pop(dice.randrange(len(instances))))
        for instance_id in instances:
            operations += _delete(running, instance_id)
    finally:
        over.set()
        tormentor.join()
    _wait_for_all(running, operations, time.monotonic() + SETTLE_SECONDS)
    # Deletes that a fault made fail are asked for again, as a tenant would; a create that failed left a record to delete.
    again = [pk for row in _left(running) for pk in _delete(running, row["id"])]
    _wait_for_all(running, again, time.monotonic() + SETTLE_SECONDS)
    _assert_clean(running)


def _create(running: RunningCloud, name: str, image: str) -> dict[str, Any] | None:
    """Return what was ordered, None where no host has room now."""
    answer = running.ask_for(name, image)
    if answer.status_code == 409 and answer.json()["code"] == "no_valid_host":
        return None
    return running.read(answer)


def _delete(running: RunningCloud, instance_id: str) -> list[str]:
    answer = running.tenant.delete(f"/instances/{instance_id}")
    assert answer.status_code in (202, 404, 409), answer.text
    return [answer.json()["operation"]["id"]] if answer.status_code == 202 else []


def _wait_for_all(running: RunningCloud, operations: list[str], deadline: float) -> None:
    waiting = set(operations)
    while waiting:
        for operation_id in list(waiting):
            try:
                state = running.read(running.tenant.get(f"/operations/{operation_id}"))["state"]
            except httpx.HTTPError:
                continue
            assert state != "stuck", running.tenant.get(f"/operations/{operation_id}").text
            if state in FINAL:
                waiting.discard(operation_id)
        assert time.monotonic() < deadline, [running.tenant.get(f"/operations/{pk}").text for pk in waiting]
        time.sleep(0.5)


def _left(running: RunningCloud) -> list[dict[str, Any]]:
    rows = running.read(running.tenant.get("/instances", params={"limit": 200}))["items"]
    return [row for row in rows if row["name"].startswith("chaos-")]


def _assert_clean(running: RunningCloud) -> None:
    """No instance, domain, disk, namespace or figure of the torment is left, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        faults = running.audit() + _leftovers(running)
        if not faults:
            return
        assert time.monotonic() < deadline, faults
        time.sleep(2)


def _leftovers(running: RunningCloud) -> list[str]:
    found = [f"instance {row['name']} is {row['status']}" for row in _left(running)]
    live = {row["id"] for row in running.read(running.operator.get("/instances", params={"limit": 200}))["items"]}
    for host in lab.hosts(running.place):
        for uri in ("qemu:///system", "lxc:///system"):
            done = subprocess.run(
                [*host.enter(), "virsh", "-c", uri, "list", "--all", "--uuid"],
                capture_output=True,
                text=True,
                check=False,
            )
            found += [f"{host.name}: domain {uuid}" for uuid in done.stdout.split() if uuid not in live]
        assert namespaces.processes(host), f"{host.name} is alive"
    disks = {entry.name for entry in (running.place.shared / "instances").iterdir()}
    return found + [f"disk of {name}" for name in disks - live]
