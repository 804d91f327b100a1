"""Leases, tokens, cancelling, queueing: what the engine does when things come late, twice, or not at all."""

from __future__ import annotations

import threading
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from compute.errors import InvalidState, OperationInProgress, StaleAnswer
from compute.models import Allocation, HostCall, Instance, Operation
from compute.node.drivers.faults import Fault, FaultKind
from compute.reconcilers.operations import due_operations
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services import nodes
from compute.services.instances_delete import delete_instance
from compute.services.instances_power import start_instance, stop_instance
from compute.services.operations import cancel_operation, retry_operation
from compute.wire import CallAnswer, HostReport
from tests.factories.compute import make_host
from tests.factories.nodes import make_due, run_to_end
from tests.sagas.conftest import Cloud


def test_a_call_whose_lease_ran_out_is_sent_again_with_a_higher_token(cloud: Cloud) -> None:
    _, operation = cloud.create()
    take_turn(operation.id)
    cloud.node.run_calls(answer=False)
    first = HostCall.objects.get(operation=operation)
    HostCall.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    make_due(operation.id)
    take_turn(operation.id)
    make_due(operation.id)
    take_turn(operation.id)
    second = HostCall.objects.filter(operation=operation).latest("created_at")
    assert second.token > first.token
    with pytest.raises(StaleAnswer):
        nodes.answer_call(
            host=cloud.host, call_id=first.id, answer=CallAnswer(str(first.id), first.token, "never", error=None)
        )
    assert run_to_end(operation.id, cloud.node).state == "succeeded"


def test_a_heartbeat_that_names_the_call_renews_its_lease(cloud: Cloud) -> None:
    _, operation = cloud.create()
    take_turn(operation.id)
    call = nodes.fetch_calls(host=cloud.host, limit=1)[0]
    HostCall.objects.update(lease_until=timezone.now() + timedelta(seconds=1))
    before = HostCall.objects.get(id=call.id).lease_until
    nodes.heartbeat(
        host=cloud.host, report=HostReport("boot-1", timezone.now().isoformat(), None, calls_in_hand=(call.id,))
    )
    after = HostCall.objects.get(id=call.id).lease_until
    assert before is not None
    assert after is not None
    assert after > before


def test_another_host_can_neither_fetch_nor_answer_the_call(cloud: Cloud) -> None:
    other = make_host(cloud.pool, vcpus=1)
    _, operation = cloud.create()
    placed = Instance.unscoped.get(id=operation.target_id).host_id
    stranger = other if placed == cloud.host.id else cloud.host
    take_turn(operation.id)
    assert nodes.fetch_calls(host=stranger, limit=16) == []
    call = HostCall.objects.get(operation=operation)
    with pytest.raises(StaleAnswer):
        nodes.answer_call(host=stranger, call_id=call.id, answer=CallAnswer(str(call.id), call.token, "done"))


def test_many_workers_at_once_take_one_turn(cloud: Cloud) -> None:
    _, operation = cloud.create()
    start = threading.Barrier(12)

    def one() -> None:
        start.wait()
        try:
            take_turn(operation.id)
        finally:
            connection.close()

    threads = [threading.Thread(target=one) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert HostCall.objects.filter(operation=operation).count() == 1


def test_delete_during_create_cancels_and_unwinds_it_first(cloud: Cloud) -> None:
    instance, create = cloud.create()
    take_turn(create.id)
    cloud.node.run_calls()
    take_turn(create.id)
    delete = delete_instance(actor=cloud.actor, instance_id=instance.id)[1]
    with pytest.raises(OperationInProgress):
        delete_instance(actor=cloud.actor, instance_id=instance.id)
    assert run_to_end(create.id, cloud.node).state == "cancelled"
    assert run_to_end(delete.id, cloud.node).state == "succeeded"
    assert Instance.unscoped.get(id=instance.id).state == "deleted"
    assert not Allocation.objects.exists()
    assert cloud.node.driver.list_disks() == ()
    assert check_all() == []


def test_delete_before_create_began_waits_for_it_and_cancels_it(cloud: Cloud) -> None:
    instance, create = cloud.create()
    delete = delete_instance(actor=cloud.actor, instance_id=instance.id)[1]
    take_turn(delete.id)
    assert Operation.objects.get(id=delete.id).state == "pending", "it does not overtake"
    assert run_to_end(create.id, cloud.node).state == "cancelled"
    assert run_to_end(delete.id, cloud.node).state == "succeeded"
    assert cloud.node.calls == []
    assert check_all() == []


def test_other_verbs_are_refused_while_an_operation_is_open(cloud: Cloud) -> None:
    instance = cloud.create_running()
    stop = stop_instance(actor=cloud.actor, instance_id=instance.id)[1]
    with pytest.raises(OperationInProgress) as refusal:
        start_instance(actor=cloud.actor, instance_id=instance.id)
    assert refusal.value.data["operation_id"] == str(stop.id)


def test_cancel_before_anything_began_gives_everything_back(cloud: Cloud) -> None:
    _, operation = cloud.create()
    cancel_operation(actor=cloud.actor, operation_id=operation.id)
    assert run_to_end(operation.id, cloud.node).state == "cancelled"
    assert not Allocation.objects.exists()
    assert cloud.node.calls == []
    with pytest.raises(InvalidState):
        cancel_operation(actor=cloud.actor, operation_id=operation.id)


def test_an_operation_past_its_deadline_unwinds(cloud: Cloud) -> None:
    instance, operation = cloud.create()
    take_turn(operation.id)
    Operation.objects.update(deadline_at=timezone.now() - timedelta(seconds=1))
    ended = run_to_end(operation.id, cloud.node)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "deadline"
    assert Instance.unscoped.get(id=instance.id).state == "failed"
    assert check_all() == []


def test_a_stuck_operation_unwinds_when_it_is_tried_again(cloud: Cloud) -> None:
    _, operation = cloud.create()
    take_turn(operation.id)
    Operation.objects.filter(id=operation.id).update(state="stuck", error={"code": "x", "message": "y"})
    assert take_turn(operation.id) is False
    retry_operation(actor=cloud.actor, operation_id=operation.id)
    assert run_to_end(operation.id, cloud.node).state == "failed"
    assert not Allocation.objects.exists()


def test_the_sweep_finds_what_no_doorbell_told_of(cloud: Cloud) -> None:
    _, operation = cloud.create()
    assert due_operations() == [operation.id]
    take_turn(operation.id)
    assert due_operations() == [], "it waits for its host"
    cloud.node.run_calls()
    assert due_operations() == [operation.id], "an answer makes it due at once"


def test_a_forged_or_final_id_does_nothing(cloud: Cloud) -> None:
    assert take_turn(uuid.uuid4()) is False
    instance = cloud.create_running()
    operation = Operation.objects.get(target_id=instance.id)
    assert take_turn(operation.id) is False


@pytest.mark.parametrize("kind", ["retry", "unknown"])
def test_an_undo_that_never_comes_to_an_end_is_shown_to_an_operator(cloud: Cloud, kind: FaultKind) -> None:
    _, operation = cloud.create()
    driver = cloud.node.driver
    driver.host.inject(Fault("start", "never", code="refused"), Fault("remove", kind, times=-1))
    assert run_to_end(operation.id, cloud.node).state == "stuck"
    assert Allocation.objects.count() == 1, "its room is held until somebody has looked"
    assert "I5" in {violation.invariant for violation in check_all()}
    driver.host.faults.clear()
    retry_operation(actor=cloud.actor, operation_id=operation.id)
    assert run_to_end(operation.id, cloud.node).state == "failed"
    assert not Allocation.objects.exists()
    assert driver.list_disks() == ()


def test_a_host_that_dies_in_every_try_of_an_undo_does_not_keep_it_going_for_ever(cloud: Cloud) -> None:
    _, operation = cloud.create()
    cloud.node.driver.host.inject(Fault("start", "never", code="refused"))
    take_turn(operation.id)
    while Operation.objects.get(id=operation.id).state != "unwinding":
        cloud.node.run_calls()
        make_due(operation.id)
        take_turn(operation.id)
    for _ in range(60):
        make_due(operation.id)
        take_turn(operation.id)
        nodes.fetch_calls(host=cloud.host, limit=1)
        HostCall.objects.filter(state="taken").update(lease_until=timezone.now() - timedelta(seconds=1))
    assert Operation.objects.get(id=operation.id).state == "stuck"
