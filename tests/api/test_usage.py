"""Usage, showback and prices over HTTP."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import pytest
from django.utils import timezone

from compute.models import Instance, Price
from tenants.models import Tenant, UsageSegment
from tests.api.conftest import CallerMaker, World
from tests.factories.tenants import make_tenant


@pytest.fixture
def run_for_an_hour(world: World) -> Instance:
    """An instance of `world.tenant` that was billed for exactly one hour, which ended a minute ago."""
    made = world.owner.ok("POST", "instances", world.order(), status=202)
    end = timezone.now().replace(microsecond=0) - timedelta(minutes=1)
    begin = end - timedelta(hours=1)
    UsageSegment.unscoped.update(held_from=begin - timedelta(seconds=9), billed_from=begin, ended_at=end)
    return Instance.unscoped.get(id=made["instance"]["id"])


def period(**more: str) -> str:
    now = timezone.now()
    return "?" + urlencode({"from": (now - timedelta(days=1)).replace(microsecond=0).isoformat(), **more})


def add_price(resource: str, per_hour: str) -> Price:
    since = timezone.now().replace(microsecond=0) - timedelta(days=9)
    return Price.objects.create(resource=resource, per_hour=per_hour, currency="EUR", valid_from=since, set_by="root")


def test_a_tenant_reads_its_usage(world: World, run_for_an_hour: Instance) -> None:
    report = world.mine["viewer"].ok("GET", "usage" + period())
    hour = {"instance_seconds": 3600, "vcpu_seconds": 3600, "memory_mib_seconds": 256 * 3600, "disk_gib_seconds": 3600}
    assert report["total"] == hour
    assert report["groups"] == [{"id": str(world.tenant.id), "name": "acme", "amounts": hour}]
    assert report["tenant"] == {"id": str(world.tenant.id), "name": "acme"}
    by_instance = world.owner.ok("GET", "usage" + period(group_by="instance"))
    assert [(group["id"], group["name"]) for group in by_instance["groups"]] == [(str(run_for_an_hour.id), "web")]


def test_another_tenant_sees_nothing_and_an_operator_all(world: World, run_for_an_hour: Instance) -> None:
    assert world.foreign.ok("GET", "usage" + period())["total"]["instance_seconds"] == 0
    everything = world.operator.ok("GET", "usage" + period())
    assert (everything["tenant"], everything["total"]["instance_seconds"]) == (None, 3600)
    assert world.operator.ok("GET", "usage" + period(tenant="acme"))["total"]["instance_seconds"] == 3600
    assert world.operator.ok("GET", "usage" + period(tenant="rival"))["total"]["instance_seconds"] == 0


def test_showback_as_json_and_as_csv_is_the_same(world: World, run_for_an_hour: Instance) -> None:
    add_price("vcpu", "0.0125")
    add_price("memory_gib", "0.4")
    report = world.owner.ok("GET", "usage/showback" + period())
    assert report["total"] == "0.112500"
    assert report["currency"] == "EUR"
    assert [(line["resource"], line["unit_seconds"], line["quantity"], line["cost"]) for line in report["lines"]] == [
        ("vcpu", 3600, "1.000000", "0.012500"),
        ("memory_gib", 256 * 3600, "0.250000", "0.100000"),
    ]
    for response in (
        world.owner("GET", "usage/showback" + period(format="csv")),
        world.owner("GET", "usage/showback" + period(), Accept="text/csv"),
        world.owner("GET", "usage/showback" + period(format="csv"), Accept="application/json"),
    ):
        assert response["Content-Type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(response.content.decode())))
        assert [(row["resource"], row["cost"], row["currency"]) for row in rows] == [
            ("vcpu", "0.012500", "EUR"),
            ("memory_gib", "0.100000", "EUR"),
        ]
        assert sum(Decimal(row["cost"]) for row in rows) == Decimal(report["total"])
        assert all(row["tenant"] == row["group_name"] == "acme" for row in rows)


def test_a_problem_is_a_problem_in_csv_too(world: World) -> None:
    response = world.owner("GET", "usage/showback?format=csv&group_by=day")
    assert (response.status_code, response["Content-Type"]) == (400, "application/problem+json")
    assert response.json()["errors"][0]["pointer"] == "/?group_by"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("from=yesterday", "/?from"),
        ("from=2026-01-01T00:00:00", "/?from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "?to"),
        ("from=2026-01-01T00:00:00.5Z", "?from"),
        ("from=1900-01-01T00:00:00Z", "?from"),
        ("to=1800-01-01T00:00:00Z", "?to"),
        ("group_by=host", "/?group_by"),
        ("nosuch=1", "/?nosuch"),
    ],
)
def test_a_wrong_period_is_named(world: World, query: str, pointer: str) -> None:
    problem = world.owner.ok("GET", "usage?" + query, status=400)
    assert problem["errors"][0]["pointer"] == pointer


def test_the_last_day_of_the_calendar_has_usage_too(world: World) -> None:
    report = world.owner.ok("GET", "usage?group_by=day&from=9999-12-31T00:00:00Z&to=9999-12-31T01:00:00Z")
    assert report["total"]["vcpu_seconds"] == 0


def test_operators_set_read_and_end_prices(world: World) -> None:
    body = {"resource": "vcpu", "per_hour": "0.0125", "currency": "EUR"}
    first = world.operator.ok("POST", "prices", body, status=201)
    assert (first["per_hour"], first["flavor"], first["valid_until"]) == ("0.012500", None, None)
    special = world.operator.ok("POST", "prices", {**body, "flavor": "nano", "pool": "lab"}, status=201)
    assert (special["flavor"]["name"], special["pool"]["name"]) == ("nano", "lab")
    later = (timezone.now() + timedelta(days=1)).replace(microsecond=0)
    world.operator.ok("POST", "prices", {**body, "per_hour": "1", "valid_from": later.isoformat()}, status=201)
    shown = world.mine["viewer"].ok("GET", "prices")["items"]
    assert len(shown) == 3
    assert "set_by" not in shown[0]
    assert "set_by" in world.operator.ok("GET", "prices")["items"][0]
    world.operator.ok("DELETE", f"prices/{special['id']}", status=204)
    left = [
        row for row in world.owner.ok("GET", "prices")["items"] if row["valid_until"] is None or row["flavor"] is None
    ]
    assert len(left) == 2, "one that had begun by then ends with the next second, one that had not is gone"
    world.operator.ok("DELETE", f"prices/{uuid.uuid4()}", status=404)


def test_ended_prices_are_history(world: World) -> None:
    price = add_price("vcpu", "1")
    world.operator.ok("DELETE", f"prices/{price.id}", status=204)
    Price.objects.filter(id=price.id).update(valid_until=timezone.now())
    assert world.owner.ok("GET", "prices")["items"] == []
    assert len(world.owner.ok("GET", "prices?history=true")["items"]) == 1


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"per_hour": 0.1}, "/per_hour"),
        ({"per_hour": "1e3"}, "/per_hour"),
        ({"per_hour": "-1"}, "/per_hour"),
        ({"per_hour": "0.1234567"}, "/per_hour"),
        ({"per_hour": "9999999"}, "/per_hour"),
        ({"per_hour": "١"}, "/per_hour"),
        ({"resource": "gpu"}, "/resource"),
        ({"currency": "eur"}, "/currency"),
        ({"currency": "EURO"}, "/currency"),
        ({"flavor": "nosuch"}, "/flavor"),
        ({"pool": "nosuch"}, "/pool"),
        ({"valid_from": "2020-01-01T00:00:00Z"}, "/valid_from"),
        ({"valid_from": "2099-01-01T00:00:00.5Z"}, "/valid_from"),
    ],
)
def test_a_wrong_price_is_named(world: World, fields: dict[str, Any], pointer: str) -> None:
    body = {"resource": "vcpu", "per_hour": "0.0125", "currency": "EUR", **fields}
    problem = world.operator.ok("POST", "prices", body, status=400)
    assert problem["errors"][0]["pointer"] == pointer, problem
    assert not Price.objects.exists()


def test_usage_of_a_deleted_tenant_stays_readable_from_above(world: World, caller_for: CallerMaker) -> None:
    team = make_tenant("team", parent=world.tenant)
    squad = make_tenant("squad", parent=team)
    within = caller_for(team, "owner")
    world.owner.ok("POST", "instances", world.order(tenant="squad"), status=202)
    end = timezone.now().replace(microsecond=0) - timedelta(minutes=1)
    begin = end - timedelta(hours=1)
    UsageSegment.unscoped.update(held_from=begin, billed_from=begin, ended_at=end)
    before = world.owner.ok("GET", "usage" + period(tenant=str(team.id)))
    assert before["total"]["instance_seconds"] == 3600
    Tenant.objects.filter(id__in=[team.id, squad.id]).update(state="deleted")
    for path in ("usage", "usage/showback"):
        for caller in (world.mine["viewer"], world.operator):
            for tenant in (team, squad):
                assert caller.ok("GET", path + period(tenant=str(tenant.id)))["tenant"]["name"] == tenant.name
        for caller in (world.foreign, within):
            assert caller("GET", path + period(tenant=str(team.id))).status_code in (400, 401, 404)
        foreign, unknown = (
            world.foreign("GET", path + period(tenant=str(reference))).json() for reference in (team.id, uuid.uuid4())
        )
        assert foreign["errors"][0]["code"] == unknown["errors"][0]["code"] == "not_found"
    after = world.owner.ok("GET", "usage" + period(tenant=str(team.id)))
    assert (after["groups"], after["total"]) == (before["groups"], before["total"])
    assert world.owner("GET", "usage" + period(tenant="team")).status_code == 400, "the name is free: by id alone"


def test_usage_of_a_tree_that_is_wholly_gone_is_the_operators_to_read(world: World) -> None:
    top = make_tenant("gone")
    Tenant.objects.filter(id=top.id).update(state="deleted")
    assert world.operator.ok("GET", "usage" + period(tenant=str(top.id)))["tenant"]["name"] == "gone"
    assert world.owner("GET", "usage" + period(tenant=str(top.id))).status_code == 400


@pytest.mark.parametrize("state", ["disabled", "deleting", "deleted"])
def test_usage_of_a_closed_tenant_is_read_from_above_alone(world: World, caller_for: CallerMaker, state: str) -> None:
    team = make_tenant("team", parent=world.tenant)
    squad = make_tenant("squad", parent=team)
    within = caller_for(team, "owner")
    closed = [team.id, squad.id] if state == "deleted" else [team.id]
    Tenant.objects.filter(id__in=closed).update(state=state)
    for tenant in (team, squad):
        path = "usage" + period(tenant=str(tenant.id))
        assert world.mine["viewer"].ok("GET", path)["total"]["instance_seconds"] == 0
        assert world.foreign("GET", path).json()["errors"][0]["code"] == "not_found"
        refused = within("GET", path)
        assert refused.status_code in (400, 403, 404)
        assert (refused.json()["code"] == "tenant_disabled") == (state != "deleted")
