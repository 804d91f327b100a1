"""The capacity of a pool: sums, what fits, the outlook from the ledger, and who uses it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from compute.models import Host
from compute.selectors.capacity import read_capacity
from compute.services.grants import Terms, create_grant
from tenants.errors import PermissionDenied
from tenants.models import UsageSegment
from tests.factories.compute import make_flavor, make_host, make_pool
from tests.factories.tenants import SYSTEM, make_tenant
from tests.sagas.conftest import Cloud

pytestmark = pytest.mark.django_db(transaction=True)


def test_amounts_add_up_and_hosts_out_of_service_stand_apart(cloud: Cloud) -> None:
    away = make_host(cloud.pool, vcpus=4, memory_mib=4096, disk_gib=50)
    cloud.create_running("here")
    Host.objects.filter(id=cloud.host.id).update(reserved_memory_mib=0)
    Host.objects.filter(id=away.id).update(observed_state="down", used_vcpus=3, used_instances=1)
    make_host(make_pool(), vcpus=99)
    found = read_capacity(actor=SYSTEM, pool=cloud.pool)
    vcpus = found.amounts["vcpus"]
    assert (found.hosts, {(one.observed_state, one.hosts) for one in found.states}) == (2, {("up", 1), ("down", 1)})
    assert (vcpus.total, vcpus.capacity, vcpus.used, vcpus.away) == (8, 8, 1, 3)
    for amount in found.amounts.values():
        assert amount.used + amount.held + amount.free == amount.capacity
    assert [host.name for host in found.fullest] == [cloud.host.name]


def test_flavors_fit_as_often_as_creates_succeed(cloud: Cloud) -> None:
    make_flavor("giant", vcpus=1, memory_mib=10**6)
    before = {fit.flavor.name: fit.vm.count for fit in read_capacity(actor=SYSTEM, pool=cloud.pool).fits}
    assert before["giant"] == 0
    cloud.create("one")
    after = read_capacity(actor=SYSTEM, pool=cloud.pool)
    assert {fit.flavor.name: fit.vm.count for fit in after.fits} == {**before, "small": before["small"] - 1}
    assert after.largest == {"vm": "small", "container": "small"}


def test_what_is_held_for_a_promise_is_not_free(cloud: Cloud) -> None:
    make_host(cloud.pool)
    free = read_capacity(actor=SYSTEM, pool=cloud.pool)
    flavor = free.fits[0].flavor
    create_grant(actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=flavor, terms=Terms(units=2))
    found = read_capacity(actor=SYSTEM, pool=cloud.pool)
    held = found.amounts["memory_mib"].held
    assert held >= 2 * flavor.memory_mib
    assert found.amounts["memory_mib"].free == free.amounts["memory_mib"].free - held
    assert [(verdict.promised, verdict.tolerated) for verdict in found.promises] == [(2, 1)]


def test_the_outlook_needs_whole_days_of_history(cloud: Cloud) -> None:
    assert read_capacity(actor=SYSTEM, pool=cloud.pool).amounts["vcpus"].trend is None
    cloud.create_running("now")
    assert read_capacity(actor=SYSTEM, pool=cloud.pool).amounts["vcpus"].trend is None
    today = timezone.now().replace(hour=12)
    segment = UsageSegment.unscoped.get()
    for days in range(1, 11):
        began = today - timedelta(days=days)
        segment.pk, segment.consumer_id = None, None
        segment = UsageSegment(
            **{
                field.name: getattr(segment, field.name)
                for field in UsageSegment._meta.concrete_fields
                if field.name not in ("id", "consumer_id", "held_from", "billed_from", "ended_at")
            },
            consumer_id=cloud.tenant.id if days == 1 else make_tenant().id,
            held_from=began,
            billed_from=began,
            ended_at=began + timedelta(hours=1) if days == 3 else None,
        )
        segment.save()
    trend = read_capacity(actor=SYSTEM, pool=cloud.pool).amounts["vcpus"].trend
    assert trend is not None
    # The tenth day back is not whole: use began in the middle of it. Of nine days one gave back what it took.
    assert (trend.days, trend.per_day) == (9, pytest.approx(8 / 9))


def test_top_tenants_are_charged_with_all_below_them(cloud: Cloud) -> None:
    cloud.create_running("one")
    cloud.create_running("two")
    root = cloud.tenant.path[0]
    (first,) = read_capacity(actor=SYSTEM, pool=cloud.pool).tenants
    assert (first.id, first.instances, first.vcpus) == (root, 2, 2)
    assert read_capacity(actor=SYSTEM, pool=make_pool()).tenants == ()


def test_an_empty_pool_has_nothing_and_says_so() -> None:
    found = read_capacity(actor=SYSTEM, pool=make_pool())
    assert (found.hosts, found.fullest, found.states) == (0, (), ())
    assert found.largest == {"vm": None, "container": None}


def test_it_costs_the_same_for_many_hosts(cloud: Cloud) -> None:
    cloud.create("first")
    read_capacity(actor=SYSTEM, pool=cloud.pool)
    with CaptureQueriesContext(connection) as few:
        read_capacity(actor=SYSTEM, pool=cloud.pool)
    for number in range(5):
        make_host(cloud.pool)
        cloud.create(f"more-{number}")
    with CaptureQueriesContext(connection) as many:
        read_capacity(actor=SYSTEM, pool=cloud.pool)
    assert len(many) == len(few)


def test_it_is_for_operators(cloud: Cloud) -> None:
    with pytest.raises(PermissionDenied):
        read_capacity(actor=cloud.actor, pool=cloud.pool)
