"""The console's pages of plans: a drain is drawn up, looked at, applied, paused, and ended by buttons."""

from __future__ import annotations

from compute.models import Host, Instance, Plan
from compute.sagas.engine import take_turn
from compute.services.plan_turns import take_turn as plan_turn
from tests.factories.nodes import make_due
from tests.plans.conftest import open_operations
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def shared(cloud: Cloud) -> None:
    cloud.add_host()
    cloud.pool.shared_storage_id = "fake-storage"
    cloud.pool.host_losses = 0
    cloud.pool.save()
    cloud.beat()


def test_a_host_is_emptied_by_buttons(people: People, cloud: Cloud) -> None:
    operator = people.cloud_operator
    asked = cloud.create_running("asked-one")
    cloud.create_running("the-guest")
    Instance.unscoped.filter(id=asked.id).update(disruption="consent")
    shared(cloud)
    assert f"/console/hosts/{cloud.host.id}/drain" in operator.get(f"/console/hosts/{cloud.host.id}").content.decode()
    form = operator.get(f"/console/hosts/{cloud.host.id}/drain").content.decode()
    assert "asked-one may be moved" in form
    first = operator.post(f"/console/hosts/{cloud.host.id}/drain", {}, follow=True).content.decode()
    assert "It may not be moved without its tenant being asked." in first
    assert "1 guest would move, 1 could not" in first
    answer = operator.post(f"/console/hosts/{cloud.host.id}/drain", {"consent": str(asked.id), "reason": "new fans"})
    path = answer["Location"]
    page = operator.get(path).content.decode()
    assert "moves while it runs" in page
    assert "new fans" in page
    assert Host.objects.get(id=cloud.host.id).admin_state == "enabled", "nothing has begun"
    assert "is being carried out" in operator.post(f"{path}/apply", follow=True).content.decode()
    operator.post(f"{path}/pause")
    assert "Go on" in operator.get(path).content.decode()
    operator.post(f"{path}/resume")
    plan = Plan.objects.get(state="running")
    for _ in range(60):
        plan_turn(plan_id=plan.id)
        for operation_id in open_operations():
            make_due(operation_id)
            take_turn(operation_id)
        for node in cloud.nodes:
            node.run_calls()
    page = operator.get(path).content.decode()
    assert "2 of 2 moved" in page
    assert Host.objects.get(id=cloud.host.id).admin_state == "drained"
    rows = operator.get("/console/plans").content.decode()
    assert f"Drain {cloud.host.name}" in rows
    assert path in operator.get("/console/plans?state=finished").content.decode()
    assert path not in operator.get("/console/plans?state=open").content.decode()


def test_a_plan_that_is_outdated_says_what_has_changed(people: People, cloud: Cloud) -> None:
    cloud.create_running("early")
    shared(cloud)
    path = people.cloud_operator.post(f"/console/hosts/{cloud.host.id}/drain", {})["Location"]
    Host.objects.exclude(id=cloud.host.id).update(admin_state="disabled")
    cloud.create_running("late")
    page = people.cloud_operator.post(f"{path}/apply", follow=True).content.decode()
    assert "late: not there then" in page
    assert Host.objects.get(id=cloud.host.id).admin_state == "enabled"


def test_tenants_do_not_find_these_pages(people: People, cloud: Cloud) -> None:
    for path in ("/console/plans", f"/console/hosts/{cloud.host.id}/drain"):
        assert people.owner.get(path).status_code == 404
