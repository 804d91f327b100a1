"""The pages of migrations: what would happen before it does, how far it is, and what was."""

from __future__ import annotations

from compute.models import Host, Migration
from tests.factories.compute import make_image
from tests.factories.nodes import run_to_end
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def test_a_guest_is_sent_and_followed(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    instance = cloud.create_running("the-guest")
    path = f"/console/instances/{instance.id}/migrate"
    page = operator.get(path).content.decode()
    assert "does not see the pool&#x27;s shared storage" in page
    assert "Migrate it" not in page, "what cannot be is not offered"
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    page = operator.get(path).content.decode()
    assert f"to <b>{there.host.name}</b>" in page
    assert "Migrate it" in page
    assert f'href="{path}"' in operator.get(f"/instances/{instance.id}").content.decode()
    cloud.node.driver.host.job_questions = 1
    answer = operator.post(path, {"destination": str(there.host.id), "reason": "new fans"})
    migration = Migration.objects.get()
    assert answer["Location"] == f"/console/operations/{migration.operation_id}"
    assert run_to_end(migration.operation_id, *cloud.nodes).state == "succeeded"
    page = operator.get(answer["Location"]).content.decode()
    assert "Stopped for" in page
    assert "new fans" in page
    rows = operator.get("/console/migrations").content.decode()
    assert "the-guest" in rows
    assert there.host.name in rows
    assert "the-guest" not in operator.get("/console/migrations?state=failed").content.decode()


def test_a_host_that_went_away_meanwhile_is_told(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running("the-guest")
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    Host.objects.filter(id=there.host.id).update(observed_state="down")
    answer = people.cloud_operator.post(f"/console/instances/{instance.id}/migrate", {}, follow=True)
    assert "notice error" in answer.content.decode()
    assert not Migration.objects.exists()


def test_tenants_do_not_find_these_pages(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running("the-guest")
    for path in ("/console/migrations", f"/console/instances/{instance.id}/migrate"):
        assert people.owner.get(path).status_code == 404
    assert "Migrate" not in people.owner.get(f"/instances/{instance.id}").content.decode()


def test_a_container_is_moved_with_a_tick_for_its_stop(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    make_image("box", kind="container")
    instance = cloud.create_running("the-box", image="box")
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    path = f"/console/instances/{instance.id}/move"
    assert f'href="{path}"' in operator.get(f"/instances/{instance.id}").content.decode()
    page = operator.get(path).content.decode()
    assert "It runs, and would be stopped for it" in page
    assert "Stop and move it" not in page
    assert "Stop and move it" in operator.get(f"{path}?stop=on").content.decode()
    answer = operator.post(path, {"stop": "on", "reason": "new fans"})
    migration = Migration.objects.get()
    assert (migration.way, migration.destination) == ("cold", there.host)
    assert run_to_end(migration.operation_id, *cloud.nodes).state == "succeeded"
    assert "new fans" in operator.get(answer["Location"]).content.decode()
    assert "not running" in operator.get("/console/migrations").content.decode()
    assert people.owner.get(path).status_code == 404
