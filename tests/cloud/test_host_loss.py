"""A lab host loses every process: nothing comes back before the fence, all of it soon after, and never twice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.labhosts import lab
from deploy.labhosts.namespaces import LabHost
from tests.cloud.conftest import RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.faults]
BACK_SECONDS = 90
DOWN_SECONDS = 120
WATCH_SECONDS = 15  # how long nothing may happen while the host is down and not fenced


@pytest.fixture
def victim(running: RunningCloud) -> Iterator[LabHost]:
    """A lab host that is in service before and after, whatever a test does with it."""
    host = lab.hosts(running.place)[0]
    yield host
    running.lab("start", host.name)
    _wait(lambda: _row(running, host)["observed_state"] in ("up", "fenced"), 60)
    if _row(running, host)["observed_state"] == "fenced":
        _wait(lambda: running.operator.post(f"/hosts/{host.name}/actions/return", json={}).status_code == 200, 60)
    _wait(lambda: _row(running, host)["observed_state"] == "up", 90)


@pytest.mark.parametrize("fate", ["killed", pytest.param("cut off", marks=pytest.mark.long)])
def test_nothing_before_the_fence_all_by_priority_after_it_and_never_a_second_copy(
    running: RunningCloud, victim: LabHost, made: Callable[..., dict[str, Any]], fate: str
) -> None:
    guests = _fill(running, victim, made)
    foreseen = running.read(running.operator.get(f"/hosts/{victim.name}/loss"))["guests"]
    returning = [row["instance"]["name"] for row in foreseen if row["host"]]
    assert {guest["name"] for guest in guests} <= set(returning), foreseen

    # Every process of it dies, guests too; or its node worker alone is cut off and the guests run on, as in a partition.
    if fate == "killed":
        running.lab("kill", victim.name)
    else:
        running.supervisor.stop(f"{victim.name}-node")
    here = [] if fate == "killed" else [victim.name]
    _wait(lambda: _row(running, victim)["observed_state"] == "down", DOWN_SECONDS)
    early = running.operator.post(f"/hosts/{victim.name}/actions/evacuate", json={})
    assert (early.status_code, early.json()["code"]) == (409, "invalid_state")
    watched = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < watched:
        for guest in guests:
            assert _homes(running, guest) == here, "started elsewhere before any fence"
        time.sleep(1)

    running.read(running.operator.post(f"/hosts/{victim.name}/actions/fence", json={"reason": "test"}), status=202)
    _wait(lambda: _row(running, victim)["observed_state"] == "fenced", 60)
    proved = time.monotonic()
    loss = running.read(running.operator.get(f"/hosts/{victim.name}/loss"))
    assert loss["fence"]["evidence"].startswith(f"off: {victim.name}")
    assert not victim.exists(), "the fence pulled the plug"
    running.read(running.operator.post(f"/hosts/{victim.name}/actions/evacuate", json={}), status=202)
    _wait(lambda: all(_running_elsewhere(running, guest, victim) for guest in guests), BACK_SECONDS)
    print(f"{len(guests)} guests came back {time.monotonic() - proved:.1f} s after the proof")
    assert time.monotonic() - proved < BACK_SECONDS
    orders = {
        row["target"]["id"]: row["created_at"]
        for row in running.read(running.operator.get("/operations", params={"kind": "instance_evacuate"}))["items"]
    }
    assert sorted(guests, key=lambda guest: str(orders[guest["id"]])) == guests, "by priority"
    for guest in guests:
        assert len(_homes(running, guest)) == 1

    # Switched on with all that it remembers, and with a definition of each guest that libvirt could start.
    running.lab("start", victim.name)
    _wait(lambda: _heard_since(running, victim), 60)
    _wait(lambda: not _defined(victim, guests), 60)
    assert _row(running, victim)["observed_state"] == "fenced"
    _wait(lambda: running.read(running.operator.get(f"/hosts/{victim.name}/loss"))["debts"] == 0, 60)
    running.read(running.operator.post(f"/hosts/{victim.name}/actions/return", json={}))
    _wait(lambda: _row(running, victim)["observed_state"] == "up", 60)
    for guest in guests:
        home = _homes(running, guest)
        assert len(home) == 1, home
        assert home != [victim.name]
    _wait(lambda: not running.audit(), 60)


@pytest.mark.long
def test_a_host_that_was_fenced_by_a_wrong_word_destroys_its_stale_guests_before_anything_else(
    running: RunningCloud, victim: LabHost, made: Callable[..., dict[str, Any]]
) -> None:
    """The operator's word was wrong: the machine ran on. The lock on the disk stands between two copies of a VM."""
    vm = _fill(running, victim, made, names=("wrong-word",))[0]
    running.supervisor.stop(f"{victim.name}-node")
    _wait(lambda: _row(running, victim)["observed_state"] == "down", DOWN_SECONDS)
    body = {"statement": "I am mistaken"}
    running.read(running.operator.post(f"/hosts/{victim.name}/actions/fence", json=body), status=202)
    running.read(running.operator.post(f"/hosts/{victim.name}/actions/evacuate", json={}), status=202)
    _wait(lambda: running.read(running.tenant.get(f"/instances/{vm['id']}"))["error"] is not None, 200)
    assert _homes(running, vm) == [victim.name], "the second start was refused: the disk is locked"
    running.supervisor.start(f"{victim.name}-node")
    _wait(lambda: not _defined(victim, [vm]), 60)
    _wait(lambda: _running_elsewhere(running, vm, victim), 150)
    running.read(running.operator.post(f"/hosts/{victim.name}/actions/return", json={}))
    _wait(lambda: _row(running, victim)["observed_state"] == "up", 60)
    assert len(_homes(running, vm)) == 1
    _wait(lambda: not running.audit(), 60)


def _fill(
    running: RunningCloud,
    victim: LabHost,
    made: Callable[..., dict[str, Any]],
    names: tuple[str, ...] = ("loss-first", "loss-second", "loss-third"),
) -> list[dict[str, Any]]:
    """Make guests on the host, the first of highest priority: the others take none meanwhile."""
    others = [host.name for host in lab.hosts(running.place) if host.name != victim.name]
    for name in others:
        running.read(running.operator.post(f"/hosts/{name}/actions/disable", json={}))
    try:
        found: list[dict[str, Any]] = []
        for place, name in enumerate(reversed(names)):
            image = "tiny" if name == names[0] else "tiny-container"
            guest = made(name, image=image)
            path = f"/instances/{guest['id']}/actions/prioritize"
            running.read(running.operator.post(path, json={"priority": 60 + place}))
            found.insert(0, guest)
        return found
    finally:
        for name in others:
            running.read(running.operator.post(f"/hosts/{name}/actions/enable", json={}))


def _row(running: RunningCloud, host: LabHost) -> dict[str, Any]:
    return running.read(running.operator.get(f"/hosts/{host.name}"))


def _heard_since(running: RunningCloud, host: LabHost) -> bool:
    loss = running.read(running.operator.get(f"/hosts/{host.name}/loss"))
    return bool(_row(running, host)["last_seen_at"] > loss["fence"]["ended_at"])


def _virsh(host: LabHost, *words: str) -> set[str]:
    found: set[str] = set()
    for uri in lab.URIS:
        done = subprocess.run(
            [*host.enter(), "virsh", "-c", uri, "list", "--uuid", *words],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        found |= set(done.stdout.split())
    return found


def _defined(host: LabHost, guests: list[dict[str, Any]]) -> set[str]:
    """Ids of the guests of which the host still has a definition, running or not."""
    return _virsh(host, "--all") & {guest["id"] for guest in guests}


def _homes(running: RunningCloud, guest: dict[str, Any]) -> list[str]:
    """Names of the hosts whose own hypervisor runs the guest now."""
    on = [host for host in lab.hosts(running.place) if host.exists()]
    return [host.name for host in on if guest["id"] in _virsh(host, "--state-running")]


def _running_elsewhere(running: RunningCloud, guest: dict[str, Any], victim: LabHost) -> bool:
    row = running.read(running.operator.get(f"/instances/{guest['id']}"))
    return (
        row["status"] == "running" and row["host"]["name"] != victim.name and victim.name not in _homes(running, guest)
    )


def _wait(done: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.5)
