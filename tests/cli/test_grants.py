"""cenote grant ..., cenote alarm ...: what people and scripts see."""

from __future__ import annotations

from compute.models import Alarm
from tests.api.conftest import World
from tests.cli.conftest import Cli
from tests.factories.compute import make_host


def test_a_grant_is_made_listed_changed_and_taken_back(cli: Cli, world: World) -> None:
    make_host(world.pool)
    words = ("acme", "--pool", "lab", "--units", "2", "--unit", "nano", "--limit", "vcpus=8", "--as-operator")
    assert "permission_denied" in cli("grant", "create", *words[:-1], code=1).err
    cli("grant", "create", *words)
    line = cli("grant", "list").out.splitlines()[1].split()
    assert line[:5] == ["acme", "lab", "2", "0", "nano"]
    assert "0/8 vcpus" in cli("grant", "list").out
    cli("instance", "create", "web", "--flavor", "nano", "--image", "tiny", "--no-wait")
    cli("grant", "set", "acme", "-p", "lab", "--limit", "vcpus=0", "--as-operator")
    assert "1/0 vcpus (1 over)" in cli("grant", "list").out
    cli("grant", "set", "acme", "-p", "lab", "--units", "1", "--limit", "vcpus=none", "--as-operator")
    assert cli("grant", "list", "-o", "json").json[0]["units"] == 1
    assert "vcpus=16" in cli("grant", "set", "acme", "-p", "lab", "--limit", "vcpus", "--as-operator", code=2).err
    cli("grant", "delete", "acme", "-p", "lab", "--yes", "--as-operator")
    assert cli("grant", "list", "-o", "json").json == []
    assert "no grant" in cli("grant", "delete", "acme", "-p", "lab", "--yes", "--as-operator", code=2).err


def test_alarms_are_listed(cli: Cli, world: World) -> None:
    Alarm.objects.create(kind="promise_broken", pool=world.pool, subject="x", message="three units are missing")
    assert "three units are missing" in cli("alarm", "list", "--as-operator").out
