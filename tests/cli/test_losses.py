"""cenote host loss|fence|evacuate|return: what operators see when a host is lost."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from compute.models import Host, Instance, Operation
from tests.api.conftest import World
from tests.cli.conftest import Cli
from tests.factories.compute import make_host


def test_a_host_is_lost_and_taken_back(cli: Cli, world: World) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    Instance.unscoped.update(state="active")
    Operation.objects.update(state="succeeded", finished_at=timezone.now())
    make_host(world.pool, name="second")
    seen = timezone.now() - timedelta(minutes=5)
    Host.objects.update(facts={"shared_storage_id": "one"})
    Host.objects.filter(id=world.host.id).update(observed_state="down", last_seen_at=seen)
    name, operator = world.host.name, "--as-operator"
    cli("instance", "prioritize", str(Instance.unscoped.get().id), "90", operator)
    line = cli("host", "loss", name, operator).out.splitlines()[1].split()
    assert line == ["web", "acme", "90", "second", "-"]
    assert "invalid_state" in cli("host", "evacuate", name, "--yes", operator, code=4).err
    assert "proved" in cli("host", "fence", name, "--statement", "it is off", "--yes", operator).out
    assert cli("host", "evacuate", name, "--dry-run", operator, "-o", "json").json["guests"][0]["host"] == "second"
    assert "running" in cli("host", "evacuate", name, "--yes", operator).out
    assert "Switch it on first" in cli("host", "return", name, operator, code=4).err
    Host.objects.filter(id=world.host.id).update(last_seen_at=timezone.now())
    assert "cleaning" in cli("host", "return", name, operator).out


def test_a_pool_is_told_what_a_loss_sets_going(cli: Cli, world: World) -> None:
    assert "yes    no" in cli("pool", "on-loss", "lab", "--fence", "--no-evacuate", "--as-operator").out


def test_the_losses_of_a_pool_are_listed(cli: Cli, world: World) -> None:
    cli("instance", "create", "web", "-f", "nano", "-i", "tiny", "--no-wait")
    Instance.unscoped.update(state="active")
    Operation.objects.update(state="succeeded", finished_at=timezone.now())
    Host.objects.update(facts={"shared_storage_id": "one"})
    ran = cli("pool", "losses", "lab", "--as-operator")
    assert "web" in ran.out
    assert "1 of 1 guests on 1 hosts would not come back" in ran.err + ran.out
    assert (
        cli("pool", "losses", "lab", "--as-operator", "-o", "json").json["worst"][0]["host"]["name"] == world.host.name
    )
