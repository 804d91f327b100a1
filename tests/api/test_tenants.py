"""Tenants over the API: moving them, and what is told of it."""

from __future__ import annotations

import pytest
from django.db import transaction

from tenants.services import quotas
from tests.api.conftest import CallerMaker, World
from tests.factories.tenants import SYSTEM, make_member, make_tenant, make_user

pytestmark = pytest.mark.django_db


def test_a_dry_run_tells_what_a_move_does_and_changes_nothing(world: World) -> None:
    west, east = make_tenant("west", parent=world.tenant), make_tenant("east", parent=world.tenant)
    team = make_tenant("team", parent=west)
    make_member(west, "operator", make_user("wanda"))
    make_member(east, "viewer", make_user("emil"))
    quotas.charge(tenant=team, amounts={"instances": 2})
    quotas.set_limit(actor=SYSTEM, tenant=east, resource="instances", limit=1)
    address = f"tenants/{team.id}/actions/move"
    told = world.owner.ok("POST", f"{address}?dry_run=true", {"parent": "east"})
    assert told["dry_run"] is True
    assert told["tenant"]["parent_id"] == str(west.id)
    assert told["parent_id"] == str(east.id)
    assert told["amounts"] == {"instances": 2, "tenants": 1}
    short = {"tenant": {"id": str(east.id), "name": "east"}, "resource": "instances", "limit": 1, "used": 0, "asked": 2}
    short |= {"after": 2, "missing": 1}
    assert told["shortages"] == [short]
    assert told["access"] == [
        {"username": "emil", "before": None, "after": "viewer"},
        {"username": "wanda", "before": "operator", "after": None},
    ]
    refused = world.owner("POST", address, {"parent": "east"})
    assert (refused.status_code, refused.json()["code"]) == (409, "quota_exceeded")
    assert refused.json()["limit"] == 1
    quotas.set_limit(actor=SYSTEM, tenant=east, resource="instances", limit=2)
    moved = world.owner.ok("POST", address, {"parent": "acme/east"})
    assert moved["tenant"]["parent_id"] == str(east.id)
    assert moved["shortages"] == []


def test_a_member_of_the_new_place_is_let_in_and_one_of_the_old_place_kept_out_at_once(
    world: World, caller_for: CallerMaker
) -> None:
    west, east = make_tenant("west", parent=world.tenant), make_tenant("east", parent=world.tenant)
    team = make_tenant("team", parent=west)
    old, new = caller_for(west, "viewer"), caller_for(east, "viewer")
    old.ok("GET", f"tenants/{team.id}")
    assert new("GET", f"tenants/{team.id}").status_code == 404
    world.owner.ok("POST", f"tenants/{team.id}/actions/move", {"parent": "east"})
    new.ok("GET", f"tenants/{team.id}")
    assert old("GET", f"tenants/{team.id}").status_code == 404


def test_only_operators_move_to_and_from_the_top(world: World) -> None:
    team = make_tenant("team", parent=world.tenant, owner=make_user())
    address = f"tenants/{team.id}/actions/move"
    assert world.owner("POST", address, {"parent": None}).status_code == 403
    assert world.operator.ok("POST", address, {"parent": None})["tenant"]["parent_id"] is None
    assert world.owner("POST", address, {"parent": "acme"}).status_code == 404
    assert world.operator.ok("POST", address, {"parent": "acme"})["tenant"]["parent_id"] == str(world.tenant.id)


def test_a_move_below_itself_and_one_with_a_stale_version_are_refused(world: World) -> None:
    team = make_tenant("team", parent=world.tenant)
    address = f"tenants/{team.id}/actions/move"
    assert world.owner("POST", address, {"parent": "team"}).json()["reason"] == "cycle"
    assert world.owner("POST", address, {"parent": "acme"}, If_Match='"9"').status_code == 412
    assert world.owner("POST", address, {"parent": "nowhere"}).json()["errors"][0]["pointer"] == "/parent"


def test_how_far_the_use_is_over_a_lowered_limit_is_told(world: World) -> None:
    with transaction.atomic():
        quotas.charge(tenant=world.tenant, amounts={"instances": 3})
    world.operator.ok("PATCH", "quotas?tenant=acme", {"limits": {"instances": 1}})
    lines = {line["resource"]: line for line in world.owner.ok("GET", "quotas")["items"]}
    assert (lines["instances"]["over"], lines["instances"]["available"], lines["vcpus"]["over"]) == (2, 0, 0)
