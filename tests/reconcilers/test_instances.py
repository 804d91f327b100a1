"""Wanted against observed: each rule of compute.reconcilers.instances, seen from a played host."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta

from django.utils import timezone

from compute.models import Domain, Host, HostCall, Instance, Operation
from compute.reconcilers import hosts, instances
from compute.selectors.invariants import check_all
from compute.services.instances_delete import delete_instance
from tenants.models import AuditEvent
from tests.factories.nodes import run_to_end
from tests.sagas.conftest import Cloud


def _settle(cloud: Cloud) -> None:
    """Let the last report be older than an operation that has just ended."""
    Domain.objects.update(since=timezone.now() - timedelta(seconds=30))


def _power(cloud: Cloud, instance: Instance, power: str) -> None:
    domains = cloud.node.driver.host.domains
    domains[str(instance.id)] = dataclasses.replace(domains[str(instance.id)], power=power)


def _open_operation(instance: Instance) -> Operation | None:
    return Operation.objects.filter(target_id=instance.id, state__in=["pending", "running"]).first()


def test_a_guest_that_shut_itself_down_stays_down(cloud: Cloud) -> None:
    instance = cloud.create_running()
    _power(cloud, instance, "stopped")
    cloud.node.beat()
    _settle(cloud)
    assert instances.run() == 1
    assert Instance.unscoped.get(id=instance.id).desired_power == "stopped"
    assert AuditEvent.unscoped.filter(action="instance.drift", target_id=instance.id).exists()
    assert instances.run() == 0, "safe to run twice"


def test_a_guest_that_its_host_lost_by_rebooting_is_started_again(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    _power(cloud, instance, "stopped")
    Host.objects.filter(id=cloud.host.id).update(boot_id="before")
    cloud.node.beat()
    Domain.objects.update(since=timezone.now() - timedelta(seconds=9))
    assert instances.run() == 1
    operation = _open_operation(instance)
    assert operation is not None
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    assert cloud.node.driver.list_domains()[0].power == "running"


def test_a_missing_domain_needs_two_listings_before_it_is_believed(cloud: Cloud) -> None:
    instance = cloud.create_running()
    cloud.node.beat()
    cloud.node.driver.host.domains.clear()
    cloud.node.beat()
    assert Domain.objects.get(instance=instance).power == "running"
    cloud.node.beat(listing=False)
    assert Domain.objects.get(instance=instance).power == "running", "a failed look concludes nothing"
    cloud.node.beat()
    assert Domain.objects.get(instance=instance).power == "absent"
    _settle(cloud)
    assert instances.run() == 1
    operation = _open_operation(instance)
    assert operation is not None
    assert run_to_end(operation.id, cloud.node).state == "succeeded"


def test_nothing_is_done_to_an_instance_with_an_open_operation(cloud: Cloud) -> None:
    instance = cloud.create_running()
    _power(cloud, instance, "stopped")
    cloud.node.beat()
    _settle(cloud)
    delete_instance(actor=cloud.actor, instance_id=instance.id)
    assert instances.run() == 0


def test_what_is_left_of_a_deleted_instance_is_reaped(cloud: Cloud) -> None:
    instance = cloud.create_running()
    leftover = dict(cloud.node.driver.host.domains), dict(cloud.node.driver.host.disks)
    operation = delete_instance(actor=cloud.actor, instance_id=instance.id)[1]
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    cloud.node.driver.host.domains.update(leftover[0])
    cloud.node.driver.host.disks.update(leftover[1])
    cloud.node.beat()
    assert check_all() == [], "the listing may be older than the end of the delete"
    Operation.objects.update(finished_at=timezone.now() - timedelta(seconds=61))
    assert {violation.invariant for violation in check_all()} == {"I2", "I6"}
    assert instances.run() == 1
    cloud.node.run_calls()
    cloud.node.beat()
    assert cloud.node.driver.list_domains() == ()
    assert check_all() == []


def test_a_domain_with_our_mark_that_no_row_knows_is_reported_and_left_alone(cloud: Cloud) -> None:
    instance = cloud.create_running()
    stranger = str(uuid.uuid4())
    known = cloud.node.driver.host.domains[str(instance.id)]
    cloud.node.driver.host.domains[stranger] = dataclasses.replace(known, uuid=stranger, instance_id=stranger)
    cloud.node.beat()
    assert instances.run() == 0
    assert not HostCall.objects.filter(target_id=stranger).exists()
    assert [violation.invariant for violation in check_all()] == ["I2"]
    assert len(cloud.node.driver.list_domains()) == 2


def test_a_silent_host_is_suspect_then_down_and_its_guests_unknown(cloud: Cloud) -> None:
    cloud.create_running()
    for seconds, state in ((10, "up"), (30, "suspect"), (60, "down")):
        Host.objects.filter(id=cloud.host.id).update(last_seen_at=timezone.now() - timedelta(seconds=seconds))
        hosts.run()
        assert Host.objects.get(id=cloud.host.id).observed_state == state
    assert Operation.objects.exclude(state="succeeded").count() == 0, "being down starts nothing anywhere"
    cloud.node.beat()
    assert Host.objects.get(id=cloud.host.id).observed_state == "up"


def test_building_without_an_operation_is_taken_back(cloud: Cloud) -> None:
    instance, operation = cloud.create()
    Operation.objects.filter(id=operation.id).delete()
    Instance.unscoped.filter(id=instance.id).update(created_at=timezone.now() - timedelta(minutes=5))
    assert "I5" in {violation.invariant for violation in check_all()}
    assert instances.run() == 1
    order = _open_operation(instance)
    assert order is not None
    assert run_to_end(order.id, cloud.node).state == "succeeded"
    assert Instance.unscoped.get(id=instance.id).state == "deleted"
