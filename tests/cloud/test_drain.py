"""Draining real hosts: mixed guests, the control worker killed meanwhile, and nobody stopped without a word."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.labhosts import lab
from tests.cloud.conftest import RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(900)]
HOST = "host1"
Make = Callable[..., dict[str, Any]]


@pytest.fixture
def only_host(running: RunningCloud) -> Iterator[None]:
    """Whatever is made goes to one host, on which there are enough processors, and no other guest; all of them serve again afterwards."""
    others = [host.name for host in lab.hosts(running.place) if host.name != HOST]
    # The demo's first VM may stand on it, and the lab's hosts have disk for twelve small guests and no more.
    body = {"stop": True, "accept_losses": True}
    plan = running.read(running.operator.post(f"/hosts/{HOST}/actions/drain", json=body), status=202)
    assert until_it_stands(running, plan["id"])["state"] == "finished"
    running.read(running.operator.post(f"/hosts/{HOST}/actions/enable", json={}))
    pool = running.read(running.operator.get("/pools"))["items"][0]
    running.read(running.operator.patch(f"/pools/{pool['id']}", json={"vcpu_ratio": 16}))
    for name in others:
        running.read(running.operator.post(f"/hosts/{name}/actions/disable", json={}))
    yield
    for name in (HOST, *others):
        running.operator.post(f"/hosts/{name}/actions/enable", json={})
    running.operator.patch(f"/pools/{pool['id']}", json={"vcpu_ratio": pool["vcpu_ratio"]})


def contract(running: RunningCloud, instance: dict[str, Any], disruption: str) -> None:
    running.read(running.tenant.post(f"/instances/{instance['id']}/actions/contract", json={"disruption": disruption}))


def enable_all(running: RunningCloud) -> None:
    for host in lab.hosts(running.place):
        running.read(running.operator.post(f"/hosts/{host.name}/actions/enable", json={}))


def shown(running: RunningCloud, plan_id: str) -> dict[str, Any]:
    return running.read(running.operator.get(f"/plans/{plan_id}"))


def until_it_stands(running: RunningCloud, plan_id: str, seconds: float = 300) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        plan = shown(running, plan_id)
        if plan["state"] in ("finished", "stopped", "aborted"):
            return plan
        assert time.monotonic() < deadline, plan
        time.sleep(0.5)


def kill_control_worker(running: RunningCloud) -> None:
    pid = int(running.supervisor._raw("pid", "worker").stdout.strip() or 0)
    assert pid > 0
    os.kill(pid, signal.SIGKILL)


def boot_id(running: RunningCloud, instance: dict[str, Any]) -> str:
    return running.ssh(instance, "cat /proc/sys/kernel/random/boot_id")


def mark(running: RunningCloud, instance: dict[str, Any]) -> None:
    running.ssh(instance, f"doas sh -c 'echo {instance['id']} >/root/mark; sync'")


def marked(running: RunningCloud, instance: dict[str, Any]) -> bool:
    return running.ssh(instance, "doas cat /root/mark") == instance["id"]


@pytest.mark.faults
def test_twelve_mixed_guests_leave_though_the_drainer_is_killed_twice(
    running: RunningCloud, made: Make, only_host: None
) -> None:
    vms = [made(f"live-{number}", image="tiny", flavor="nano") for number in range(4)]
    boxes = [made(f"box-{number}") for number in range(3)]
    off = [made(f"off-{number}") for number in range(3)] + [made("off-vm", image="tiny")]
    stubborn = made("no-word")
    for instance in [*boxes, *vms[:1], off[-1]]:
        mark(running, instance)
    for instance in off:
        assert running.act(instance["id"], "stop", force=True)["state"] == "succeeded"
    for instance in boxes:
        contract(running, instance, "restart")
    enable_all(running)
    booted = {vm["id"]: boot_id(running, vm) for vm in vms}
    guests = [*vms, *boxes, *off, stubborn]
    assert len(guests) == 12
    mine = {guest["id"] for guest in guests}
    # The lab's disks are small: with two hosts left, one alone could not take all.
    body = {"accept_losses": True}
    proposed = running.read(running.operator.post(f"/hosts/{HOST}/actions/drain?dry_run=true", json=body))
    fates = {step["instance"]["name"]: (step["way"], step["code"]) for step in proposed["steps"]}
    assert fates["no-word"] == ("none", "would_stop")
    assert {fates[f"live-{number}"] for number in range(4)} == {("live", "")}
    assert {way for name, (way, _) in fates.items() if name.startswith(("box", "off"))} == {"cold"}

    began = time.monotonic()
    running.read(running.operator.post(f"/plans/{proposed['id']}/actions/apply", json={}), status=202)
    for done in (1, 5):
        while shown(running, proposed["id"])["done"] < done:
            assert time.monotonic() < began + 200
            time.sleep(0.1)
        kill_control_worker(running)
    plan = until_it_stands(running, proposed["id"])
    print(f"{plan['done']} guests left {HOST} in {time.monotonic() - began:.1f} s with two kills")
    assert plan["state"] == "stopped"
    assert "no-word: It runs, and would be stopped for it" in plan["reason"]
    contract(running, stubborn, "restart")
    running.read(running.operator.post(f"/plans/{proposed['id']}/actions/resume", json={}), status=202)
    plan = until_it_stands(running, proposed["id"])
    assert plan["state"] == "finished", plan["reason"]
    assert running.read(running.operator.get(f"/hosts/{HOST}"))["admin_state"] == "drained"

    moved = running.read(running.operator.get("/migrations", params={"host": HOST, "limit": 200}))["items"]
    left = [row["instance"]["id"] for row in moved if row["instance"]["id"] in mine and row["state"] == "completed"]
    assert sorted(left) == sorted(mine), "each left once, and nobody twice"
    for vm in vms:
        assert boot_id(running, vm) == booted[vm["id"]], "it ran all the way"
    for instance in [vms[0], *boxes]:
        assert marked(running, instance), "its disk came along"
    assert running.act(off[-1]["id"], "start")["state"] == "succeeded"
    assert marked(running, off[-1])
    assert running.lab("exec", HOST, "--", "virsh", "-c", "qemu:///system", "list", "--all", "--name").strip() == ""
    assert running.lab("exec", HOST, "--", "virsh", "-c", "lxc:///system", "list", "--all", "--name").strip() == ""
    deadline = time.monotonic() + 60
    while faults := running.audit():
        assert time.monotonic() < deadline, faults
        time.sleep(1)


def test_a_drain_that_would_break_n_plus_k_is_refused_with_the_reason(
    running: RunningCloud, made: Make, only_host: None
) -> None:
    """Three guests of which each fills a host: without one of the hosts, the loss of another strands a guest."""
    room = running.read(running.operator.get(f"/hosts/{HOST}"))["capacity"]
    name = f"half-{int(time.time())}"
    flavor = {"name": name, "vcpus": 1, "memory_mib": room["memory_mib"] * 6 // 10, "disk_gib": 2}
    running.read(running.operator.post("/flavors", json=flavor), status=201)
    for host in [host.name for host in lab.hosts(running.place)]:
        for other in lab.hosts(running.place):
            verb = "enable" if other.name == host else "disable"
            running.read(running.operator.post(f"/hosts/{other.name}/actions/{verb}", json={}))
        if host != HOST:
            made(f"on-{host}", image="tiny-container", flavor=name)
    enable_all(running)
    plan = running.read(running.operator.post(f"/hosts/{HOST}/actions/drain?dry_run=true", json={}))
    assert [refusal["code"] for refusal in plan["refusals"]] == ["losses"], plan
    answer = running.operator.post(f"/hosts/{HOST}/actions/drain", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_refused")
    assert "would leave guests without a place" in answer.json()["detail"]
    assert running.read(running.operator.get(f"/hosts/{HOST}"))["admin_state"] == "enabled"
