"""Migrations from the command line: foretold, ordered, shown."""

from __future__ import annotations

from pathlib import Path

from compute.models import Host, Instance, Operation
from compute.node.drivers.fake import FakeWire
from tests.api.conftest import World
from tests.cli.conftest import Cli
from tests.factories.compute import make_host
from tests.factories.nodes import play, run_to_end


def test_an_operator_moves_a_running_vm(cli: Cli, world: World, tmp_path: Path) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    wire = FakeWire()
    here = play(world.host, tmp_path, wire=wire)
    run_to_end(Operation.objects.get().id, here)
    here.beat()
    refused = cli("instance", "migrate", "web", "--dry-run", "--as-operator", code=4)
    assert "does not see the pool's shared storage" in refused.err
    there = play(make_host(world.pool, name="second"), tmp_path, wire=wire)
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    world.pool.shared_storage_id = "fake-storage"
    world.pool.save()
    told = cli("instance", "migrate", "web", "--dry-run", "--as-operator")
    assert told.out.splitlines()[1].split()[:2] == [world.host.name, "second"]
    assert Instance.unscoped.get().host == world.host
    cli("instance", "migrate", "web", "--to", "second", "--reason", "new fans", "--as-operator", "--no-wait")
    assert cli("instance", "show", "web", "-o", "json").json["status"] == "migrating"
    shown = cli("migration", "list", "--open", "--as-operator", "-o", "json").json[0]
    assert (shown["source"]["name"], shown["destination"]["name"], shown["state"]) == (
        world.host.name,
        "second",
        "claimed",
    )
    assert run_to_end(Operation.objects.get(kind="instance_migrate").id, here, there).state == "succeeded"
    one = cli("migration", "show", shown["id"], "--as-operator", "-o", "json").json
    assert (one["state"], one["reason"], one["status"]["eta_seconds"]) == ("completed", "new fans", None)
    assert cli("migration", "list", "--as-operator", "-o", "json").json[0]["percent"] == 100


def test_tenants_neither_move_nor_see_it(cli: Cli, world: World, tmp_path: Path) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    assert "permission_denied" in cli("instance", "migrate", "web", "--no-wait", code=1).err
    assert "permission_denied" in cli("migration", "list", code=1).err


def test_an_operator_moves_what_does_not_run_and_stops_it_only_when_told(
    cli: Cli, world: World, tmp_path: Path
) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    wire = FakeWire()
    here = play(world.host, tmp_path, wire=wire)
    run_to_end(Operation.objects.get().id, here)
    here.beat()
    there = play(make_host(world.pool, name="second"), tmp_path, wire=wire)
    Host.objects.update(facts={"shared_storage_id": "fake-storage"})
    world.pool.shared_storage_id = "fake-storage"
    world.pool.save()
    assert "would be stopped" in cli("instance", "move", "web", "--dry-run", "--as-operator", code=4).err
    assert "not_movable" in cli("instance", "move", "web", "--as-operator", "--no-wait", code=4).err
    cli("instance", "move", "web", "--stop", "--as-operator", "--no-wait")
    assert cli("instance", "show", "web", "-o", "json").json["status"] == "moving"
    assert run_to_end(Operation.objects.get(kind="instance_move").id, here, there).state == "succeeded"
    shown = cli("migration", "list", "--as-operator", "-o", "json").json[0]
    assert (shown["way"], shown["job"], shown["status"], shown["state"]) == ("cold", None, None, "completed")
    assert Instance.unscoped.get().host == there.host
    assert "permission_denied" in cli("instance", "move", "web", "--no-wait", code=1).err
