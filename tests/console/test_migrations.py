"""The pages of migrations: what would happen before it does, how far it is, and what was."""

from __future__ import annotations

from compute.models import Host, Migration
from tests.factories.compute import make_image
from tests.factories.nodes import PlayedHost, run_to_end
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def _add_host(cloud: Cloud) -> PlayedHost:
    """A second host that sees the first one's disks."""
    there = cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.save()
    cloud.beat()
    return there


def test_a_guest_is_sent_and_followed(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    instance = cloud.create_running("the-guest")
    path = f"/console/instances/{instance.id}/migrate"
    page = operator.get(path).content.decode()
    assert "does not see the pool&#x27;s shared storage" in page
    assert "Migrate it" not in page, "what cannot be is not offered"
    there = _add_host(cloud)
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
    assert '<td data-label="Way">live</td>' in rows
    assert "the-guest" not in operator.get("/console/migrations?state=failed").content.decode()


def test_a_host_that_went_away_meanwhile_is_told(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running("the-guest")
    there = _add_host(cloud)
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
    there = _add_host(cloud)
    path = f"/console/instances/{instance.id}/move"
    buttons = operator.get(f"/instances/{instance.id}").content.decode()
    assert f'href="{path}"' in buttons
    assert ">Migrate<" not in buttons, "it cannot go while it runs"
    page = operator.get(path).content.decode()
    assert "It runs, and would be stopped for it" in page
    assert "stopped, for about as long as its shutdown and start take, and started on the other host" in page
    assert "Stop and move it" not in page
    page = operator.get(f"{path}?stop=on").content.decode()
    assert "Stop and move it" in page
    assert f"to <b>{there.host.name}</b>" in page
    answer = operator.post(path, {"stop": "on", "reason": "new fans"}, follow=True)
    migration = Migration.objects.get()
    assert (migration.way, migration.destination) == ("cold", there.host)
    assert "does not run meanwhile" in answer.content.decode()
    assert run_to_end(migration.operation_id, *cloud.nodes).state == "succeeded"
    page = operator.get(f"/console/operations/{migration.operation_id}").content.decode()
    assert "new fans" in page
    assert "cold: it does not run meanwhile" in page
    rows = operator.get("/console/migrations").content.decode()
    assert '<td data-label="Way">cold</td>' in rows
    assert '<td data-label="Way">live</td>' not in rows
    assert people.owner.get(path).status_code == 404


def test_what_is_stopped_is_moved_without_a_tick_and_stays_stopped(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    instance = cloud.create_stopped("the-guest")
    there = _add_host(cloud)
    path = f"/console/instances/{instance.id}/move"
    assert f'href="{path}"' in operator.get(f"/instances/{instance.id}").content.decode()
    page = operator.get(path).content.decode()
    assert 'name="stop"' not in page, "there is nothing to stop"
    assert "It stays stopped" in page
    said = operator.post(path, {}, follow=True).content.decode()
    assert f"It is being moved to {there.host.name}." in said
    assert run_to_end(Migration.objects.get().operation_id, *cloud.nodes).state == "succeeded"
    assert there.driver.list_domains() == ()
    cloud.beat()
    page = operator.get(f"/instances/{instance.id}").content.decode()
    assert '<span class="status off">stopped</span>' in page
    assert there.host.name in page


def test_without_the_tick_nobody_is_stopped(people: People, cloud: Cloud) -> None:
    instance = cloud.create_running("the-guest")
    _add_host(cloud)
    answer = people.cloud_operator.post(f"/console/instances/{instance.id}/move", {}, follow=True)
    assert "notice error" in answer.content.decode()
    assert not Migration.objects.exists()


def test_who_cannot_go_while_it_runs_is_shown_the_other_way(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    instance = cloud.create_running("the-guest")
    _add_host(cloud)
    facts = {"shared_storage_id": "fake-storage", "cpu_model": "host-passthrough"}
    Host.objects.filter(id=cloud.host.id).update(facts=facts)
    page = operator.get(f"/console/instances/{instance.id}/migrate").content.decode()
    assert "its host&#x27;s own processor" in page
    assert f'href="/console/instances/{instance.id}/move"' in page
    assert "Stop and move it" in operator.get(f"/console/instances/{instance.id}/move?stop=on").content.decode()


def test_operators_alone_get_the_button(people: People, cloud: Cloud) -> None:
    instance = cloud.create_stopped("the-guest")
    path = f"/console/instances/{instance.id}/move"
    assert path in people.cloud_operator.get(f"/instances/{instance.id}").content.decode()
    for tenant_user in (people.owner, people.admin, people.operator, people.viewer):
        assert path not in tenant_user.get(f"/instances/{instance.id}").content.decode()
