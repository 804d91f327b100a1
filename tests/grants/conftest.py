"""A pool of four equal hosts, and tenants who want room in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.db import transaction

from compute.errors import NoValidHost
from compute.models import Allocation, Flavor, Grant, Host, Instance, Pool
from compute.placement.give_back import give_back
from compute.selectors.invariants import check_all
from compute.services.grants import Terms, create_grant
from compute.services.instances_create import create_instances
from tenants.models import Tenant
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import SYSTEM, make_tenant


@dataclass
class Field:
    """Hosts of 8 vCPU, 8,192 MiB and 80 GiB; `unit` is a quarter of a host, `small` a quarter of the unit."""

    pool: Pool
    hosts: list[Host]
    unit: Flavor
    small: Flavor

    def grant(self, tenant: Tenant, units: int, **terms: object) -> Grant:
        wanted = Terms(units=units, **terms)  # type: ignore[arg-type]
        return create_grant(actor=SYSTEM, tenant=tenant, pool=self.pool, flavor=self.unit, terms=wanted)

    def create(self, tenant: Tenant, flavor: Flavor | None = None, count: int = 1) -> list[Instance]:
        wanted = flavor or self.unit
        return create_instances(
            actor=SYSTEM, tenant=tenant, name="guest", flavor=wanted.name, image="tiny", count=count
        ).instances

    def fill(self, tenant: Tenant, flavor: Flavor | None = None) -> int:
        """Create until the pool refuses; return how many."""
        made = 0
        with contextlib.suppress(NoValidHost):
            while True:
                self.create(tenant, flavor)
                made += 1
        return made

    def end(self, instance: Instance) -> None:
        with transaction.atomic():
            give_back(instance=Instance.unscoped.select_for_update(no_key=True).get(id=instance.id))
            Instance.unscoped.filter(id=instance.id).update(state="deleted", host=None)

    def reserved(self, tenant: Tenant) -> int:
        """Return how many of the tenant's guests fill a reservation."""
        guests = Instance.unscoped.filter(tenant=tenant).exclude(state="deleted").values("id")
        return Allocation.objects.filter(consumer_id__in=guests, grant__isnull=False).count()


@pytest.fixture
def unchecked_field(transactional_db: None) -> Field:
    pool = make_pool()
    hosts = [make_host(pool, vcpus=8, memory_mib=8192, disk_gib=80) for _ in range(4)]
    make_image("tiny")
    unit = make_flavor("unit", vcpus=2, memory_mib=2048, disk_gib=20)
    small = make_flavor("small", vcpus=1, memory_mib=512, disk_gib=5)
    return Field(pool=pool, hosts=hosts, unit=unit, small=small)


@pytest.fixture
def field(unchecked_field: Field) -> Iterator[Field]:
    """The same, and in the end the books must agree."""
    yield unchecked_field
    assert [violation for violation in check_all() if violation.invariant in ("I3", "I4")] == []


@pytest.fixture
def ours() -> Tenant:
    return make_tenant("ours")


@pytest.fixture
def others() -> Tenant:
    return make_tenant("others")
