"""Grants and alarms over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from compute.models import Alarm
from tests.api.conftest import World
from tests.factories.compute import make_host
from tests.factories.tenants import make_tenant


def _promise(world: World, **fields: Any) -> Any:
    make_host(world.pool)
    body = {"tenant": "acme", "pool": "lab", "unit": "nano", "units": 2, **fields}
    return world.operator.ok("POST", "grants", body, status=201)


def test_a_promise_is_made_shown_changed_and_taken_back(world: World) -> None:
    made = _promise(world, limits={"vcpus": 6}, shares={"vcpus": 300})
    assert (made["units"], made["used_units"], made["reservation"]["vcpus"]) == (2, 0, 2 * world.flavor.vcpus)
    assert made["shares"] == {"vcpus": 300, "memory_mib": 100, "disk_gib": 100}
    assert {row["resource"]: row["limit"] for row in made["limits"]} == {
        "vcpus": 6,
        "memory_mib": None,
        "disk_gib": None,
    }
    shown = world.mine["viewer"].ok("GET", f"grants/{made['id']}")
    assert shown == made
    pool = world.operator.ok("GET", "pools/lab")
    assert (pool["held"]["vcpus"], pool["host_losses"]) == (4 * world.flavor.vcpus, 1)
    changed = world.operator.ok("PATCH", f"grants/{made['id']}", {"units": 3}, If_Match='"1"')
    assert (changed["units"], changed["version"]) == (3, 2)
    world.operator.ok("PATCH", f"grants/{made['id']}", {"units": 4}, status=412, If_Match='"1"')
    world.operator.ok("DELETE", f"grants/{made['id']}", status=204)
    assert world.owner.ok("GET", "grants")["items"] == []


def test_a_limit_below_the_use_is_set_and_says_by_how_much(world: World) -> None:
    made = _promise(world, units=0, limits={"vcpus": 6})
    world.owner.ok("POST", "instances", world.order(count=2), status=202)
    lowered = world.operator.ok("PATCH", f"grants/{made['id']}", {"limits": {"vcpus": 1}})
    row = {line["resource"]: line for line in lowered["limits"]}["vcpus"]
    assert row == {"resource": "vcpus", "limit": 1, "used": 2 * world.flavor.vcpus, "over": 2 * world.flavor.vcpus - 1}
    refused = world.owner("POST", "instances", world.order(name="more"))
    assert (refused.status_code, refused.json()["code"], refused.json()["limit"]) == (409, "quota_exceeded", 1)
    (raised,) = [
        change
        for remedy in refused.json()["remedies"]
        for change in remedy["changes"]
        if change["kind"] == "raise_grant"
    ]
    assert raised["by"] == 3 * world.flavor.vcpus - 1, "up to the use, and what was asked for"


def test_a_promise_that_the_pool_cannot_keep_is_refused_with_figures(world: World) -> None:
    problem = world.operator.ok(
        "POST", "grants", {"tenant": "acme", "pool": "lab", "unit": "nano", "units": 1}, status=409
    )
    assert problem["code"] == "promise_not_placeable"
    assert (problem["placeable"], problem["promised"], problem["host_losses"]) == (0, 1, 1)
    assert "the loss of any host" in problem["detail"]
    world.operator.ok("PATCH", "pools/lab", {"host_losses": 0})
    world.operator.ok("POST", "grants", {"tenant": "acme", "pool": "lab", "unit": "nano", "units": 1}, status=201)
    problem = world.operator.ok("PATCH", "pools/lab", {"host_losses": 1}, status=409)
    assert problem["code"] == "promise_not_placeable"
    assert world.operator.ok("GET", "pools/lab")["host_losses"] == 0


def test_owners_share_out_what_they_were_promised(world: World) -> None:
    _promise(world)
    make_tenant("team", parent=world.tenant)
    body = {"tenant": "team", "pool": "lab", "units": 2}
    made = world.owner.ok("POST", "grants", body, status=201)
    assert made["parent_id"] is not None
    problem = world.owner.ok("PATCH", f"grants/{made['id']}", {"units": 3}, status=409)
    assert (problem["code"], problem["left"], problem["asked"]) == ("conflict", 0, 1)
    assert [row["tenant"]["name"] for row in world.owner.ok("GET", "grants?tenant=team")["items"]] == ["team"]
    assert world.foreign.ok("GET", "grants")["items"] == []


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"units": -1}, "/units"),
        ({"units": "two"}, "/units"),
        ({"unit": "huge"}, "/unit"),
        ({"pool": "elsewhere"}, "/pool"),
        ({"tenant": "nobody"}, "/tenant"),
        ({"shares": {"vcpus": 0}}, "/shares/vcpus"),
        ({"limits": {"luck": 1}}, "/limits/luck"),
        ({"colour": "red"}, "/colour"),
    ],
)
def test_nonsense_is_named(world: World, fields: dict[str, Any], pointer: str) -> None:
    body = {"tenant": "acme", "pool": "lab", "unit": "nano", "units": 0, **fields}
    problem = world.operator.ok("POST", "grants", body, status=400)
    assert [fault["pointer"] for fault in problem["errors"]] == [pointer]
    assert world.operator.ok("GET", "grants")["items"] == []


def test_alarms_are_listed_until_they_are_over_and_then_in_the_history(world: World) -> None:
    Alarm.objects.create(kind="promise_broken", pool=world.pool, subject="x", message="now")
    Alarm.objects.create(
        kind="promise_broken", pool=world.pool, subject="x", message="then", cleared_at="2026-01-01T00:00:00Z"
    )
    assert [row["message"] for row in world.operator.ok("GET", "alarms")["items"]] == ["now"]
    assert len(world.operator.ok("GET", "alarms?history=true")["items"]) == 2
