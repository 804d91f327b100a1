"""Ended leases: each rule of compute.reconcilers.leases, seen from a played host."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from compute.models import Allocation, Instance, Operation
from compute.reconcilers import leases
from compute.selectors.invariants import check_all
from compute.services import leases as service
from compute.services.instances_power import reboot_instance, start_instance, stop_instance
from compute.services.lease_terms import LeaseAsk
from compute.services.leases import change_lease, end_lease
from tenants.models import AuditEvent
from tests.factories.nodes import run_to_end
from tests.sagas.conftest import Cloud

DELETE = LeaseAsk(seconds=3600, action="delete")
STOP = LeaseAsk(seconds=3600, action="stop")


def _end(*instances: Instance) -> None:
    """Let the leases have ended a moment ago."""
    rows = Instance.unscoped.filter(id__in=[instance.id for instance in instances])
    rows.update(lease_ends_at=Now() - timedelta(seconds=1))


def _open(instance: Instance) -> list[Operation]:
    rows = Operation.objects.filter(target_id=instance.id, state__in=["pending", "running"])
    return list(rows.order_by("created_at"))


def test_an_instance_is_deleted_when_its_lease_ends(cloud: Cloud) -> None:
    instance = cloud.create_running(lease=DELETE)
    assert leases.run() == 0, "it has an hour left"
    _end(instance)
    assert leases.run() == 1
    (operation,) = _open(instance)
    assert (operation.kind, operation.actor) == ("instance_delete", "lease")
    assert leases.run() == 0, "a second run changes nothing"
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    assert leases.run() == 0
    assert not Allocation.objects.exists()
    event = AuditEvent.unscoped.get(action="instance.delete", target_id=instance.id)
    assert (event.actor_name, event.after["lease"]["action"]) == ("lease", "delete")
    assert check_all() == []


def test_an_instance_is_stopped_when_its_lease_ends_and_keeps_its_room(cloud: Cloud) -> None:
    instance = cloud.create_running(lease=STOP)
    _end(instance)
    assert leases.run() == 1
    (operation,) = _open(instance)
    assert operation.kind == "instance_stop"
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    assert cloud.node.driver.list_domains()[0].power == "stopped"
    assert Allocation.objects.filter(consumer_id=instance.id).exists()
    assert leases.run() == 0, "who is stopped already is left alone"
    event = AuditEvent.unscoped.get(action="instance.stop", target_id=instance.id)
    assert (event.actor_name, event.after["lease"]["action"]) == ("lease", "stop")
    assert check_all() == []


def test_who_was_stopped_before_its_lease_ended_is_left_alone(cloud: Cloud) -> None:
    instance = cloud.create_stopped(lease=STOP)
    _end(instance)
    assert leases.due_leases() == []
    assert end_lease(instance_id=instance.id) is False


def test_what_has_an_open_operation_waits_for_its_end(cloud: Cloud) -> None:
    instance = cloud.create_running(lease=DELETE)
    _, operation = stop_instance(actor=cloud.actor, instance_id=instance.id)
    _end(instance)
    assert leases.run() == 0
    assert end_lease(instance_id=instance.id) is False, "whoever looked a moment earlier is told so under the lock"
    assert _open(instance) == [operation]
    run_to_end(operation.id, cloud.node)
    assert leases.run() == 1


def test_a_lease_that_was_renewed_or_taken_away_since_the_look_ends_nothing(cloud: Cloud) -> None:
    renewed, kept = cloud.create_running("renewed", lease=DELETE), cloud.create_running("kept", lease=DELETE)
    _end(renewed, kept)
    seen = leases.due_leases()
    assert set(seen) == {renewed.id, kept.id}
    change_lease(actor=cloud.actor, instance_id=renewed.id, lease=DELETE)
    change_lease(actor=cloud.actor, instance_id=kept.id, lease=None)
    assert [end_lease(instance_id=instance_id) for instance_id in seen] == [False, False]


def test_an_instance_that_is_being_deleted_is_not_deleted_twice(cloud: Cloud) -> None:
    instance = cloud.create_running(lease=DELETE)
    Instance.unscoped.filter(id=instance.id).update(state="deleting")
    _end(instance)
    assert leases.due_leases() == []
    assert end_lease(instance_id=instance.id) is False


def test_one_that_fails_does_not_keep_the_others_from_ending(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = cloud.create_running("first", lease=DELETE), cloud.create_running("second", lease=DELETE)
    _end(first, second)
    honest = service.order_delete

    def failing(**arguments: object) -> Operation:
        if arguments["instance"] == first:
            raise RuntimeError("a defect")
        return honest(**arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(service, "order_delete", failing)
    assert leases.run() == 1
    assert (_open(first), len(_open(second))) == ([], 1)
    assert str(first.id) in caplog.text


def test_a_deletion_that_failed_is_ordered_again_after_a_pause(cloud: Cloud) -> None:
    instance = cloud.create_running(lease=DELETE)
    _end(instance)
    assert leases.run() == 1
    (operation,) = _open(instance)
    Operation.objects.filter(id=operation.id).update(
        state="failed", finished_at=timezone.now(), error={"code": "no_answer", "message": "its host was silent"}
    )
    Instance.unscoped.filter(id=instance.id).update(state="error")
    assert leases.run() == 0
    Operation.objects.filter(id=operation.id).update(finished_at=timezone.now() - timedelta(seconds=31))
    assert leases.run() == 1
    (again,) = _open(instance)
    assert run_to_end(again.id, cloud.node).state == "succeeded"
    assert leases.run() == 0


@pytest.mark.parametrize("order", [start_instance, reboot_instance])
def test_what_an_ended_lease_stopped_is_started_with_another_lease_alone(cloud: Cloud, order: object) -> None:
    instance = cloud.create_stopped(lease=STOP)
    _end(instance)
    with pytest.raises(service.InvalidState, match="lease of web has ended, and it stays stopped"):
        order(actor=cloud.actor, instance_id=instance.id)  # type: ignore[operator]
    change_lease(actor=cloud.actor, instance_id=instance.id, lease=STOP)
    _, operation = order(actor=cloud.actor, instance_id=instance.id)  # type: ignore[operator]
    assert run_to_end(operation.id, cloud.node).state == "succeeded"


def test_the_audit_tells_of_a_lease_that_ended_and_did_nothing(cloud: Cloud) -> None:
    def told() -> list[str]:
        return [fault.detail for fault in check_all() if fault.invariant == "I5"]

    deletes, stops = cloud.create_running("deletes", lease=DELETE), cloud.create_running("stops", lease=STOP)
    stopped = cloud.create_stopped("stopped", lease=STOP)
    long_ago = timezone.now() - timedelta(minutes=5)
    Operation.objects.update(finished_at=long_ago)
    _end(deletes, stops, stopped)
    assert told() == [], "the reconciler may not have come by yet"
    Instance.unscoped.update(lease_ends_at=long_ago)
    names = sorted(detail.split()[1] for detail in told())
    assert names == sorted([str(deletes.id), str(stops.id)])
    assert all("its lease ended at" in detail for detail in told())
    assert leases.run() == 2
    assert told() == []
    for operation in (*_open(deletes), *_open(stops)):
        run_to_end(operation.id, cloud.node)
    Operation.objects.update(finished_at=long_ago)
    assert told() == []
