"""Promises in the operators' console and on the tenant's first page."""

from __future__ import annotations

from compute.models import Flavor, Grant, Host, Pool
from compute.reconcilers import promises
from compute.services.grants import Terms, create_grant
from tenants.models import Tenant
from tests.factories.compute import make_host
from tests.factories.tenants import SYSTEM, make_tenant
from tests.portal.conftest import People
from tests.sagas.conftest import Cloud


def test_room_is_promised_changed_and_taken_back(people: People, cloud: Cloud) -> None:
    make_host(cloud.pool)
    operator = people.cloud_operator
    values = {"tenant": str(cloud.tenant.id), "pool": cloud.pool.name, "unit": "small", "units": "2", "shares": "300"}
    assert operator.post("/console/grants", values).status_code == 302
    grant = Grant.unscoped.get()
    assert (grant.units, grant.shares_vcpus) == (2, 300)
    page = operator.get("/console/grants").content.decode()
    assert "losses" in page
    assert "too few host losses" not in page
    assert "small" in page
    operator.post(f"/console/grants/{grant.id}/change", {"units": "3"})
    assert Grant.unscoped.get().units == 3
    assert f"Reserved in {cloud.pool.name}" in people.owner.get("/").content.decode()
    assert people.owner.post(f"/console/grants/{grant.id}/end").status_code == 404
    operator.post(f"/console/grants/{grant.id}/end")
    assert not Grant.unscoped.exists()


def test_units_beyond_the_own_are_no_limit_that_was_passed(people: People, cloud: Cloud) -> None:
    parent = make_tenant("parent")
    Tenant.objects.filter(id=cloud.tenant.id).update(parent=parent, path=[parent.id, cloud.tenant.id])
    cloud.tenant.refresh_from_db()
    Pool.objects.update(host_losses=0)
    flavor = Flavor.objects.get()
    create_grant(actor=SYSTEM, tenant=parent, pool=cloud.pool, flavor=flavor, terms=Terms(units=2))
    create_grant(actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=None, terms=Terms(units=1, expandable=True))
    Grant.unscoped.filter(tenant=cloud.tenant).update(used_units=2)
    page = people.owner.get("/").content.decode()
    assert "2 units are in use" in page
    assert "over the limit" not in page


def test_a_limit_of_a_pool_says_on_both_pages_by_how_much_it_is_passed(people: People, cloud: Cloud) -> None:
    cloud.create("one", count=3)
    limits = {"vcpus": 1, "memory_mib": 4096}
    flavor = Flavor.objects.get()
    create_grant(actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=flavor, terms=Terms(limits=limits))
    assert "3/1 vCPU, 2 over" in people.cloud_operator.get("/console/grants").content.decode()
    page = people.owner.get("/").content.decode()
    assert f"vCPU in {cloud.pool.name}" in page
    assert "2 over the limit: what exists stays, nothing new is made" in page
    assert f"Memory in {cloud.pool.name}" in page
    assert f"Disk in {cloud.pool.name}" not in page, "no limit there"
    assert f"Reserved in {cloud.pool.name}" not in page, "nothing is"


def test_nonsense_is_said_beside_its_field(people: People, cloud: Cloud) -> None:
    values = {"tenant": str(cloud.tenant.id), "pool": cloud.pool.name, "unit": "small", "units": "1", "shares": "100"}
    for wrong, field in (({"tenant": "nobody"}, "tenant"), ({"units": "x"}, "units"), ({"shares": "0"}, "shares")):
        answer = people.cloud_operator.post("/console/grants", values | wrong)
        assert (answer.status_code, list(answer.context["form"].errors)) == (400, [field])
    answer = people.cloud_operator.post("/console/grants", values | {"units": "999"})
    assert answer.status_code == 400
    assert "can be kept through the loss of any host" in answer.content.decode()
    assert not Grant.unscoped.exists()


def test_an_alarm_stands_on_the_first_page_and_names_the_tenant(people: People, cloud: Cloud) -> None:
    other = make_host(cloud.pool)
    values = {"tenant": str(cloud.tenant.id), "pool": cloud.pool.name, "unit": "small", "units": "2", "shares": "100"}
    people.cloud_operator.post("/console/grants", values)
    Host.objects.filter(id=other.id).update(observed_state="down")
    promises.run()
    for path in ("/console/", "/console/grants"):
        page = people.cloud_operator.get(path).content.decode()
        assert "Promise at risk" in page
        assert cloud.tenant.name in page
