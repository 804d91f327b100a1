"""Every saga: each step twice, and failure at every step, after which nothing is left over.

Parametrised from the registry: a new saga without a scenario here fails the build.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from compute import outbox
from compute.models import Allocation, Host, HostCall, Instance, Operation, Pool, Port
from compute.node.drivers.faults import Fault
from compute.sagas.engine import take_turn
from compute.sagas.registry import SAGAS
from compute.sagas.step import Context, HostStep
from compute.selectors.invariants import check_all
from compute.services.hosts import prove_host
from compute.services.housekeeping import expire
from compute.services.instances_delete import delete_instance
from compute.services.instances_move import move_instance
from compute.services.instances_power import reboot_instance, start_instance, stop_instance
from compute.services.instances_resize import resize_instance
from compute.services.keypairs import create_keypair
from compute.services.tenants_delete import delete_tenant_with_contents, plan_tenant_delete
from tenants.models import Quota, UsageSegment
from tenants.services import audit
from tenants.services.access import system_actor
from tests.factories.compute import make_flavor
from tests.factories.migrations import order_migration
from tests.factories.nodes import run_to_end
from tests.factories.tenants import make_actor, make_tenant
from tests.sagas.conftest import Cloud

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
Scenario = Callable[[Cloud], Operation]


def _create(cloud: Cloud) -> Operation:
    return cloud.create()[1]


def _power(order: Callable[..., Any], **arguments: Any) -> Scenario:
    def begin(cloud: Cloud) -> Operation:
        instance = cloud.create_running()
        operation: Operation = order(actor=cloud.actor, instance_id=instance.id, **arguments)[1]
        return operation

    return begin


def _resize(cloud: Cloud) -> Operation:
    make_flavor("mixed", vcpus=3, memory_mib=128, disk_gib=9)
    instance = cloud.create_stopped()
    return resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="mixed")[1]


def _evacuate(cloud: Cloud) -> Operation:
    """The guest's books say its host already; the start is what the saga does."""
    instance = cloud.create_running()
    cloud.node.driver.stop(str(instance.id), graceful_seconds=0)
    operation = outbox.submit(
        actor=cloud.actor,
        kind="instance_evacuate",
        target_type="instance",
        target_id=instance.id,
        target_name=instance.name,
        tenant_id=instance.tenant_id,
        arguments={"evacuation": str(uuid.uuid4())},
    )
    with transaction.atomic():
        audit.record(actor=cloud.actor, action="instance.evacuate", target=instance, operation_id=operation.id)
    return operation


def _prove(cloud: Cloud) -> Operation:
    return prove_host(actor=system_actor("tests"), host_id=cloud.host.id)[1]


def _migrate(cloud: Cloud) -> Operation:
    instance = cloud.create_running()
    return order_migration(instance, cloud.add_host().host)[1]


def _move(cloud: Cloud) -> Operation:
    instance = cloud.create_running()
    cloud.add_host()
    Pool.objects.update(shared_storage_id="fake-storage")
    return move_instance(actor=make_actor(is_operator=True), instance_id=instance.id, stop=True)[1]


def _tenant_delete(cloud: Cloud) -> Operation:
    """Without guests, which are operations of their own: tests/sagas/test_tenant_delete.py."""
    below = make_tenant(parent=make_tenant(parent=cloud.tenant))
    create_keypair(actor=system_actor("tests"), tenant=below, name="laptop", public_key=KEY)
    actor = system_actor("tests")
    seen = plan_tenant_delete(actor=actor, tenant=cloud.tenant).fingerprint
    return delete_tenant_with_contents(actor=actor, tenant=cloud.tenant, fingerprint=seen)


SCENARIOS: dict[str, Scenario] = {
    "instance_create": _create,
    "instance_delete": _power(delete_instance),
    "instance_evacuate": _evacuate,
    "instance_start": _power(start_instance),
    "instance_stop": _power(stop_instance, force=True),
    "instance_reboot": _power(reboot_instance, force=True),
    "instance_resize": _resize,
    "instance_migrate": _migrate,
    "instance_move": _move,
    "host_prove": _prove,
    "tenant_delete": _tenant_delete,
}

# Which fault of the fake driver makes the host refuse each host step for good.
FAULT_OF_METHOD = {
    "instance.prepare": "prepare",
    "instance.start": "start",
    "instance.stop": "stop",
    "instance.reboot": "reboot",
    "instance.resize": "resize",
    "instance.remove": "remove",
    "instance.receive": "receive",
    "host.prove": "prove",
}


def test_every_saga_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(SAGAS)


@pytest.mark.parametrize("kind", sorted(SAGAS))
def test_each_step_twice_ends_as_once(kind: str, cloud: Cloud) -> None:
    operation = SCENARIOS[kind](cloud)
    ended = run_to_end(operation.id, *cloud.nodes, twice=True)
    assert ended.state == "succeeded", ended.error
    cloud.beat()
    cloud.beat()
    assert check_all() == []
    if kind == "instance_delete":
        _assert_nothing_left(cloud)
    elif kind not in ("host_prove", "tenant_delete"):
        assert Instance.unscoped.get(id=operation.target_id).state == "active"
        assert sum(len(node.driver.list_domains()) for node in cloud.nodes) == 1


def _host_steps(kind: str) -> list[int]:
    return [index for index, step in enumerate(SAGAS[kind].steps) if isinstance(step, HostStep)]


@pytest.mark.parametrize(("kind", "step"), [(kind, step) for kind in sorted(SAGAS) for step in _host_steps(kind)])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_step_that_fails_for_good_leaves_nothing(kind: str, step: int, when: str, cloud: Cloud) -> None:
    operation = SCENARIOS[kind](cloud)
    method = _method_of(cloud, operation, step)
    place = FAULT_OF_METHOD[method]
    if when == "before":
        cloud.inject(Fault(place, "never", code="refused"))
    else:
        # Done, but its answer lost, and refused when asked again: the undo has to find it.
        cloud.inject(Fault(place, "unknown_after"), Fault(place, "never", code="refused"))
    ended = run_to_end(operation.id, *cloud.nodes)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error["code"] == "refused"
    cloud.beat()
    cloud.beat()
    assert [v for v in check_all() if v.invariant not in ("I2",)] == []
    if kind == "instance_create":
        _assert_nothing_left(cloud)
        assert Instance.unscoped.get(id=operation.target_id).state == "failed"
        assert UsageSegment.unscoped.get(consumer_id=operation.target_id).billed_from is None, "a failed build is free"


@pytest.mark.parametrize("kind", sorted(SAGAS))
def test_a_lost_answer_at_every_step_is_finished_by_asking_again(kind: str, cloud: Cloud) -> None:
    operation = SCENARIOS[kind](cloud)
    for place in FAULT_OF_METHOD.values():
        cloud.inject(Fault(place, "unknown_after"))
    ended = run_to_end(operation.id, *cloud.nodes)
    assert ended.state == "succeeded", ended.error
    tokens = list(HostCall.objects.filter(operation=operation).order_by("created_at").values_list("token", flat=True))
    assert tokens == sorted(set(tokens)), "each new order carries a higher fencing token"


def test_a_local_step_that_raises_parks_the_operation_and_gives_nothing_away(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = _create(cloud)
    monkeypatch.setattr("compute.sagas.instance_create.move", _explode)
    # The saga table holds the step function itself, whose `move` is looked up in its module at call time.
    ended = run_to_end(operation.id, *cloud.nodes)
    assert ended.state == "stuck"
    assert Allocation.objects.count() == 1, "a stuck operation holds its room until somebody has looked"


def _explode(*args: object, **kwargs: object) -> None:
    raise RuntimeError("a bug")


def _method_of(cloud: Cloud, operation: Operation, step: int) -> str:
    host_step = SAGAS[operation.kind].steps[step]
    assert isinstance(host_step, HostStep)
    order = host_step.call(Context(operation))
    assert order is not None
    return order.method


def _assert_nothing_left(cloud: Cloud) -> None:
    host = Host.objects.get(id=cloud.host.id)
    assert (host.used_vcpus, host.used_memory_mib, host.used_disk_gib, host.used_instances) == (0, 0, 0, 0)
    assert not Allocation.objects.exists()
    assert not Port.unscoped.exists()
    assert UsageSegment.unscoped.exists()
    assert not UsageSegment.unscoped.filter(ended_at=None).exists()
    assert set(
        Quota.unscoped.filter(resource__in=["instances", "vcpus", "memory_mib", "disk_gib"]).values_list(
            "used", flat=True
        )
    ) == {0}
    assert cloud.node.driver.list_domains() == ()
    assert cloud.node.driver.list_disks() == ()


def test_undo_that_fails_once_is_tried_until_clean(cloud: Cloud) -> None:
    operation = _create(cloud)
    cloud.node.driver.host.inject(Fault("start", "never", code="refused"), Fault("remove", "retry", times=3))
    ended = run_to_end(operation.id, *cloud.nodes)
    assert ended.state == "failed"
    _assert_nothing_left(cloud)


def test_undo_whose_host_is_gone_becomes_a_debt_that_is_paid_first(cloud: Cloud) -> None:
    operation = _create(cloud)
    take_turn(operation.id)
    cloud.node.run_calls()
    take_turn(operation.id)
    cloud.node.driver.host.inject(Fault("start", "never", code="refused"))
    cloud.node.run_calls()
    Host.objects.filter(id=cloud.host.id).update(observed_state="down")
    ended = run_to_end(operation.id)
    assert ended.state == "failed"
    assert HostCall.objects.filter(purpose="debt", state="waiting").count() == 1
    expire()
    kept = Port.unscoped.get(instance=operation.target_id).address
    assert kept, "the leftover may still use it: nobody else gets it"
    assert cloud.node.driver.list_disks() != (), "the host is gone: its leftover still lies there"
    Host.objects.filter(id=cloud.host.id).update(observed_state="up")
    second, order = cloud.create("second")
    take_turn(order.id)
    cloud.node.run_calls()
    methods = [call.method for call in cloud.node.calls]
    assert methods[-1] == "instance.remove", "nothing else is handed out before the debt is paid"
    assert run_to_end(order.id, cloud.node).state == "succeeded"
    assert uuid.UUID(cloud.node.driver.list_disks()[0]) == second.id
    expire()
    assert not Port.unscoped.filter(instance=operation.target_id).exists(), "paid: the address is free again"
