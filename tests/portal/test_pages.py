"""Every page for every role, and nothing of it for strangers."""

from __future__ import annotations

import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from compute.models import Instance, Operation
from compute.sagas.registry import KINDS
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud

LISTS = ("/", "/instances", "/operations", "/usage", "/keys", "/tokens", "/members", "/account", "/tenants")
AT_WORK = {kind for kind in KINDS if kind.startswith("instance_")} - {"instance_create"}  # which is told by the state
ROLES = ("owner", "admin", "operator", "viewer")


def _pages_of(instance: Instance) -> list[str]:
    operation = Operation.objects.filter(target_id=instance.id).latest("created_at")
    tabs = ("", "/console", "/activity", "/placement")
    return [f"/instances/{instance.id}{tab}" for tab in tabs] + [f"/operations/{operation.id}"]


@pytest.mark.parametrize("role", ROLES)
def test_every_role_sees_every_page(role: str, people: People, cloud: Cloud) -> None:
    client = people.named(role)
    for path in (*LISTS, *_pages_of(cloud.create_running())):
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer["Cache-Control"] == "no-store", path
        # The policy forbids all of these; a page that needs them would be broken.
        for forbidden in (b" style=", b"<script>", b" onclick="):
            assert forbidden not in answer.content, path


@pytest.mark.parametrize(
    "path",
    [
        "/instances?q=%00",
        "/instances?q=%%000",
        "/tenants?q=a%00",
        "/console/hosts?q=%00",
        "/console/hosts?after=a%00b",
        "/console/capacity?pool=%00",
        "/console/tenants?q=%00",
        "/console/users?q=%00",
    ],
)
def test_nul_in_a_query_is_taken_for_nothing(path: str, people: People, cloud: Cloud) -> None:
    client = people.cloud_operator if path.startswith("/console") else people.owner
    answer = client.get(path)
    assert answer.status_code == 200
    assert "%00" not in answer.wsgi_request.get_full_path()


def test_a_stranger_finds_nothing(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running("hidden-name")
    for path in _pages_of(instance):
        answer = people.stranger.get(path)
        assert answer.status_code == 404, path
        assert b"hidden-name" not in answer.content
    for path in LISTS:
        assert b"hidden-name" not in people.stranger.get(path).content, path
    for verb in ("start", "stop", "reboot", "delete"):
        assert people.stranger.post(f"/instances/{instance.id}/{verb}", {"name": "hidden-name"}).status_code == 404
    operation = Operation.objects.get(target_id=instance.id)
    assert people.stranger.post(f"/operations/{operation.id}/cancel").status_code == 404
    assert Operation.objects.filter(target_id=instance.id).count() == 1


def test_nobody_switches_to_a_foreign_tenant(people: People, cloud: Cloud) -> None:
    assert people.stranger.post("/tenants/switch", {"tenant": str(cloud.tenant.id)}).status_code == 404
    assert people.stranger.post("/tenants/switch", {"tenant": "' OR 1=1"}).status_code == 404
    assert people.cloud_operator.post("/tenants/switch", {"tenant": str(cloud.tenant.id)}).status_code == 302
    assert cloud.tenant.name.encode() in people.cloud_operator.get("/").content


def test_visitors_are_sent_to_log_in_and_back(cloud: Cloud) -> None:
    answer = Client().get("/instances?state=running")
    assert answer.status_code == 302
    assert answer["Location"] == "/login?next=/instances%3Fstate%3Drunning"
    live = Client().get("/instances", headers={"HX-Request": "true"})
    assert live.status_code == 401
    assert live["HX-Refresh"] == "true"


def test_viewers_get_no_buttons_and_no_effect(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    page = people.viewer.get(f"/instances/{instance.id}").content.decode()
    assert "/stop" not in page
    assert "/delete" not in page
    assert "/stop" in people.operator.get(f"/instances/{instance.id}").content.decode()
    answer = people.viewer.post(f"/instances/{instance.id}/stop", follow=True)
    assert "Your role does not allow this." in answer.content.decode()
    assert people.viewer.get("/instances/new").status_code == 403
    assert Operation.objects.filter(kind="instance_stop").count() == 0


def _queries(client: Client, path: str) -> int:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert client.get(path).status_code == 200
    return len(queries)


@pytest.mark.parametrize("path", ["/instances", "/operations", "/"])
def test_lists_cost_the_same_for_one_row_and_for_many(path: str, people: People, cloud: Cloud) -> None:
    cloud.create("first")
    people.owner.get(path)
    few = _queries(people.owner, path)
    for number in range(6):
        cloud.create(f"more-{number}")
    assert _queries(people.owner, path) == few


@pytest.mark.parametrize("kind", sorted(AT_WORK))
def test_whatever_is_being_done_to_an_instance_its_tile_is_of_the_busy_ones(
    kind: str, people: People, cloud: Cloud
) -> None:
    cloud.create_running("web")
    Operation.objects.update(state="running", kind=kind)
    page = people.owner.get("/").content.decode()
    (tile,) = re.findall(r'<a class="tile" href="([^"]*)">.*?<span class="status (\w+)">', page)
    assert tile == ("/instances?state=busy", "busy")


def test_search_filters_and_pages(people: People, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("web-1", "web-2", "db"):
        cloud.create_running(name)
    cloud.node.beat()

    def names(query: str) -> list[str]:
        return [row.instance.name for row in people.owner.get(f"/instances{query}").context["rows"]]

    address = Instance.unscoped.get(name="db").ports(manager="unscoped").get().address
    assert names("?q=web") == ["web-2", "web-1"]
    assert names("?q=EB-1") == ["web-1"]
    assert names(f"?q={address}") == ["db"]
    assert names(f"?q={address.rsplit('.', 2)[0]}.") == ["db", "web-2", "web-1"]
    assert names(f"?q={Instance.unscoped.get(name='db').id}") == ["db"]
    assert names("?state=running&kind=vm") == ["db", "web-2", "web-1"]
    assert names("?kind=container") == []
    assert names("?state=stopped") == []
    assert names("?state=DROP+TABLE&kind=%00&after=nonsense~x") == ["db", "web-2", "web-1"]
    monkeypatch.setattr("cloud.pages.paging.page.__kwdefaults__", {"size": 2, "time": "created_at"})
    first = people.owner.get("/instances")
    assert [row.instance.name for row in first.context["rows"]] == ["db", "web-2"]
    cloud.create("newer")
    assert names(first.context["page"].next_query) == ["web-1"]


def test_a_live_part_that_did_not_change_is_204(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    htmx = {"HX-Request": "true"}
    first = people.owner.get("/instances", headers=htmx)
    assert b"<html" not in first.content
    have = first["Cenote-Have"]
    same = people.owner.get("/instances", headers={**htmx, "Cenote-Have": have})
    assert same.status_code == 204
    people.owner.post(f"/instances/{instance.id}/stop")
    changed = people.owner.get("/instances", headers={**htmx, "Cenote-Have": have})
    assert changed.status_code == 200
    assert "stopping" in changed.content.decode()


def test_a_live_part_of_a_deleted_instance_leaves_for_the_list(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running()
    Instance.unscoped.filter(id=instance.id).update(state="deleted")
    answer = people.owner.get(f"/instances/{instance.id}", headers={"HX-Request": "true"})
    assert answer["HX-Redirect"] == "/instances"
    assert people.owner.get(f"/instances/{instance.id}").status_code == 404
