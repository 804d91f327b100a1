"""Resize: what it takes, what it gives back, what it refuses. The harness has its steps; here are its books."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from compute.errors import InvalidState, NoValidHost, OperationInProgress
from compute.models import Allocation, Flavor, Host, HostCall, Instance
from compute.node.drivers.faults import Fault
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.services.grants import Terms, create_grant
from compute.services.instances_delete import delete_instance
from compute.services.instances_power import start_instance
from compute.services.instances_resize import plan_resize, resize_instance
from compute.services.operations import cancel_operation
from tenants.errors import InvalidInput, NotFound, PermissionDenied, QuotaExceeded
from tenants.models import Quota, UsageSegment
from tenants.services import quotas
from tests.factories.compute import make_flavor
from tests.factories.nodes import run_to_end
from tests.factories.tenants import SYSTEM, make_actor, make_tenant
from tests.sagas.conftest import Cloud

SMALL = (1, 256, 1)


def _books(cloud: Cloud) -> set[tuple[int, int, int]]:
    """Return the size that each of the books says is in use; one where they agree."""
    host = Host.objects.get(id=cloud.host.id)
    held = Allocation.objects.get()
    used: Mapping[str, int] = dict(Quota.unscoped.filter(tenant=cloud.tenant).values_list("resource", "used"))
    return {
        (host.used_vcpus, host.used_memory_mib, host.used_disk_gib),
        (held.vcpus, held.memory_mib, held.disk_gib),
        (used["vcpus"], used["memory_mib"], used["disk_gib"]),
        *UsageSegment.unscoped.filter(ended_at=None).values_list("vcpus", "memory_mib", "disk_gib"),
        *Instance.unscoped.values_list("vcpus", "memory_mib", "disk_gib"),
    }


def _resize(cloud: Cloud, instance: Instance, flavor: str) -> str:
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor=flavor)
    return run_to_end(operation.id, cloud.node).state


def test_growth_is_held_at_once_and_runs_from_the_next_start(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=9)
    instance = cloud.create_stopped()
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    assert _books(cloud) == {(3, 1024, 9)}
    assert check_all() == []
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    assert _books(cloud) == {(3, 1024, 9)}
    assert Instance.unscoped.get().flavor.name == "large"
    assert cloud.node.driver.host.domains[str(instance.id)].memory_mib == 1024
    assert cloud.node.driver.host.disks[str(instance.id)].size_gib == 9
    assert check_all() == []


def test_what_shrinks_comes_back_when_the_host_has_done_it(cloud: Cloud) -> None:
    make_flavor("mixed", vcpus=2, memory_mib=64, disk_gib=1)
    instance = cloud.create_stopped()
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="mixed")
    assert _books(cloud) == {(2, 256, 1)}, "of each resource the larger amount is held"
    assert check_all() == []
    assert run_to_end(operation.id, cloud.node).state == "succeeded"
    assert _books(cloud) == {(2, 64, 1)}
    assert check_all() == []


def test_usage_goes_on_without_a_gap_under_the_new_flavor(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=9)
    instance = cloud.create_stopped()
    assert _resize(cloud, instance, "large") == "succeeded"
    before, after = UsageSegment.unscoped.filter(consumer_id=instance.id).order_by("held_from", "ended_at")
    assert (before.flavor_name, before.vcpus, after.flavor_name, after.vcpus) == ("small", 1, "large", 3)
    assert before.ended_at == after.held_from == after.billed_from
    assert after.ended_at is None


@pytest.mark.parametrize("flavor", [(3, 1024, 9), (2, 64, 1), (1, 16, 1)])
def test_failure_puts_all_back_once(cloud: Cloud, flavor: tuple[int, int, int]) -> None:
    make_flavor("other", vcpus=flavor[0], memory_mib=flavor[1], disk_gib=flavor[2])
    instance = cloud.create_stopped()
    cloud.node.driver.inject(Fault("resize.disk", "unknown_after"), Fault("resize", "never", skip=1, code="refused"))
    assert _resize(cloud, instance, "other") == "failed"
    assert _books(cloud) == {SMALL}
    found = Instance.unscoped.get()
    assert (found.flavor.name, found.state) == ("small", "active")
    assert found.error is not None
    assert found.error["code"] == "refused"
    assert cloud.node.driver.host.domains[str(instance.id)].memory_mib == 256
    assert cloud.node.driver.host.disks[str(instance.id)].size_gib == 1
    assert check_all() == []


def test_cancel_and_delete_in_the_middle_leave_the_old_size_and_nothing(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=9)
    instance = cloud.create_stopped()
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    take_turn(operation.id)
    cancel_operation(actor=cloud.actor, operation_id=operation.id)
    assert run_to_end(operation.id, cloud.node).state == "cancelled"
    assert _books(cloud) == {SMALL}
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    take_turn(operation.id)
    _, deletion = delete_instance(actor=cloud.actor, instance_id=instance.id)
    assert run_to_end(operation.id, cloud.node).state == "cancelled"
    assert run_to_end(deletion.id, cloud.node).state == "succeeded"
    assert not Allocation.objects.exists()
    assert not Quota.unscoped.filter(resource__in=["instances", "vcpus", "memory_mib", "disk_gib"], used__gt=0).exists()
    assert check_all() == []


def test_undo_on_a_host_that_is_gone_is_owed_and_the_books_are_right_at_once(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=9)
    instance = cloud.create_stopped()
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    cloud.node.driver.inject(Fault("resize", "never", code="refused"))
    take_turn(operation.id)
    cloud.node.run_calls()
    Host.objects.filter(id=cloud.host.id).update(observed_state="down")
    assert run_to_end(operation.id).state == "failed"
    assert _books(cloud) == {SMALL}
    assert check_all() == []
    Host.objects.filter(id=cloud.host.id).update(observed_state="up")
    cloud.node.run_calls()
    assert cloud.node.calls[-1].method == "instance.resize"
    assert cloud.node.driver.host.domains[str(instance.id)].memory_mib == 256


def test_running_instance_has_to_be_stopped_first(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3)
    instance = cloud.create_running()
    with pytest.raises(InvalidState, match="Stop it, then resize it"):
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    stopped = cloud.create_stopped("other")
    start_instance(actor=cloud.actor, instance_id=stopped.id)
    with pytest.raises((InvalidState, OperationInProgress)):
        resize_instance(actor=cloud.actor, instance_id=stopped.id, flavor="large")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"disk_gib": 4}, "disk_too_small"),
        ({"disk_gib": 9, "kind": "container"}, "kind_mismatch"),
    ],
)
def test_flavors_that_cannot_be_are_told_with_the_field(cloud: Cloud, changes: dict[str, object], code: str) -> None:
    make_flavor("medium", disk_gib=5)
    instance = cloud.create_stopped(flavor="medium")
    other = make_flavor("other")
    for name, value in changes.items():
        setattr(other, name, value)
    other.save()
    for flavor, expected in (("other", code), ("medium", "unchanged"), ("absent", "not_found")):
        with pytest.raises(InvalidInput) as caught:
            resize_instance(actor=cloud.actor, instance_id=instance.id, flavor=flavor)
        assert caught.value.errors[0]["pointer"] == "/flavor"
        assert caught.value.errors[0]["code"] == expected


def test_host_without_room_refuses_with_numbers_and_nothing_is_taken(cloud: Cloud) -> None:
    make_flavor("wide", vcpus=99)
    quotas.set_limit(actor=SYSTEM, tenant=cloud.tenant, resource="vcpus", limit=None)
    instance = cloud.create_stopped()
    with pytest.raises(NoValidHost, match="98 more would be needed"):
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="wide")
    assert _books(cloud) == {SMALL}
    Host.objects.filter(id=cloud.host.id).update(admin_state="disabled")
    make_flavor("large", vcpus=2)
    with pytest.raises(NoValidHost, match="takes nothing new"):
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    assert _books(cloud) == {SMALL}


def test_flavor_that_asks_for_a_processor_which_the_host_has_not_is_refused(cloud: Cloud) -> None:
    fast, wide, less = make_flavor("fast", vcpus=2), make_flavor("wide", vcpus=2), make_flavor("less", memory_mib=64)
    Flavor.objects.filter(id=fast.id).update(kind="vm", cpu_model="EPYC")
    Flavor.objects.filter(id=wide.id).update(kind="vm", cpu_flags=["avx2"])
    Flavor.objects.filter(id=less.id).update(kind="vm", cpu_flags=["avx2"])
    instance = cloud.create_stopped()
    for flavor, word in (("fast", "EPYC"), ("wide", "avx2"), ("less", "avx2")):
        with pytest.raises(NoValidHost, match=word):
            resize_instance(actor=cloud.actor, instance_id=instance.id, flavor=flavor)
        plan = plan_resize(actor=cloud.actor, instance_id=instance.id, flavor=flavor)
        assert plan.refused_by == ["no_valid_host"]
        assert word in plan.reasons[0]
    assert _books(cloud) == {SMALL}
    facts = Host.objects.values_list("facts", flat=True).get(id=cloud.host.id)
    Host.objects.filter(id=cloud.host.id).update(facts={**facts, "cpu_models": ["EPYC"], "cpu_flags": ["avx2"]})
    _, operation = resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="less")
    take_turn(operation.id)
    ordered = HostCall.objects.get(operation=operation).arguments["spec"]
    assert (ordered["cpu_flags"], ordered["memory_mib"]) == (["avx2"], 64), "the host gets the new flavor, whole"
    assert run_to_end(operation.id, cloud.node).state == "succeeded"


def test_shrinking_needs_nothing_of_the_host_but_its_work(cloud: Cloud) -> None:
    make_flavor("less", vcpus=1, memory_mib=64)
    instance = cloud.create_stopped()
    Host.objects.filter(id=cloud.host.id).update(admin_state="disabled")
    assert _resize(cloud, instance, "less") == "succeeded"
    assert _books(cloud) == {(1, 64, 1)}
    assert check_all() == []


def test_quota_counts_the_difference_alone(cloud: Cloud) -> None:
    make_flavor("ten", vcpus=10)
    make_flavor("eleven", vcpus=11)
    Host.objects.update(total_vcpus=64, ceiling_vcpus=64)
    instance = cloud.create_stopped()
    with pytest.raises(QuotaExceeded, match="10 more were asked for"):
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="eleven")
    assert _books(cloud) == {SMALL}
    assert _resize(cloud, instance, "ten") == "succeeded"
    assert _books(cloud) == {(10, 256, 1)}


def test_limit_of_a_grant_refuses_the_difference(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3)
    unit = make_flavor("unit")
    create_grant(
        actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=unit, terms=Terms(units=0, limits={"vcpus": 2})
    )
    instance = cloud.create_stopped()
    with pytest.raises(QuotaExceeded, match="in the pool"):
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="large")
    assert "quota_exceeded" in plan_resize(actor=cloud.actor, instance_id=instance.id, flavor="large").refused_by
    assert _books(cloud) == {SMALL}
    assert check_all() == []


def test_reservation_is_drawn_for_what_grows_and_left_where_it_is_too_small(cloud: Cloud) -> None:
    unit = make_flavor("unit", vcpus=2, memory_mib=512, disk_gib=4)
    make_flavor("large", vcpus=3, memory_mib=512, disk_gib=4)
    cloud.pool.host_losses = 0
    cloud.pool.save()
    grant = create_grant(actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=unit, terms=Terms(units=1))
    instance = cloud.create_stopped()
    assert Allocation.objects.get().grant_id == grant.id
    assert _resize(cloud, instance, "unit") == "succeeded"
    assert Allocation.objects.get().grant_id == grant.id
    assert check_all() == []
    assert _resize(cloud, instance, "large") == "succeeded"
    assert Allocation.objects.get().grant_id is None, "the reservation has one unit: the whole guest moved to open room"
    grant.refresh_from_db()
    assert grant.used_units == 0
    assert check_all() == []


def test_plan_says_what_the_resize_would_meet_and_takes_nothing(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3, memory_mib=1024, disk_gib=9)
    instance = cloud.create_stopped()
    plan = plan_resize(actor=cloud.actor, instance_id=instance.id, flavor="large")
    assert (plan.fits, plan.refused_by, plan.reasons, plan.currency) == (True, [], [], None)
    assert (plan.before.flavor, plan.after.flavor, plan.after.vcpus) == ("small", "large", 3)
    assert {line["resource"]: line["asked"] for line in plan.quota} == {"vcpus": 2, "memory_mib": 768, "disk_gib": 8}
    assert _books(cloud) == {SMALL}
    make_flavor("wide", vcpus=99)
    start_instance(actor=cloud.actor, instance_id=instance.id)
    plan = plan_resize(actor=cloud.actor, instance_id=instance.id, flavor="wide")
    assert (plan.fits, plan.refused_by) == (False, ["invalid_state", "no_valid_host", "quota_exceeded"])
    assert len(plan.reasons) == 3


def test_strangers_and_viewers_may_not(cloud: Cloud) -> None:
    make_flavor("large", vcpus=3)
    instance = cloud.create_stopped()
    for order in (resize_instance, plan_resize):
        with pytest.raises(NotFound):
            order(actor=make_actor("owner", make_tenant()), instance_id=instance.id, flavor="large")
        with pytest.raises(PermissionDenied):
            order(actor=make_actor("viewer", cloud.tenant), instance_id=instance.id, flavor="large")
    assert _books(cloud) == {SMALL}


@pytest.mark.parametrize(
    "asked",
    [{"pinned": True}, {"numa_nodes": 1}, {"hugepages_kib": 2048}],
)
def test_what_is_given_once_is_not_given_by_a_resize(cloud: Cloud, asked: dict[str, object]) -> None:
    flavor = make_flavor("other", vcpus=2, memory_mib=512)
    Flavor.objects.filter(id=flavor.id).update(**asked)
    instance = cloud.create_stopped()
    with pytest.raises(InvalidInput) as refused:
        resize_instance(actor=cloud.actor, instance_id=instance.id, flavor="other")
    assert refused.value.errors[0]["code"] == "dedicated"
    assert _books(cloud) == {SMALL}


@pytest.mark.parametrize("level", ["quota", "grant"])
def test_below_a_lowered_limit_what_takes_nothing_of_it_is_not_refused(cloud: Cloud, level: str) -> None:
    """The way back under a limit is a smaller size; more of another resource has nothing to do with it."""
    make_flavor("large", vcpus=3, memory_mib=512, disk_gib=2)
    make_flavor("roomy", vcpus=3, memory_mib=1024, disk_gib=2)
    make_flavor("slim", vcpus=1, memory_mib=256, disk_gib=2)
    instance = cloud.create_stopped(flavor="large")
    if level == "quota":
        quotas.set_limit(actor=SYSTEM, tenant=cloud.tenant, resource="vcpus", limit=1)
    else:
        terms = Terms(limits={"vcpus": 1})
        unit = Flavor.objects.get(name="small")
        create_grant(actor=SYSTEM, tenant=cloud.tenant, pool=cloud.pool, flavor=unit, terms=terms)
    with pytest.raises(QuotaExceeded, match=r"may use 1 vcpus.*uses 3, and 1 more were asked for"):
        cloud.create("second")
    for flavor in ("roomy", "slim"):
        assert plan_resize(actor=cloud.actor, instance_id=instance.id, flavor=flavor).fits
        assert _resize(cloud, instance, flavor) == "succeeded"
    refused = plan_resize(actor=cloud.actor, instance_id=instance.id, flavor="large")
    assert refused.refused_by == ["quota_exceeded"]
    with pytest.raises(QuotaExceeded):
        _resize(cloud, instance, "large")
    assert check_all() == []
