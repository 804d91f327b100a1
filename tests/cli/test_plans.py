"""Drains from the command line: the plan first, a question, then the moves one by one."""

from __future__ import annotations

from pathlib import Path

from compute.models import Host, Instance, Operation, Plan, Pool
from compute.node.drivers.fake import FakeWire
from compute.sagas.engine import take_turn
from compute.services.plan_turns import take_turn as plan_turn
from tests.api.conftest import World
from tests.cli.conftest import Cli
from tests.factories.compute import make_host
from tests.factories.nodes import PlayedHost, make_due, play, run_to_end
from tests.plans.conftest import open_operations


def two_hosts(cli: Cli, world: World, folder: Path) -> list[PlayedHost]:
    wire = FakeWire()
    here = play(world.host, folder, wire=wire)
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    run_to_end(Operation.objects.get().id, here)
    here.beat()
    there = play(make_host(world.pool, name="second"), folder, wire=wire)
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    Pool.objects.update(shared_storage_id="fake-storage", host_losses=0)
    return [here, there]


def carry_out(plan: Plan, nodes: list[PlayedHost]) -> None:
    for _ in range(30):
        plan_turn(plan_id=plan.id)
        for operation_id in open_operations():
            make_due(operation_id)
            take_turn(operation_id)
        for node in nodes:
            node.run_calls()


def test_an_operator_empties_a_host(cli: Cli, world: World, tmp_path: Path) -> None:
    nodes = two_hosts(cli, world, tmp_path)
    told = cli("host", "drain", world.host.name, "--dry-run", "--as-operator")
    assert told.out.splitlines()[1].split()[:2] == ["1", "web"]
    assert "proposed, 0 of 1 moves done" in told.err
    assert Host.objects.get(id=world.host.id).admin_state == "enabled"
    assert "Say --yes" in cli("host", "drain", world.host.name, "--as-operator", code=2).err
    cli("host", "drain", world.host.name, "--as-operator", "--yes", "--no-wait", "--reason", "new fans")
    plan = Plan.objects.get(state="running")
    cli("plan", "pause", str(plan.id), "--reason", "lunch", "--as-operator")
    cli("plan", "resume", str(plan.id), "--as-operator", "--no-wait")
    carry_out(plan, nodes)
    shown = cli("plan", "show", str(plan.id), "--as-operator", "-o", "json").json
    assert (shown["state"], shown["done"], shown["moves"]) == ("finished", 1, 1)
    assert [(step["way"], step["destination"]["name"], step["state"]) for step in shown["steps"]] == [
        ("live", "second", "done")
    ]
    assert cli("plan", "list", "--as-operator", "-o", "json").json[0]["id"] == str(plan.id)
    assert cli("host", "show", world.host.name, "--as-operator", "-o", "json").json["admin_state"] == "drained"


def test_what_would_stay_is_told_and_a_stop_ends_with_an_error(cli: Cli, world: World, tmp_path: Path) -> None:
    nodes = two_hosts(cli, world, tmp_path)
    contract = cli("instance", "contract", "web", "consent", "-o", "json").json[0]
    assert contract["disruption"] == "consent"
    told = cli("host", "drain", world.host.name, "--dry-run", "--as-operator")
    assert "without its tenant being asked" in told.out
    cli("host", "drain", world.host.name, "--as-operator", "--yes", "--no-wait")
    plan = Plan.objects.get(state="running")
    carry_out(plan, nodes)
    assert cli("plan", "list", "--open", "--as-operator", "-o", "json").json[0]["state"] == "stopped"
    cli("plan", "abort", str(plan.id), "--as-operator", "--yes")
    assert Host.objects.get(id=world.host.id).admin_state == "enabled"
    cli("host", "drain", world.host.name, "--consent", "web", "--as-operator", "--yes", "--no-wait")
    carry_out(Plan.objects.get(state="running"), nodes)
    assert Instance.unscoped.get().host == nodes[1].host


def test_a_contract_that_cannot_be_is_refused(cli: Cli, world: World, tmp_path: Path) -> None:
    two_hosts(cli, world, tmp_path)
    assert "/disruption" in cli("instance", "contract", "web", "sometimes", code=1).err
    kept = cli("instance", "contract", "web", "live", "--pause-limit", "250", "-o", "json").json[0]
    assert kept["pause_limit_ms"] == 250
    assert "permission_denied" in cli("host", "drain", world.host.name, "--dry-run", code=1).err
