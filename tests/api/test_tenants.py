"""Tenants over the API: moving them, and what is told of it."""

from __future__ import annotations

import uuid

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


def test_a_dry_run_tells_what_a_deletion_takes_along_and_its_fingerprint_lets_it_happen(world: World) -> None:
    team = make_tenant("team", parent=world.tenant, limits={"instances": 2})
    world.owner.ok("POST", "instances", world.order(tenant="team"), status=202)
    address = f"tenants/{team.id}"
    plan = world.owner.ok("DELETE", f"{address}?dry_run=true")
    assert plan["counts"]["instances"] == plan["counts"]["addresses"] == plan["counts"]["tenants"] == 1
    assert [row["name"] for row in plan["instances"]] == ["web"]
    assert plan["tenants"] == ["acme/team"]
    unread = world.owner("DELETE", f"{address}?cascade=true")
    assert (unread.status_code, unread.json()["errors"][0]["pointer"]) == (400, "/fingerprint")
    world.owner.ok("POST", "instances", world.order(tenant="team", name="late"), status=202)
    stale = world.owner("DELETE", f"{address}?cascade=true&fingerprint={plan['fingerprint']}")
    assert (stale.status_code, stale.json()["reason"]) == (409, "changed")
    assert world.owner.ok("GET", address)["state"] == "active"
    again = world.owner.ok("DELETE", f"{address}?dry_run=true")
    accepted = world.owner(
        "DELETE", f"{address}?cascade=true&fingerprint={again['fingerprint']}", If_Match=f'"{team.version}"'
    )
    assert accepted.status_code == 202
    operation = accepted.json()["operation"]
    assert accepted["Location"].endswith(operation["id"])
    assert (operation["kind"], operation["target"]["name"]) == ("tenant_delete", "team")
    assert world.operator.ok("GET", address)["state"] == "deleting"
    assert world.owner("GET", address).json()["code"] == "tenant_disabled", "closed at once"
    assert world.owner("POST", "instances", world.order(tenant="team", name="more")).json()["code"] == "tenant_disabled"
    assert world.owner.ok("POST", f"operations/{operation['id']}/cancel", status=202)


@pytest.mark.parametrize("query", ["dry_run=true", "cascade=true&fingerprint=x"])
def test_a_deletion_with_contents_is_for_owners_above_alone(world: World, caller_for: CallerMaker, query: str) -> None:
    team = make_tenant("team", parent=world.tenant)
    address = f"tenants/{team.id}?{query}"
    for role in ("admin", "operator", "viewer"):
        assert world.mine[role]("DELETE", address).status_code == 403, role
    assert caller_for(team, "owner")("DELETE", address).status_code == 403, "decided from above"
    foreign = world.foreign("DELETE", address)
    unknown = world.foreign("DELETE", f"tenants/{uuid.uuid4()}?{query}")
    assert (foreign.status_code, foreign.json()["code"]) == (unknown.status_code, unknown.json()["code"])
    assert foreign.status_code == 404
    expected = {"dry_run=true": 200}.get(query, 409)
    assert world.owner("DELETE", address).status_code == expected
    assert world.operator("DELETE", address).status_code == expected
    assert world.owner("DELETE", f"tenants/{world.tenant.id}?{query}").status_code == 403, "a top tenant"
    team.refresh_from_db()
    assert team.state == "active"
