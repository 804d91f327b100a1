"""`deploy/join` makes a real Debian 12 a host over TLS: systemd services, control groups version 2, reboot, leaving.

The machine shares the pool's storage with the cloud, as by NFS. VMs are not asked of it: under a second translation they
may not come up in time, and then the host serves containers alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.steps.control import manage
from tests.cloud.conftest import RunningCloud
from tests.cloud.machine import CLOUD_ADDRESS, VIRTIOFSD, Machine, build_machine
from tests.images.seeds import make_keypair
from tests.images.vm import free_port

pytestmark = [
    pytest.mark.cloud,
    pytest.mark.long,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not VIRTIOFSD.exists(), reason=f"{VIRTIOFSD} (Debian 12: qemu-system-common) is not there"),
]

PROOF_SECONDS = 600
GUEST_SECONDS = 300
SERVICES = ("cenote-node", "libvirtd", "libvirt-guests")


@pytest.fixture
def door(running: RunningCloud) -> Iterator[int]:
    """The cloud's TLS door on this machine's loopback, with the address by which the machine knows that."""
    port = free_port()
    running.up("--listen", f"127.0.0.1:{port}", "--known-as", CLOUD_ADDRESS)
    yield port
    running.up("--listen", "")


@pytest.fixture
def machine(running: RunningCloud, tmp_path: Path) -> Iterator[Machine]:
    image = tmp_path / "image"
    try:
        build_machine(image, running.place.venv)
        name = f"real-{uuid.uuid4().hex[:6]}"
        with Machine(image, tmp_path, make_keypair(tmp_path), name=name, shared=running.place.shared) as machine:
            yield machine
    finally:
        # Gigabytes, which pytest would keep for three runs.
        shutil.rmtree(image, ignore_errors=True)
        (tmp_path / "disk.qcow2").unlink(missing_ok=True)


@pytest.fixture
def only(running: RunningCloud, machine: Machine) -> Iterator[Callable[[], None]]:
    """Have placement use no host but the machine, until the test ends."""
    others = [row["name"] for row in running.read(running.operator.get("/hosts"))["items"]]

    def disable_others() -> None:
        for name in others:
            running.read(running.operator.post(f"/hosts/{name}/actions/disable", json={}))

    yield disable_others
    for name in others:
        running.operator.post(f"/hosts/{name}/actions/enable", json={})


def test_a_debian_machine_joins_serves_reboots_and_leaves(
    running: RunningCloud, door: int, machine: Machine, only: Callable[[], None]
) -> None:
    assert machine.root("stat -f -c %T /sys/fs/cgroup") == "cgroup2fs"
    # The packages of deploy/ have left nothing of theirs that would start at boot.
    enabled = machine.root("systemctl list-unit-files --state=enabled --no-legend")
    assert [unit for unit in enabled.splitlines() if re.search("virt|postgres|redis", unit)] == []

    join(running, machine, door)
    assert active(machine)
    wait("the proof", lambda: shown(running, machine)["proved_at"], PROOF_SECONDS)
    check_proof(shown(running, machine))
    check_certificate(machine, shown(running, machine)["address"])
    if shown(running, machine)["admin_state"] == "disabled":  # its VM did not come up in time
        running.read(running.operator.post(f"/hosts/{machine.name}/actions/enable", json={}))

    only()
    guest = running.run("on-real", seconds=GUEST_SECONDS)
    assert running.read(running.operator.get(f"/instances/{guest['id']}"))["host"]["name"] == machine.name
    check_limits(machine, guest)
    # systemd sets the limits of its own groups again.
    machine.root("systemctl daemon-reload")
    check_limits(machine, guest)

    machine.reboot()
    assert active(machine)
    wait("the guest's second start", lambda: guests(machine) == [guest["id"]], GUEST_SECONDS)
    wait("its limits", lambda: limits(machine, guest)["libvirt/pids.max"] != "max", 60)
    check_limits(machine, guest)

    running.delete(guest["id"], GUEST_SECONDS)
    assert guests(machine) == []
    running.read(running.operator.post(f"/hosts/{machine.name}/actions/disable", json={}))
    assert running.operator.delete(f"/hosts/{machine.name}").status_code == 204
    wait("a clean audit", lambda: running.audit() == [], 75)


def join(running: RunningCloud, machine: Machine, door: int) -> None:
    """Join with a one-time token; then once more, which changes nothing."""
    words = ("host_join_token", "--pool", "lab", "--name", machine.name)
    token = manage(running.place, *words).strip().splitlines()[-1]
    ca = (running.place.state / "ca" / "ca.pem").read_text()
    machine.root(f"cat >/root/ca.pem <<'END'\n{ca}\nEND")
    command = f"/opt/cenote/deploy/join --cloud https://{CLOUD_ADDRESS}:{door} --ca /root/ca.pem"
    environment = f"CENOTE_VENV={running.place.venv}"
    with pytest.raises(subprocess.CalledProcessError):
        machine.root(f"{environment} CENOTE_JOIN_TOKEN=cnj_wrong {command}", timeout=300)
    machine.root(f"{environment} CENOTE_JOIN_TOKEN={token} {command}", timeout=300)
    before = machine.root("systemctl show -p MainPID cenote-node; sha256sum /etc/cenote/* /etc/libvirt/*.conf")
    machine.root(f"{environment} {command}", timeout=300)
    assert machine.root("systemctl show -p MainPID cenote-node; sha256sum /etc/cenote/* /etc/libvirt/*.conf") == before


def active(machine: Machine) -> bool:
    return machine.root(f"systemctl is-active {' '.join(SERVICES)}").split() == ["active"] * len(SERVICES)


def check_proof(row: dict[str, Any]) -> None:
    assert row["facts"]["cgroup_version"] == 2
    steps = {step["name"]: step for step in row["proof"]["steps"]}
    assert {name: step["detail"] for name, step in steps.items() if not step["ok"] and name != "vm"} == {}
    # Without a word about what this kernel cannot do.
    assert steps["cgroups"]["detail"] == "control groups version 2"


def check_certificate(machine: Machine, address: str) -> None:
    """libvirt shows a certificate that the cloud's authority signed for this host, and talks to nobody who has none."""
    assert "QEMU" in machine.root(f"virsh -c qemu://{address}/system version")
    machine.root("mkdir /root/stranger && cp /etc/pki/CA/cacert.pem /root/stranger/")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        machine.root(f"virsh -c 'qemu://{address}/system?pkipath=/root/stranger' version")
    assert "Cannot read" not in refused.value.stderr


def shown(running: RunningCloud, machine: Machine) -> dict[str, Any]:
    return running.read(running.operator.get(f"/hosts/{machine.name}"))


def guests(machine: Machine) -> list[str]:
    return machine.root("virsh -c lxc:///system list --uuid").split()


def limits(machine: Machine, guest: dict[str, Any]) -> dict[str, str]:
    """Return what the kernel says of a container: its own group's files, and the weights of systemd's scope around it."""
    script = f"""
        scope=$(find /sys/fs/cgroup/machine.slice -type d -name '*{guest["id"][-12:]}*.scope')
        for file in libvirt/memory.max libvirt/memory.swap.max libvirt/cpu.max libvirt/pids.max cpu.weight io.weight
        do echo "$file=$(cat "$scope/$file")"; done
        echo "uid_map=$(cat /proc/$(pgrep -P $(virsh -c lxc:///system domid {guest["id"]}))/uid_map)"
    """
    lines = machine.root(script).splitlines()
    return {name: " ".join(value.split()) for name, _, value in (line.partition("=") for line in lines)}


def check_limits(machine: Machine, guest: dict[str, Any]) -> None:
    vcpus, memory_mib = guest["flavor"]["vcpus"], guest["flavor"]["memory_mib"]
    assert limits(machine, guest) == {
        "libvirt/memory.max": str(memory_mib << 20),
        "libvirt/memory.swap.max": "0",
        "libvirt/cpu.max": f"{vcpus * 100_000} 100000",
        "libvirt/pids.max": "4096",
        "cpu.weight": str(100 * vcpus),
        "io.weight": "default 500",
        "uid_map": "0 100000 65536",
    }


def wait(what: str, true: Callable[[], Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:.0f} s"
        time.sleep(2)
