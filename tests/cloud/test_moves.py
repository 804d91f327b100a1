"""Cold moves between real hosts: nobody is stopped unasked, and disk and address come along."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.labhosts import lab
from tests.cloud.conftest import RunningCloud

pytestmark = [pytest.mark.cloud, pytest.mark.timeout(600)]
SETTLE_SECONDS = 60
Make = Callable[..., dict[str, Any]]


@dataclass
class Mover:
    """An instance with a mark on its disk, which operators move about."""

    running: RunningCloud
    instance: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.instance["id"])

    def mark(self) -> None:
        self.running.ssh(self.instance, f"doas sh -c 'echo {self.id} >/root/mark; sync'")

    def marked(self) -> bool:
        return self.running.ssh(self.instance, "doas cat /root/mark") == self.id

    def shown(self) -> dict[str, Any]:
        return self.running.read(self.running.operator.get(f"/instances/{self.id}"))

    def post(self, query: str = "", **body: Any) -> Any:
        return self.running.operator.post(f"/instances/{self.id}/actions/move{query}", json=body)

    def move(self, **body: Any) -> str:
        """Move it to where a dry run says that it would go; return that host's name."""
        before = self.shown()["host"]["name"]
        told = self.running.read(self.post("?dry_run=true", **body), status=200)
        assert told["obstacles"] == []
        there = str(told["destination"]["name"])
        assert (told["source"]["name"], there != before) == (before, True)
        ordered = self.running.read(self.post(**body, destination=there), status=202)
        ended = self.running.wait(ordered["operation"]["id"])
        assert ended["state"] == "succeeded", ended
        rows = self.running.read(self.running.operator.get("/migrations", params={"instance": self.id}))["items"]
        assert [(row["way"], row["state"], row["source"]["name"], row["destination"]["name"]) for row in rows] == [
            ("cold", "completed", before, there)
        ]
        seen = self.running.tenant.get(f"/operations/{ordered['operation']['id']}").text
        assert [host.name for host in lab.hosts(self.running.place) if host.name in seen] == [], "tenants see no hosts"
        return there

    def domains(self) -> dict[str, str]:
        """Return each host's word on its domain, where it has one."""
        uri = "lxc:///system" if self.instance["kind"] == "container" else "qemu:///system"
        found = {}
        for host in lab.hosts(self.running.place):
            done = subprocess.run(
                [*host.enter(), "virsh", "-c", uri, "domstate", self.id],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            if done.returncode == 0:
                found[host.name] = done.stdout.strip()
        return found

    def assert_settled(self, domains: dict[str, str]) -> None:
        """Within a minute the hosts have these domains of it and no others, and everything adds up."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            found = self.domains()
            faults = self.running.audit() if found == domains else [f"{found} instead of {domains}"]
            if not faults:
                return
            assert time.monotonic() < deadline, faults
            time.sleep(1)


def test_a_container_is_stopped_only_with_a_word_and_comes_back_elsewhere_with_its_file_and_address(
    running: RunningCloud, made: Make
) -> None:
    box = Mover(running, made("box"))
    box.mark()
    before = box.shown()
    refused = box.post()
    assert (refused.status_code, refused.json()["code"]) == (409, "not_movable")
    assert [obstacle["code"] for obstacle in refused.json()["obstacles"]] == ["would_stop"]
    assert box.domains() == {before["host"]["name"]: "running"}, "it runs on"
    there = box.move(stop=True)
    after = box.shown()
    assert (after["host"]["name"], after["status"]) == (there, "running")
    assert after["addresses"] == before["addresses"]
    assert box.marked(), "it answers at its address, with its disk"
    box.assert_settled({there: "running"})


def test_a_stopped_vm_moves_without_being_started_and_starts_at_its_new_host(running: RunningCloud, made: Make) -> None:
    guest = Mover(running, made("sleeper", image="tiny"))
    guest.mark()
    assert running.act(guest.id, "stop")["state"] == "succeeded"
    before = guest.shown()
    there = guest.move()
    after = guest.shown()
    assert (after["host"]["name"], after["status"]) == (there, "stopped")
    assert after["addresses"] == before["addresses"]
    guest.assert_settled({})
    assert running.act(guest.id, "start")["state"] == "succeeded"
    assert guest.marked(), "it answers at its address, with its disk"
    guest.assert_settled({there: "running"})
