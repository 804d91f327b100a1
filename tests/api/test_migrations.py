"""Guests taken to other hosts over HTTP: what an order for a cold move is refused for, and how each way is shown."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.utils import timezone

from compute.models import Domain, Host, Instance, Migration, Operation, Pool
from tests.api.conftest import World
from tests.factories.compute import make_host

pytestmark = pytest.mark.django_db


@pytest.fixture
def runner(world: World) -> Instance:
    """A VM that runs, and a host beside its own that sees its disk."""
    world.owner.ok("POST", "instances", world.order(name="runner"), status=202)
    Operation.objects.update(state="succeeded", finished_at=timezone.now())
    Instance.unscoped.update(state="active")
    instance: Instance = Instance.unscoped.get()
    now = timezone.now()
    Domain.objects.create(instance=instance, host=world.host, power="running", since=now, observed_at=now)
    make_host(world.pool, name="second")
    Host.objects.update(facts={"shared_storage_id": "one"})
    Pool.objects.update(shared_storage_id="one")
    return instance


def _move(instance: Instance) -> str:
    return f"instances/{instance.id}/actions/move"


def test_what_runs_is_stopped_only_where_the_order_says_so(world: World, runner: Instance) -> None:
    for body in ({}, {"stop": False}, {"destination": "second"}):
        refused = world.operator.ok("POST", _move(runner), body, status=409)
        assert refused["code"] == "not_movable"
        assert [obstacle["code"] for obstacle in refused["obstacles"]] == ["would_stop"]
        assert "say that this is agreed" in refused["detail"]
    assert not Migration.objects.exists()
    ordered = world.operator.ok("POST", _move(runner), {"stop": True, "reason": "new fans"}, status=202)
    assert (ordered["operation"]["kind"], ordered["instance"]["status"]) == ("instance_move", "moving")
    (shown,) = world.operator.ok("GET", "migrations")["items"]
    assert (shown["way"], shown["job"], shown["status"]) == ("cold", None, None)
    assert (shown["destination"]["name"], shown["reason"]) == ("second", "new fans")
    assert world.operator.ok("GET", f"migrations/{shown['id']}") == shown


def test_what_is_stopped_needs_no_such_word(world: World, runner: Instance) -> None:
    Instance.unscoped.update(desired_power="stopped")
    Domain.objects.update(power="stopped")
    world.operator.ok("POST", _move(runner), {}, status=202)
    assert Migration.objects.get().way == "cold"


def test_a_live_one_is_shown_as_such_with_its_job(world: World, runner: Instance) -> None:
    world.operator.ok("POST", f"instances/{runner.id}/actions/migrate", {"downtime_ms": 50}, status=202)
    (shown,) = world.operator.ok("GET", "migrations")["items"]
    assert (shown["way"], shown["job"]["downtime_ms"]) == ("live", 50)


def test_a_dry_run_names_the_destination_or_every_obstacle_and_orders_nothing(world: World, runner: Instance) -> None:
    path = _move(runner) + "?dry_run=true"
    Host.objects.filter(name="second").update(admin_state="disabled")
    told = world.operator.ok("POST", path, {})
    assert (told["source"]["name"], told["destination"]) == (world.host.name, None)
    assert {obstacle["code"] for obstacle in told["obstacles"]} == {"would_stop", "no_valid_host"}
    Host.objects.filter(name="second").update(admin_state="enabled")
    told = world.operator.ok("POST", path, {"stop": True})
    assert (told["destination"]["name"], told["obstacles"]) == ("second", [])
    told = world.operator.ok("POST", path, {"stop": True, "destination": world.host.name})
    assert [obstacle["code"] for obstacle in told["obstacles"]] == ["same_host"]
    assert not Migration.objects.exists()


def test_an_order_is_for_the_version_that_was_read_and_carried_out_once(world: World, runner: Instance) -> None:
    late = world.operator("POST", _move(runner), {"stop": True}, If_Match='"99"')
    assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")
    read = f'"{runner.version}"'
    ordered = world.operator.ok("POST", _move(runner), {"stop": True}, 202, If_Match=read, Idempotency_Key="once")
    again = world.operator("POST", _move(runner), {"stop": True}, If_Match=read, Idempotency_Key="once")
    assert again["Idempotency-Replayed"] == "true"
    assert again.json()["operation"]["id"] == ordered["operation"]["id"]
    busy = world.operator.ok("POST", _move(runner), {"stop": True}, status=409)
    assert busy["operation_id"] == ordered["operation"]["id"]
    assert Migration.objects.count() == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"stop": "yes"}, "/stop"),
        ({"stop": 1}, "/stop"),
        ({"stop": None}, "/stop"),
        ({"force": True}, "/force"),
        ({"downtime_ms": 300}, "/downtime_ms"),
        ({"destination": 7}, "/destination"),
        ({"reason": "x" * 256}, "/reason"),
        ({"reason": "\x1b[2J"}, "/reason"),
    ],
)
def test_a_wrong_field_is_named(world: World, runner: Instance, body: dict[str, Any], pointer: str) -> None:
    refused = world.operator.ok("POST", _move(runner), body, status=400)
    assert [error["pointer"] for error in refused["errors"]] == [pointer]
    assert not Migration.objects.exists()


@pytest.mark.parametrize("destination", ["nosuch", str(uuid.UUID(int=0))])
def test_a_host_that_is_not_there_is_not_found(world: World, runner: Instance, destination: str) -> None:
    body = {"stop": True, "destination": destination}
    for path in (_move(runner), _move(runner) + "?dry_run=true"):
        assert world.operator.ok("POST", path, body, status=404)["code"] == "not_found"
    assert not Migration.objects.exists()
