"""Pages, entity tags, request ids, long polls, problems: what holds for every resource."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import OperationalError, connection

from cloud.problems import STATUSES
from compute.models import Flavor, Operation
from tenants.errors import DomainError
from tests.api.conftest import World
from tests.factories.compute import make_flavor


def _all_errors(kind: type[DomainError]) -> list[type[DomainError]]:
    return [kind, *(inner for sub in kind.__subclasses__() for inner in _all_errors(sub))]


def test_every_domain_error_has_its_status_and_no_row_is_left_over() -> None:
    known = {error.code for error in _all_errors(DomainError) if error is not DomainError}
    assert known == set(STATUSES)


def test_paging_shows_each_row_once_while_others_are_made(world: World) -> None:
    wanted = {world.flavor.name} | {make_flavor().name for _ in range(12)}
    seen: list[str] = []
    path, pages = "flavors?limit=3", 0
    while path:
        body = world.owner.ok("GET", path)
        assert len(body["items"]) <= 3
        seen += [row["name"] for row in body["items"]]
        path = f"flavors?limit=3&cursor={body['next_cursor']}" if body["next_cursor"] else ""
        pages += 1
        if pages == 2:
            make_flavor("late")
            Flavor.objects.filter(name=seen[0]).delete()
    assert len(seen) == len(set(seen))
    assert wanted | {"late"} == set(seen)


def test_rows_of_the_same_moment_are_neither_lost_nor_doubled(world: World) -> None:
    for _ in range(9):
        make_flavor()
    Flavor.objects.update(created_at="2026-01-01T00:00:00Z")
    seen, cursor = [], ""
    while True:
        body = world.owner.ok("GET", "flavors?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        seen += [row["id"] for row in body["items"]]
        if not body["next_cursor"]:
            break
        cursor = body["next_cursor"]
    assert len(seen) == len(set(seen)) == 10


def test_the_next_page_is_linked(world: World) -> None:
    make_flavor()
    response = world.owner("GET", "flavors?limit=1")
    assert response["Link"] == f'</api/v1/flavors?limit=1&cursor={response.json()["next_cursor"]}>; rel="next"'


def test_an_etag_answers_304_until_something_changes(world: World) -> None:
    first = world.owner("GET", "tenants/acme")
    assert first["ETag"] == '"1"'
    again = world.owner("GET", "tenants/acme", If_None_Match=first["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    world.owner.ok("PATCH", "tenants/acme", {"name": "acme2"})
    assert world.owner("GET", "tenants/acme2", If_None_Match=first["ETag"]).status_code == 200


def test_a_change_that_has_no_version_of_its_own_is_not_hidden_by_304(world: World) -> None:
    world.owner.ok("POST", "instances", world.order(), status=202)
    first = world.owner("GET", "instances/web")
    Operation.objects.update(state="succeeded")
    again = world.owner("GET", "instances/web", If_None_Match=first["ETag"])
    assert again.status_code == 200
    assert again.json()["operation_id"] is None


def test_if_match_refuses_a_change_of_what_has_changed(world: World) -> None:
    stale = world.owner("GET", "tenants/acme")["ETag"]
    world.owner.ok("PATCH", "tenants/acme", {"name": "acme2"}, If_Match=stale)
    problem = world.owner.ok("PATCH", "tenants/acme2", {"name": "acme3"}, status=412, If_Match=stale)
    assert problem["code"] == "version_mismatch"
    assert world.owner.ok("GET", "tenants/acme2")["version"] == 2


@pytest.mark.parametrize("path", ["instances/web", "instances/web/actions/stop"])
def test_if_match_holds_for_instances(world: World, path: str) -> None:
    world.owner.ok("POST", "instances", world.order(), status=202)
    tag = world.owner("GET", "instances/web")["ETag"]
    Operation.objects.update(state="running")
    method = "POST" if "actions" in path else "DELETE"
    assert world.owner(method, path, {} if method == "POST" else None, If_Match='"99"').status_code == 412
    assert world.owner(method, path, {} if method == "POST" else None, If_Match=tag).status_code in (202, 409)


def test_request_ids_are_echoed_and_made(world: World) -> None:
    response = world.owner("GET", "nosuch", X_Request_Id="abc-1")
    assert response["X-Request-Id"] == response.json()["request_id"] == "abc-1"
    made = world.owner("GET", "nosuch", X_Request_Id="bad id\twith tab")
    assert made["X-Request-Id"] == made.json()["request_id"]
    assert len(made["X-Request-Id"]) == 32


def test_the_request_id_is_found_in_the_audit_trail(world: World) -> None:
    world.owner.ok("POST", "instances", world.order(), status=202, X_Request_Id="find-me")
    events = world.owner.ok("GET", "audit?action=instance.create")["items"]
    assert [event["request_id"] for event in events] == ["find-me"]


def test_the_database_being_away_is_503_with_retry_after(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("the connection is closed")

    with connection.execute_wrapper(broken):
        response = world.owner("GET", "instances")
    assert response.status_code == 503
    assert response.json()["code"] == "database_unavailable"
    assert response["Retry-After"] == "2"


def test_what_nobody_foresaw_is_a_bare_500_that_tells_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("secret detail of /srv/file")

    with connection.execute_wrapper(broken):
        response = world.owner("GET", "instances")
    assert response.status_code == 500
    assert "secret detail" not in response.content.decode()
    assert response.json()["code"] == "internal_error"


def test_too_many_requests_are_told_when_to_come_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloud.api.throttling.BURST", 3.0)
    monkeypatch.setattr("cloud.api.throttling.RATE", 0.001)
    codes = [world.owner("GET", "me").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    response = world.owner("GET", "me")
    assert response.json()["code"] == "throttled"
    assert int(response["Retry-After"]) > 0
    assert world.mine["viewer"]("GET", "me").status_code == 200


def test_wait_gives_up_when_the_time_is_over(world: World) -> None:
    operation = world.owner.ok("POST", "instances", world.order(), status=202)["operation"]
    began = time.monotonic()
    assert world.owner.ok("GET", f"operations/{operation['id']}?wait=1")["state"] == "pending"
    assert 0.9 < time.monotonic() - began < 3


def test_with_too_many_waiting_the_next_is_answered_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    operation = world.owner.ok("POST", "instances", world.order(), status=202)["operation"]
    monkeypatch.setattr("cloud.api.waiting.WAITERS", threading.BoundedSemaphore(1))
    monkeypatch.setattr("cloud.api.waiting.WAITERS._value", 0)
    began = time.monotonic()
    world.owner.ok("GET", f"operations/{operation['id']}?wait=10")
    assert time.monotonic() - began < 2
