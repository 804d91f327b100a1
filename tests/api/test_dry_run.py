"""POST /instances?dry_run=true: what a create would meet, with nothing taken."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from compute.models import Network, Pool
from compute.services.grants import Terms, create_grant
from tests.api.conftest import CallerMaker, World
from tests.factories.compute import make_flavor, make_host, make_pool
from tests.factories.tenants import SYSTEM, make_tenant

DRY = "instances?dry_run=true"


def _rows() -> dict[str, str]:
    """Every table's content as one number. The note of a token's use is no part of any create."""
    found = {}
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            own = connection.ops.quote_name(table)
            cursor.execute("SELECT md5(coalesce(string_agg(t::text, ',' ORDER BY t::text), '')) FROM " + own + " t")
            found[table] = cursor.fetchone()[0]
    found.pop("tenants_apitoken")
    return found


def _tight_pool() -> Pool:
    """A pool whose network has 14 addresses for instances."""
    pool = make_pool("tight")
    Network.objects.filter(pool=pool).update(cidr="10.9.0.0/27")
    return pool


def _levels(forecast: dict[str, Any], resource: str) -> list[tuple[Any, ...]]:
    return [
        (line["tenant"] and line["tenant"]["name"], line["limit"], line["used"], line["after"], line["missing"])
        for line in forecast["quota"]
        if line["resource"] == resource
    ]


@pytest.mark.parametrize("fields", [{}, {"count": 3}, {"count": 100}, {"pool": "lab"}])
def test_a_dry_run_writes_nothing(world: World, fields: dict[str, Any]) -> None:
    before = _rows()
    world.owner.ok("POST", DRY, world.order(**fields), Idempotency_Key="once")
    assert _rows() == before
    world.owner.ok("POST", "instances", world.order(), status=202, Idempotency_Key="once")


def test_what_fits_is_told_with_room_and_quota(world: World) -> None:
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": 10}})
    world.owner.ok("POST", "instances", world.order(), status=202)
    forecast = world.owner.ok("POST", DRY, world.order(count=2))
    assert (forecast["fits"], forecast["refused_by"], forecast["remedies"]) == (True, [], [])
    assert forecast["how_many"] == 7  # the host has 8 vCPU, one is taken; the quota would leave 9
    assert _levels(forecast, "instances") == [("acme", 10, 1, 3, 0)]
    assert _levels(forecast, "memory_mib") == [("acme", None, 256, 768, 0)]


def test_tenants_are_not_told_where_operators_are_and_the_create_goes_there(world: World) -> None:
    for number in range(3):
        make_host(world.pool, name=f"other{number}", vcpus=4)
    assert "hosts" not in world.owner.ok("POST", DRY, world.order(count=4))
    assert "other" not in str(world.owner.ok("POST", DRY, world.order(count=4)))
    body = world.order(count=4, tenant="acme")
    told = {place["instance"]: place["name"] for place in world.operator.ok("POST", DRY, body)["hosts"]}
    made = world.operator.ok("POST", "instances", body, status=202)["instances"]
    assert {row["name"]: row["host"]["name"] for row in made} == told


def test_a_refusal_by_placement_is_an_answer_whose_remedies_work(world: World) -> None:
    make_flavor("huge", vcpus=64, memory_mib=256)
    make_flavor("wide", vcpus=8, memory_mib=256)
    body = world.order(flavor="huge")
    forecast = world.owner.ok("POST", DRY, body)
    assert (forecast["fits"], forecast["how_many"], forecast["refused_by"]) == (False, 0, ["no_valid_host"])
    assert forecast["summary"] == ["1 host: 1 lacks vCPU (largest room 8 vCPU, 64 asked)."]
    (remedy,) = forecast["remedies"]
    assert remedy["sentence"] == "Ask for at most 8 vCPU instead of 64."
    assert remedy["body"] == {"flavor": "wide"}
    assert world.owner.ok("POST", DRY, {**body, **remedy["body"]})["fits"]
    world.owner.ok("POST", "instances", {**body, **remedy["body"]}, status=202)


def test_another_pool_is_offered_where_it_has_room_a_network_and_addresses(world: World) -> None:
    make_flavor("huge", vcpus=64, memory_mib=256)
    for pool in (make_pool("big"), _tight_pool()):
        make_host(pool, vcpus=6400)
    forecast = world.owner.ok("POST", DRY, world.order(flavor="huge", pool="lab", count=20))
    assert [remedy["body"] for remedy in forecast["remedies"]] == [{"pool": "big"}]
    assert world.owner.ok("POST", DRY, world.order(flavor="huge", pool="big", count=20))["fits"]


def test_a_full_network_refuses_and_another_pool_or_fewer_instances_are_offered(world: World) -> None:
    for pool in (make_pool("big"), _tight_pool()):
        make_host(pool, vcpus=6400, memory_mib=64000)
    body = world.order(pool="tight", count=20)
    forecast = world.owner.ok("POST", DRY, body)
    assert forecast["refused_by"] == ["no_address_left"]
    assert [remedy["body"] for remedy in forecast["remedies"]] == [{"pool": "big"}, {"count": 14}]
    assert forecast["how_many"] == 14
    assert world.owner.ok("POST", "instances", body, status=409)["code"] == "no_address_left"
    world.owner.ok("POST", "instances", {**body, "count": 14}, status=202)


def test_a_refusal_by_quota_says_which_level_and_by_how_much(world: World) -> None:
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"vcpus": 5}})
    forecast = world.owner.ok("POST", DRY, world.order(count=7))
    assert (forecast["fits"], forecast["refused_by"], forecast["how_many"]) == (False, ["quota_exceeded"], 5)
    assert _levels(forecast, "vcpus") == [("acme", 5, 0, 7, 2)]
    assert [remedy["sentence"] for remedy in forecast["remedies"]] == [
        "Ask for 5 instances instead of 7.",
        "Raise the quota of acme by 2 vCPU.",
    ]
    assert [remedy["body"] for remedy in forecast["remedies"]] == [{"count": 5}, None]


def test_a_level_above_that_the_caller_cannot_see_shows_no_figures(world: World, caller_for: CallerMaker) -> None:
    child = make_tenant("dev", parent=world.tenant)
    caller = caller_for(child, "owner")
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": 3}})
    assert _levels(caller.ok("POST", DRY, world.order(count=2)), "instances") == [("dev", None, 0, 2, 0)]
    refused = caller.ok("POST", DRY, world.order(count=4))
    assert _levels(refused, "instances") == [("dev", None, 0, 4, 0), (None, None, None, None, 1)]
    assert "acme" not in str(refused)
    assert str(world.tenant.id) not in str(refused)
    assert "Raise the quota of a tenant above yours by 1 instances." in [r["sentence"] for r in refused["remedies"]]
    seen = _levels(world.owner.ok("POST", DRY, world.order(count=4, tenant="dev")), "instances")
    assert seen == [("dev", None, 0, 4, 0), ("acme", 3, 0, 4, 1)]


def test_a_placement_remedy_that_the_quota_would_refuse_names_the_quota_too(world: World) -> None:
    make_flavor("huge", vcpus=64, memory_mib=256)
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": 0}})
    forecast = world.owner.ok("POST", DRY, world.order(flavor="huge"))
    assert forecast["refused_by"] == ["no_valid_host", "quota_exceeded"]
    assert [remedy["sentence"] for remedy in forecast["remedies"]] == [
        "Ask for at most 8 vCPU instead of 64 and raise the quota of acme by 1 instances."
    ]


def test_a_reservation_is_room_and_a_limit_of_a_grant_refuses(world: World) -> None:
    """The host's 8 vCPU: 5 are promised to acme, which may use 6 in this pool; the 3 others stand open to all."""
    world.pool.host_losses = 0
    world.pool.save()
    terms = Terms(units=5, limits={"vcpus": 6})
    create_grant(actor=SYSTEM, tenant=world.tenant, pool=world.pool, flavor=world.flavor, terms=terms)
    mine = world.owner.ok("POST", DRY, world.order(count=6))
    assert (mine["fits"], mine["how_many"]) == (True, 6)
    placed = world.operator.ok("POST", DRY, world.order(count=6, tenant="acme"))["hosts"]
    assert [place["name"] for place in placed] == [world.host.name] * 6
    theirs = world.foreign.ok("POST", DRY, world.order(count=4))
    assert (theirs["fits"], theirs["how_many"], theirs["refused_by"]) == (False, 3, ["no_valid_host"])
    assert [remedy["body"] for remedy in theirs["remedies"]] == [{"count": 3}]
    more = world.owner.ok("POST", DRY, world.order(count=7))
    assert more["refused_by"] == ["quota_exceeded"]
    assert "Raise the limit of acme in the pool lab by 1 vCPU." in [remedy["sentence"] for remedy in more["remedies"]]
    world.owner.ok("POST", "instances", world.order(count=7), status=409)
    world.foreign.ok("POST", "instances", world.order(count=4), status=409)
    world.owner.ok("POST", "instances", world.order(count=6), status=202)


@pytest.mark.parametrize("role", ["viewer"])
def test_who_may_not_create_may_not_ask(world: World, role: str) -> None:
    assert world.mine[role]("POST", DRY, world.order()).status_code == 403
    assert world.foreign("POST", DRY, world.order(tenant="acme")).status_code == 400


def test_wrong_input_is_refused_as_by_the_create(world: World) -> None:
    for wrong in ({"flavor": "none"}, {"count": 0}, {"name": "No Name"}, {"image": "none"}):
        dry, real = (world.owner("POST", path, world.order(**wrong)) for path in (DRY, "instances"))
        assert dry.status_code == real.status_code == 400
        assert dry.json()["errors"] == real.json()["errors"]
    assert world.owner("POST", "instances?dry_run=maybe", world.order()).status_code == 400
