"""Weights follow the grants to the host by heartbeat, and what ran there comes back the same way."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext
from pytest_django import DjangoAssertNumQueries

from compute.models import Grant, Host, HostShare, Instance
from compute.selectors.shares import Share, read_host_shares, read_tenant_shares
from compute.services import nodes
from compute.services.grants import Terms, create_grant, update_grant
from compute.services.instances_delete import delete_instance
from compute.services.instances_power import reboot_instance
from compute.wire import HeartbeatAnswer, HostReport, PartitionReport, TenantShares, partition_name
from tenants.errors import NotFound, PermissionDenied
from tenants.models import Tenant
from tenants.services.access import Actor
from tests.factories.compute import make_flavor, make_host
from tests.factories.nodes import run_to_end
from tests.factories.tenants import make_actor, make_tenant
from tests.sagas.conftest import Cloud

LIMITS = {"instances": 10, "vcpus": 10, "memory_mib": 10_000, "disk_gib": 100}


def cloud_of(cloud: Cloud, tenant: Tenant) -> Cloud:
    """The same cloud with another tenant in the owner's place."""
    return dataclasses.replace(cloud, tenant=tenant, actor=make_actor("owner", tenant))


def operator() -> Actor:
    return make_actor(is_operator=True)


def path_of(*tenants: Tenant) -> tuple[str, ...]:
    return tuple(partition_name(str(tenant.id)) for tenant in tenants)


def applied(cloud: Cloud) -> dict[tuple[str, ...], int]:
    return {seen.path: seen.cpu_shares for seen in cloud.node.driver.list_partitions()}


def give(cloud: Cloud, tenant: Tenant, shares: int) -> Grant:
    flavor = make_flavor()
    return create_grant(
        actor=operator(), tenant=tenant, pool=cloud.pool, flavor=flavor, terms=Terms(shares={"vcpus": shares})
    )


@pytest.fixture
def report(cloud: Cloud) -> Callable[..., HeartbeatAnswer]:
    """Sends heartbeats whose host's clock goes on by ten seconds each, with partitions by their path."""
    clock = itertools.count(100, 10)

    def sent(
        partitions: dict[tuple[str, ...], tuple[float, float]], *, boot: str = "boot-1", host: Host | None = None
    ) -> HeartbeatAnswer:
        at = float(next(clock))
        seen = tuple(PartitionReport(path, 100, cpu, waited, at) for path, (cpu, waited) in partitions.items())
        report = HostReport(boot_id=boot, clock="", domains=None, partitions=seen)
        return nodes.heartbeat(host=host or cloud.host, report=report)

    return sent


def only_share(cloud: Cloud) -> Share:
    (share,) = read_host_shares(actor=operator(), host=cloud.host)
    return share


def test_guest_starts_in_the_partition_of_its_tenant_below_those_above(cloud: Cloud) -> None:
    child = make_tenant(parent=cloud.tenant, limits=LIMITS)
    cloud_of(cloud, child).create_running()
    assert set(applied(cloud)) == {path_of(cloud.tenant), path_of(cloud.tenant, child)}


def test_changed_grant_is_applied_at_the_next_heartbeat(cloud: Cloud) -> None:
    cloud.create_running()
    cloud.node.beat()
    assert applied(cloud) == {path_of(cloud.tenant): 100}
    grant = give(cloud, cloud.tenant, 300)
    cloud.node.beat()
    assert applied(cloud) == {path_of(cloud.tenant): 300}
    update_grant(actor=operator(), grant_id=grant.id, terms=Terms(shares={"vcpus": 50}))
    cloud.node.beat()
    assert applied(cloud) == {path_of(cloud.tenant): 50}


def test_lost_answer_and_hand_made_weight_are_mended_by_the_next_heartbeat(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    cloud.create_running()
    give(cloud, cloud.tenant, 300)
    report({})  # its answer is lost
    cloud.node.beat()
    assert applied(cloud) == {path_of(cloud.tenant): 300}
    cloud.node.driver.host.partitions["/".join(path_of(cloud.tenant))].shares = 7
    cloud.node.beat()
    assert applied(cloud) == {path_of(cloud.tenant): 300}


def test_host_is_told_of_tenants_with_guests_there_and_of_those_above_alone(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    child = make_tenant(parent=cloud.tenant, limits=LIMITS)
    make_tenant(limits=LIMITS)
    cloud_of(cloud, child).create_running()
    told = report({}).shares
    assert told is not None
    assert set(told) == {TenantShares(str(tenant.id), 100, 100) for tenant in (cloud.tenant, child)}
    other = make_host(cloud.pool)
    assert report({}, host=other).shares == ()


def test_last_guest_takes_the_partition_along(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    assert HostShare.unscoped.filter(host=cloud.host).count() == 1
    _, operation = delete_instance(actor=cloud.actor, instance_id=instance.id)
    run_to_end(operation.id, cloud.node)
    cloud.node.beat()
    cloud.node.beat()
    assert applied(cloud) == {}
    assert not HostShare.unscoped.exists()


def test_guest_from_before_partitions_gets_its_own_at_its_next_start(cloud: Cloud) -> None:
    instance = cloud.create_running()
    host = cloud.node.driver.host
    host.places.clear()
    host.partitions.clear()
    cloud.node.beat()
    assert applied(cloud) == {}
    _, operation = reboot_instance(actor=cloud.actor, instance_id=instance.id)
    run_to_end(operation.id, cloud.node)
    assert applied(cloud) == {path_of(cloud.tenant): 100}


def test_rates_are_smoothed_from_differences_of_the_counters(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    cloud.create_running()
    path = path_of(cloud.tenant)
    report({path: (500.0, 90.0)})
    assert only_share(cloud).delivered == 0
    report({path: (505.0, 90.0)})
    assert only_share(cloud).delivered == pytest.approx(0.5 * (1 - math.exp(-1 / 3)))
    for beat in range(2, 40):
        report({path: (500.0 + 5 * beat, 90.0)})
    share = only_share(cloud)
    assert share.delivered == pytest.approx(0.5, rel=0.01)
    assert share.entitled == pytest.approx(share.delivered)


@pytest.mark.parametrize("what", ["boot", "partition"])
def test_counter_that_begins_anew_is_no_difference(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer], what: str
) -> None:
    cloud.create_running()
    path = path_of(cloud.tenant)
    report({path: (500.0, 50.0)})
    report({path: (501.0, 50.0)})
    before = only_share(cloud).delivered
    report({path: (900.0 if what == "boot" else 3.0, 0.0)}, boot="boot-2" if what == "boot" else "boot-1")
    assert only_share(cloud).delivered == before


def test_tenant_with_one_guest_is_entitled_to_half_beside_one_with_six(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    many = make_tenant(limits=LIMITS)
    cloud.create_running()
    others = cloud_of(cloud, many)
    for number in range(6):
        others.create_running(f"busy-{number}")
    for beat in range(40):
        # The host is unfair: six seventh of one CPU for the many. Each guest is always ready to run.
        report({path_of(cloud.tenant): (1.0 * beat, 9.0 * beat), path_of(many): (6.0 * beat, 54.0 * beat)})
    shares = {share.tenant: share for share in read_host_shares(actor=operator(), host=cloud.host)}
    assert shares[cloud.tenant].delivered == pytest.approx(0.1, rel=0.02)
    assert shares[cloud.tenant].wanted == pytest.approx(1.0, rel=0.02)
    assert shares[cloud.tenant].entitled == pytest.approx(0.35, rel=0.02)
    assert shares[many].entitled == pytest.approx(0.35, rel=0.02)


def test_guest_held_back_by_its_own_limit_wants_no_more_than_its_vcpus(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    cloud.create_running()
    for beat in range(40):
        report({path_of(cloud.tenant): (5.0 * beat, 500.0 * beat)})
    assert only_share(cloud).wanted == 1.0


def test_host_can_speak_of_its_own_tenants_alone_and_in_numbers_alone(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    stranger = make_tenant(limits=LIMITS)
    cloud.create_running()
    report({path_of(stranger): (1.0, 1.0), (): (1.0, 1.0), path_of(cloud.tenant): (math.nan, 1.0)})
    report({path_of(cloud.tenant): (-1.0, 1.0)})
    assert not HostShare.unscoped.exists()


def test_host_that_is_not_heard_of_delivers_nothing_that_is_known(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    cloud.create_running()
    report({path_of(cloud.tenant): (1.0, 1.0)})
    HostShare.unscoped.update(observed_at=Now() - timedelta(minutes=2))
    assert read_host_shares(actor=operator(), host=cloud.host) == []


def test_tenant_sees_the_sum_over_its_hosts_by_pool_and_no_other_tenant(
    cloud: Cloud, report: Callable[..., HeartbeatAnswer]
) -> None:
    cloud.create_running()
    moved = cloud.create_running("elsewhere")
    second = make_host(cloud.pool)
    Instance.unscoped.filter(id=moved.id).update(host=second)
    for beat in range(40):
        for host in (cloud.host, second):
            report({path_of(cloud.tenant): (10.0 * beat, 0.0)}, host=host)
    (share,) = read_tenant_shares(actor=cloud.actor, tenant=cloud.tenant)
    assert share.pool == cloud.pool
    # Two hosts take turns on one clock that goes on by ten seconds: half a CPU each.
    assert share.delivered == pytest.approx(1.0, rel=0.02)
    stranger = make_tenant()
    with pytest.raises(NotFound):
        read_tenant_shares(actor=make_actor("owner", stranger), tenant=cloud.tenant)
    with pytest.raises(PermissionDenied):
        read_host_shares(actor=cloud.actor, host=cloud.host)


def test_partitions_cost_a_heartbeat_the_same_queries_for_one_tenant_and_for_five(
    cloud: Cloud, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    cloud.create_running()
    cloud.node.beat()
    with CaptureQueriesContext(connection) as one:
        cloud.node.beat()
    for _ in range(4):
        cloud_of(cloud, make_tenant(limits=LIMITS)).create_running()
    cloud.node.beat()
    with django_assert_num_queries(len(one)):
        cloud.node.beat()
    assert HostShare.unscoped.filter(host=cloud.host).count() == 5
