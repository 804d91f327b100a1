"""Instances over HTTP: what a tenant asks and is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute.models import Flavor
from tests.api.conftest import World
from tests.factories.compute import make_flavor


def test_create_answers_202_with_operation_instance_and_location(world: World) -> None:
    response = world.owner("POST", "instances", world.order(tags={"role": "web"}))
    assert response.status_code == 202, response.content
    body = response.json()
    assert response["Location"] == f"/api/v1/operations/{body['operation']['id']}"
    assert body["operations"] == [body["operation"]]
    assert body["instances"] == [body["instance"]]
    instance = body["instance"]
    assert instance["status"] == "building"
    assert instance["addresses"][0]["network"] == "default"
    assert instance["flavor"] == {
        "id": str(world.flavor.id),
        "name": "nano",
        "vcpus": 1,
        "memory_mib": 256,
        "disk_gib": 1,
    }
    assert instance["operation_id"] == body["operation"]["id"]
    assert instance["tags"] == {"role": "web"}
    assert "host" not in instance
    assert body["operation"]["target"] == {"type": "instance", "id": instance["id"], "name": "web"}


def test_a_lease_is_given_shown_changed_and_taken_away(world: World) -> None:
    made = world.owner.ok("POST", "instances", world.order(lease={"seconds": 3600, "action": "delete"}), status=202)
    shown = world.owner.ok("GET", "instances/web")
    assert made["instance"]["lease"] == shown["lease"]
    assert shown["lease"]["action"] == "delete"
    at = f"{timezone.now() + timedelta(days=400):%Y-%m-%dT%H:%M:%SZ}"
    path = "instances/web/actions/lease"
    changed = world.mine["operator"].ok("POST", path, {"lease": {"ends_at": at}}, If_Match='"1"')
    assert (changed["lease"], changed["version"]) == ({"ends_at": at, "action": "delete"}, 2)
    assert world.owner.ok("GET", "instances")["items"][0]["lease"] == changed["lease"]
    late = world.owner("POST", path, {"lease": None}, If_Match='"1"')
    assert (late.status_code, late.json()["code"]) == (412, "version_mismatch")
    assert world.owner.ok("POST", path, {"lease": None})["lease"] is None
    assert (
        world.owner.ok("POST", "instances", world.order(name="other", lease=None), status=202)["instance"]["lease"]
        is None
    )
    world.owner.ok("DELETE", "instances/web", status=202)
    refused = world.owner("POST", path, {"lease": {"seconds": 60}})
    assert (refused.status_code, refused.json()["code"]) == (409, "invalid_state")


@pytest.mark.parametrize("body", [{}, {"lease": 60}, {"lease": {}}, {"lease": {"seconds": 1}}, {"seconds": 60}])
def test_what_is_no_lease_changes_nothing(world: World, body: object) -> None:
    world.owner.ok("POST", "instances", world.order(lease={"seconds": 3600}), status=202)
    before = world.owner.ok("GET", "instances/web")
    refused = world.owner("POST", "instances/web/actions/lease", body)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
    assert world.owner.ok("GET", "instances/web") == before


def test_create_of_many_answers_lists_alone(world: World) -> None:
    body = world.owner.ok("POST", "instances", world.order(count=3), status=202)
    assert [row["name"] for row in body["instances"]] == ["web-1", "web-2", "web-3"]
    assert "instance" not in body
    assert "operation" not in body


@pytest.mark.parametrize("who", ["owner", "operator"])
def test_what_a_create_answers_is_what_is_shown_then(world: World, who: str) -> None:
    client = getattr(world, who)
    more = {"tenant": world.tenant.name} if who == "operator" else {}
    body = client.ok("POST", "instances", world.order(count=2, tags={"role": "web"}, **more), status=202)

    for instance, operation in zip(body["instances"], body["operations"], strict=True):
        assert instance == client.ok("GET", f"instances/{instance['id']}")
        assert operation == client.ok("GET", f"operations/{operation['id']}")


def test_operators_see_host_and_mode(world: World) -> None:
    created = world.owner.ok("POST", "instances", world.order(), status=202)["instance"]
    shown = world.operator.ok("GET", f"instances/{created['id']}")
    assert shown["host"] == {"id": str(world.host.id), "name": world.host.name}
    assert shown["virt_mode"] == "qemu"


def test_an_instance_is_found_by_name_and_by_id(world: World) -> None:
    created = world.owner.ok("POST", "instances", world.order(), status=202)["instance"]
    assert world.owner.ok("GET", "instances/web")["id"] == created["id"]
    assert world.owner.ok("GET", f"instances/{created['id']}")["name"] == "web"


def test_lists_are_narrowed_by_flavor_name_and_address(world: World) -> None:
    make_flavor("pico", memory_mib=128)
    for name, flavor in (("web-1", "nano"), ("web-2", "pico"), ("db", "pico")):
        world.owner.ok("POST", "instances", world.order(name=name, flavor=flavor), status=202)

    def names(query: str) -> list[str]:
        return [row["name"] for row in world.owner.ok("GET", f"instances?{query}")["items"]]

    address = world.owner.ok("GET", "instances/db")["addresses"][0]["address"]
    assert names("flavor=pico") == ["db", "web-2"]
    Flavor.objects.filter(name="pico").update(active=False)
    assert names("flavor=pico&search=eb") == ["web-2"]
    assert names("search=WEB-") == ["web-2", "web-1"]
    assert names(f"search={address}") == ["db"]
    assert world.owner("GET", "instances?flavor=none").status_code == 404


def test_two_of_one_name_are_ambiguous(world: World) -> None:
    for _ in range(2):
        world.owner.ok("POST", "instances", world.order(), status=202)
    problem = world.owner.ok("GET", "instances/web", status=409)
    assert problem["code"] == "ambiguous_name"


def test_a_second_verb_is_told_what_is_in_progress(world: World) -> None:
    created = world.owner.ok("POST", "instances", world.order(), status=202)
    response = world.owner("POST", "instances/web/actions/stop", {})
    assert response.status_code == 409
    assert response.json()["code"] == "invalid_state"
    deleted = world.owner.ok("DELETE", "instances/web", status=202)
    assert deleted["operation"]["kind"] == "instance_delete"
    assert world.owner.ok("GET", f"operations/{created['operation']['id']}")["cancel_requested"] is True


def test_refusal_by_placement_says_why_and_what_would_fit(world: World) -> None:
    big = world.operator.ok(
        "POST", "flavors", {"name": "huge", "vcpus": 64, "memory_mib": 65536, "disk_gib": 1}, status=201
    )
    problem = world.owner.ok("POST", "instances", world.order(flavor=big["id"]), status=409)
    assert problem["code"] == "no_valid_host"
    assert problem["reasons"]
    assert world.host.name not in str(problem)
    decision = world.owner.ok("GET", f"decisions/{problem['decision_id']}")
    assert decision["outcome"] == "refused"
    assert "refusals" not in decision
    for_operator = world.operator.ok("GET", f"decisions/{problem['decision_id']}")
    assert for_operator["refusals"][0]["host_name"] == world.host.name


def test_refusal_by_quota_says_limit_used_and_asked(world: World) -> None:
    world.operator.ok("PATCH", f"quotas?tenant={world.tenant.id}", {"limits": {"instances": 1}})
    world.owner.ok("POST", "instances", world.order(), status=202)
    problem = world.owner.ok("POST", "instances", world.order(name="web2"), status=409)
    assert (problem["code"], problem["resource"], problem["limit"], problem["used"], problem["asked"]) == (
        "quota_exceeded",
        "instances",
        1,
        1,
        1,
    )


def test_the_console_log_is_empty_at_first(world: World) -> None:
    world.owner.ok("POST", "instances", world.order(), status=202)
    assert world.owner.ok("GET", "instances/web/console-log") == {"text": "", "fetched_at": None}


def test_user_data_is_never_shown(world: World) -> None:
    created = world.owner.ok("POST", "instances", world.order(user_data="#cloud-config\nsecret: s3cr3t\n"), status=202)
    assert "s3cr3t" not in str(created)
    assert "s3cr3t" not in str(world.operator.ok("GET", "instances"))
    assert "s3cr3t" not in str(world.operator.ok("GET", "audit"))


def test_a_list_costs_the_same_queries_for_one_and_for_many(world: World) -> None:
    def queries(path: str) -> int:
        with CaptureQueriesContext(connection) as captured:
            world.operator.ok("GET", path)
        return len(captured)

    world.operator.ok("GET", "me")  # the first use of a token is noted, the next ones in the same minute are not
    world.owner.ok("POST", "instances", world.order(), status=202)
    paths = ("instances", "operations", "decisions", "audit")
    few = {path: queries(path) for path in paths}
    world.owner.ok("POST", "instances", world.order(name="more", count=5), status=202)
    assert {path: queries(path) for path in paths} == few
