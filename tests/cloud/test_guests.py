"""The whole road with real hypervisors: asked for by the API, made by libvirt, reached by SSH."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compute.node.settings import partition_base
from compute.wire import partition_name
from deploy.steps.place import REPO
from tests.cloud.conftest import RunningCloud
from tests.node.control import wait_for

pytestmark = pytest.mark.cloud
ROOT = Path("/sys/fs/cgroup")
WEIGHTS = {"cpu.shares": "1024", "cpu.weight": "100"}  # what normal shares are in each version
Make = Callable[..., dict[str, Any]]


def test_first_vm_and_container_answer_with_their_names(running: RunningCloud) -> None:
    rows = running.read(running.tenant.get("/instances"))["items"]
    first = {row["name"]: row for row in rows if row["name"].startswith("first-")}
    assert set(first) == {"first-vm", "first-container"}
    for name, instance in first.items():
        assert running.ssh(instance, "hostname") == name


@pytest.mark.parametrize(("image", "flavor"), [("tiny", "micro"), ("tiny-container", "nano")])
def test_user_data_runs_and_files_outlive_a_restart(running: RunningCloud, made: Make, image: str, flavor: str) -> None:
    script = "#!/bin/sh\necho from-user-data >/root/said\nchmod 644 /root/said\nchmod 755 /root\n"
    instance = made(f"data-{image}", image=image, flavor=flavor, user_data=script)
    assert running.ssh(instance, "cat /root/said") == "from-user-data"
    running.ssh(instance, "echo kept >kept && sync")
    assert running.act(instance["id"], "stop")["state"] == "succeeded"
    assert running.read(running.tenant.get(f"/instances/{instance['id']}"))["status"] == "stopped"
    assert running.act(instance["id"], "start")["state"] == "succeeded"
    assert running.ssh(instance, "cat kept") == "kept"
    assert running.act(instance["id"], "reboot")["state"] == "succeeded"
    assert running.ssh(instance, "cat kept") == "kept"


def test_console_log_shows_what_the_guest_said(running: RunningCloud, made: Make) -> None:
    instance = made("talks", image="tiny", flavor="micro")
    deadline = time.monotonic() + 60
    text = ""
    while "cenote: ready" not in text and time.monotonic() < deadline:
        text = running.read(running.tenant.get(f"/instances/{instance['id']}/console-log"))["text"]
    assert "cenote: ready" in text


def test_guests_on_different_hosts_share_one_network(running: RunningCloud, made: Make) -> None:
    guests = [made(f"peer-{number}") for number in range(3)]
    rows = running.read(running.operator.get("/instances", params={"limit": 200}))["items"]
    hosts = {row["id"]: row["host"]["name"] for row in rows if row["id"] in {guest["id"] for guest in guests}}
    assert len(set(hosts.values())) > 1, "spread places them apart"
    other = guests[1]["addresses"][0]["address"], guests[2]["addresses"][0]["address"]
    running.ssh(guests[1], "true")
    running.ssh(guests[2], "true")
    for address in other:
        assert "1 packets received" in running.ssh(guests[0], f"doas ping -c 1 -W 5 {address}")


def test_containers_are_not_root_on_their_host(running: RunningCloud, made: Make) -> None:
    instance = made("confined")
    assert running.ssh(instance, "cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
    assert running.ssh(instance, "(: >>/proc/sysrq-trigger) 2>/dev/null && echo writable || echo closed") == "closed"


def test_cpu_of_a_tenant_is_seen_and_a_weight_changed_by_hand_is_mended(running: RunningCloud, made: Make) -> None:
    instance = made("busy", user_data="#!/bin/sh\nwhile :; do :; done\n")
    name = running.read(running.operator.get(f"/instances/{instance['id']}"))["host"]["name"]
    host = running.read(running.operator.get(f"/hosts/{name}"))

    def share() -> dict[str, Any]:
        items = running.read(running.operator.get(f"/hosts/{name}/shares"))["items"]
        return next((item for item in items if item["delivered"] > 0.1), {})

    wait_for(lambda: bool(share()), 60, "CPU that somebody got")
    seen = share()
    assert 0 < seen["entitled"] <= seen["wanted"] + 1e-6
    mine = running.tenant.get("/usage/shares")
    assert sum(item["delivered"] for item in running.read(mine)["items"]) > 0.1
    assert name not in mine.text
    base, partition = partition_base(host["id"]), partition_name(seen["tenant"]["id"])
    # Not all of the tree: a group of somebody else may go while it is walked.
    tops = [top / f"{base}.partition" for top in (ROOT / "machine", *ROOT.glob("*/machine"))]
    found = [file for top in tops for file in top.glob(f"**/{partition}.partition/cpu.*")]
    weights = [file for file in found if file.name in WEIGHTS]
    assert len(weights) == 1
    assert weights[0].read_text().strip() == WEIGHTS[weights[0].name]
    weights[0].write_text("7")
    wait_for(lambda: weights[0].read_text().strip() == WEIGHTS[weights[0].name], 30, "the weight to be mended")


def test_a_lab_host_sees_no_secret_but_its_own(running: RunningCloud) -> None:
    state = running.place.state
    seen = running.lab("exec", "host1", "--", "find", str(state), "-maxdepth", "2", "-not", "-path", f"{state}/venv/*")
    assert f"{state}/run/doors" in seen
    for hidden in ("cloud.env", "demo.env", "postgres", "lab", "private"):
        assert hidden not in seen.replace(str(state), ""), seen
    own = running.lab("exec", "host1", "--", "cat", "/etc/cenote/node.env")
    other = running.lab("exec", "host2", "--", "cat", "/etc/cenote/node.env")
    assert own != other


def test_a_foreign_domain_is_never_touched(running: RunningCloud) -> None:
    xml = "<domain type='qemu'><name>somebody-elses</name><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>"
    where = running.place.lab("host1") / "cenote" / "foreign.xml"
    where.write_text(xml)
    running.lab("exec", "host1", "--", "virsh", "define", "/var/lib/cenote/foreign.xml")
    try:
        time.sleep(12)
        assert "somebody-elses" in running.lab("exec", "host1", "--", "virsh", "list", "--all", "--name")
        assert running.audit() == []
    finally:
        running.lab("exec", "host1", "--", "virsh", "undefine", "somebody-elses")
        where.unlink()


def test_cenote_ssh_reaches_a_guest_by_name(running: RunningCloud) -> None:
    done = subprocess.run(
        [REPO / "deploy" / "cenote", "ssh", "first-container", "--", "hostname"],
        env={**running.shell_env, **running.env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "first-container"


def test_up_again_changes_nothing_and_is_quick(running: RunningCloud) -> None:
    before = running.supervisor.status()
    pids = running.supervisor.pid()
    began = time.monotonic()
    done = subprocess.run([REPO / "deploy" / "up"], env=running.shell_env, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert running.supervisor.status() == before
    assert running.supervisor.pid() == pids
    # The contract's own bound; a loaded machine has been seen at half of it.
    assert seconds < 30


def test_a_tenant_goes_with_its_guests_and_nothing_of_it_stays(running: RunningCloud) -> None:
    running.read(running.tenant.post("/tenants", json={"name": "leaving"}), status=201)
    for image, flavor in (("tiny", "micro"), ("tiny-container", "nano")):
        order = running.read(running.ask_for(f"going-{image}", image, flavor, tenant="leaving", keypairs=[]))
        assert running.wait(order["operation"]["id"])["state"] == "succeeded"
    plan = running.read(running.tenant.delete("/tenants/leaving", params={"dry_run": "true"}))
    assert (plan["counts"]["instances"], plan["counts"]["tenants"]) == (2, 1)
    agreed = {"cascade": "true", "fingerprint": plan["fingerprint"]}
    accepted = running.read(running.tenant.delete("/tenants/leaving", params=agreed), status=202)
    ended = running.wait(accepted["operation"]["id"])
    assert ended["state"] == "succeeded", ended
    assert [step["note"] for step in ended["steps"]] == ["2 of 2 instances deleted", None, "1 of 1 tenants deleted"]
    assert running.tenant.get("/tenants/leaving").status_code == 404
    wait_for(lambda: running.audit() == [], 60, "books that agree with the hosts")
