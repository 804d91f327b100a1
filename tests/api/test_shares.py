"""Delivered against entitled CPU over HTTP: all of it for operators, its own for a tenant."""

from __future__ import annotations

import pytest
from django.db.models.functions import Now

from compute.models import HostShare
from tenants.models import Tenant
from tests.api.conftest import World


@pytest.fixture
def shared_host(world: World) -> World:
    """A host on which `acme` got 0.3 and `rival` 0.9 vCPU, both of four that wanted one more."""
    for tenant, delivered in ((world.tenant, 0.3), (world.other, 0.9)):
        add_share(world, tenant, delivered)
        caller = world.owner if tenant == world.tenant else world.foreign
        caller.ok("POST", "instances", world.order(), status=202)
    return world


def add_share(world: World, tenant: Tenant, delivered: float) -> None:
    HostShare.unscoped.create(
        host=world.host,
        tenant=tenant,
        applied=100,
        cpu_seconds=1,
        waited_seconds=1,
        at=1,
        boot_id="boot",
        delivered=delivered,
        waited=1.0,
        observed_at=Now(),
    )


def test_operator_reads_all_tenants_of_a_host(shared_host: World) -> None:
    items = shared_host.operator.ok("GET", f"hosts/{shared_host.host.name}/shares")["items"]
    assert {item["tenant"]["name"]: item["delivered"] for item in items} == {"acme": 0.3, "rival": 0.9}
    assert [round(item["entitled"], 6) for item in items] == [0.6, 0.6]
    assert {(item["shares"], item["applied"], item["wanted"]) for item in items} == {(100, 100, 1.0)}


def test_tenant_reads_its_own_by_pool_and_no_host_and_nobody_else(shared_host: World) -> None:
    answer = shared_host.mine["viewer"].ok("GET", "usage/shares")
    (item,) = answer["items"]
    assert item["pool"]["name"] == "lab"
    assert (item["delivered"], round(item["entitled"], 6), item["shares"]) == (0.3, 0.6, 100)
    assert shared_host.host.name not in str(answer)
    assert "rival" not in str(answer)
    assert shared_host.operator.ok("GET", "usage/shares?tenant=acme") == answer
    assert shared_host.mine["viewer"]("GET", "usage/shares?tenant=rival").status_code == 400


def test_tenant_without_guests_has_no_lines(world: World) -> None:
    assert world.owner.ok("GET", "usage/shares") == {"items": []}
