"""`deploy/join` on a machine made of namespaces: it has to end as a host in service on which guests run."""

from __future__ import annotations

import os
import subprocess
import time
import uuid

import pytest

from deploy.labhosts import namespaces
from deploy.labhosts.namespaces import LabHost
from deploy.steps.control import manage
from deploy.steps.place import REPO
from tests.cloud.conftest import RunningCloud

NUMBER = 41
PROOF_SECONDS = 400


@pytest.fixture
def machine(running: RunningCloud):
    """A machine that is no host yet: namespaces, the pool's storage mounted, nothing configured."""
    host = LabHost(running.place, NUMBER)
    namespaces.make_switch(running.place)
    namespaces.make_host(host)
    namespaces.boot(host)
    yield host
    namespaces.end_processes(host)
    namespaces.unmake(host)
    subprocess.run(["rm", "-rf", "--one-file-system", str(host.dir)], check=True)


def join(running, machine, name, token):
    words = ["--cloud", f"http+unix://{running.place.doors / 'web.sock'}", "--name", name]
    share = ["--address", machine.address, "--vcpus", "1", "--memory-mib", "1024", "--disk-gib", "4"]
    return subprocess.run(
        [*machine.enter(), str(REPO / "deploy" / "join"), *words, *share],
        env={**running.shell_env, "PATH": os.environ["PATH"], "CENOTE_JOIN_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.cloud
@pytest.mark.timeout(1200)
def test_a_machine_joins_by_one_command_and_runs_guests(running: RunningCloud, machine):
    name = f"machine-{uuid.uuid4().hex[:6]}"
    token = manage(running.place, "host_join_token", "--pool", "lab", "--name", name).strip().splitlines()[-1]

    refused = join(running, machine, name, "cnj_wrong")
    assert refused.returncode == 1
    assert "unknown, used or expired" in refused.stderr

    done = join(running, machine, name, token)
    assert done.returncode == 0, done.stderr
    again = join(running, machine, name, "")
    assert again.returncode == 0, again.stderr

    deadline = time.monotonic() + PROOF_SECONDS
    while (row := running.read(running.operator.get(f"/hosts/{name}")))["admin_state"] != "enabled":
        assert row["admin_state"] == "enrolling", row
        assert time.monotonic() < deadline, row
        time.sleep(1)
    assert row["total"] == {"vcpus": 1, "memory_mib": 1024, "disk_gib": 4}

    others = [host["name"] for host in running.read(running.operator.get("/hosts"))["items"] if host["name"] != name]
    made = []
    try:
        for other in others:
            running.read(running.operator.post(f"/hosts/{other}/actions/disable", json={}))
        for image in ("tiny", "tiny-container"):
            guest = running.run(f"joined-{image}", image=image)
            made.append(guest["id"])
            shown = running.read(running.operator.get(f"/instances/{guest['id']}"))
            assert shown["host"]["name"] == name
            assert running.ssh(guest, "hostname", 180) == guest["name"]
    finally:
        for guest_id in made:
            running.delete(guest_id)
        for other in others:
            running.operator.post(f"/hosts/{other}/actions/enable", json={})
        running.operator.post(f"/hosts/{name}/actions/disable", json={})
        running.operator.delete(f"/hosts/{name}")
    # The other hosts look at the shared storage every 30 s; one may have looked while a disk was being deleted.
    deadline = time.monotonic() + 75
    while violations := running.audit():
        assert time.monotonic() < deadline, violations
        time.sleep(2)
