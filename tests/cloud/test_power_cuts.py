"""The cloud's own parts are cut off; one more `deploy/up` mends it, and guests that need not notice do not."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import httpx
import pytest

from deploy.labhosts import lab, namespaces
from deploy.steps import footprint
from deploy.steps.place import REPO
from tests.cloud.conftest import RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.faults]
LIMIT_MIB = 1024
FEWEST_MIB = 100  # a sum below this has missed processes


def _up(running: RunningCloud) -> None:
    done = subprocess.run(
        [REPO / "deploy" / "up", "--no-guests"],
        env=running.shell_env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _guests(running: RunningCloud) -> set[int]:
    """Return the processes that are guests: QEMU, and the controllers of containers."""
    found = set()
    for host in lab.hosts(running.place):
        for pid in namespaces.processes(host):
            try:
                program = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
            except OSError:
                continue
            if program in ("qemu-system-x86_64", "libvirt_lxc"):
                found.add(pid)
    return found


def _wait_running(running: RunningCloud, instance_id: str, since: str) -> None:
    """Wait until an instance was seen running after `since`, a time of the database's."""
    deadline = time.monotonic() + 90
    row: dict[str, object] = {}
    while time.monotonic() < deadline:
        try:
            row = running.read(running.tenant.get(f"/instances/{instance_id}"))
        except httpx.HTTPError:
            row = {}
        if row.get("status") == "running" and str(row["power_observed_at"]) > since:
            return
        time.sleep(0.5)
    raise AssertionError(row)


def test_the_idle_control_plane_is_under_one_gib(running: RunningCloud) -> None:
    found = footprint.measure(running.place)
    print({name: round(mib) for name, mib in found.items()})
    assert {"postgres", "redis", "web", "worker", "relay", "beat"} <= set(found)
    assert FEWEST_MIB < sum(found.values()) < LIMIT_MIB


def test_guests_survive_a_killed_supervisor_and_up_mends_it(running: RunningCloud) -> None:
    before = _guests(running)
    assert before
    old = running.supervisor.pid()
    os.kill(old, signal.SIGKILL)
    _up(running)
    assert running.supervisor.pid() != old
    assert set(running.supervisor.status().values()) == {"RUNNING"}
    assert _guests(running) == before
    assert running.audit() == []


def test_a_host_that_lost_its_power_comes_back_with_its_guests(running: RunningCloud) -> None:
    instance = running.run("on-a-dying-host")
    try:
        running.ssh(instance, "echo kept >kept && sync")
        row = running.read(running.operator.get(f"/instances/{instance['id']}"))
        name, since = row["host"]["name"], row["power_observed_at"]
        host = lab.host_named(running.place, name)
        running.lab("kill", name)
        assert not host.exists()
        assert namespaces.processes(host) == set()
        running.lab("start", name)
        _wait_running(running, instance["id"], since)
        assert running.ssh(instance, "cat kept") == "kept"
    finally:
        running.delete(instance["id"])
