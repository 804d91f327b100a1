"""A tenant is deleted with all it holds: guests first, bottom up; closed meanwhile; cancelled between guests."""

from __future__ import annotations

import re

import pytest

from compute.errors import OperationInProgress
from compute.models import Allocation, Flavor, Grant, Group, Instance, Keypair, Operation, Pool
from compute.node.drivers.faults import Fault
from compute.sagas import tenant_delete
from compute.sagas.engine import take_turn
from compute.selectors.invariants import check_all
from compute.selectors.operations import progress_of
from compute.services.grants import Terms, create_grant
from compute.services.groups import create_group
from compute.services.instances_create import create_instances
from compute.services.instances_delete import delete_instance
from compute.services.keypairs import create_keypair
from compute.services.operations import cancel_operation
from compute.services.tenants_delete import delete_empty_tenant, delete_tenant_with_contents, plan_tenant_delete
from compute.services.tenants_move import move_tenant_with_guests
from tenants.errors import Conflict, NotFound, PermissionDenied, TenantDisabled
from tenants.models import AuditEvent, Quota, Tenant
from tenants.services import tenants
from tenants.services.access import Actor
from tests.factories.nodes import make_due
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token
from tests.sagas.conftest import Cloud
from tests.sagas.test_harness import KEY


@pytest.fixture
def full(cloud: Cloud) -> Tenant:
    """cloud.tenant / dept / (team, other): a guest in each of the first three, a key and a token in the team."""
    dept = make_tenant("dept", parent=cloud.tenant)
    team = make_tenant("team", parent=dept)
    make_tenant("other", parent=dept)
    for tenant in (cloud.tenant, dept, team):
        guest_in(tenant)
    work(cloud)
    create_keypair(actor=SYSTEM, tenant=team, name="laptop", public_key=KEY)
    make_token(make_member(team, "operator").user, team)
    return dept


def guest_in(tenant: Tenant) -> Instance:
    made = create_instances(actor=SYSTEM, tenant=tenant, name=f"in-{tenant.name}", flavor="small", image="tiny")
    return made.instances[0]


def work(cloud: Cloud, rounds: int = 60) -> None:
    """Give every open operation turns, and its host time, until none is open."""
    for _ in range(rounds):
        open_now = list(Operation.objects.filter(state__in=["pending", "running", "unwinding"]).order_by("-created_at"))
        if not open_now:
            return
        for operation in open_now:
            make_due(operation.id)
            take_turn(operation.id)
        cloud.node.run_calls()


def delete(tenant: Tenant, actor: Actor = SYSTEM) -> Operation:
    """Look, and agree to what is seen."""
    plan = plan_tenant_delete(actor=SYSTEM, tenant=tenant)
    return delete_tenant_with_contents(actor=actor, tenant=tenant, fingerprint=plan.fingerprint)


def states() -> dict[str, str]:
    return dict(Tenant.objects.values_list("name", "state"))


def test_everything_in_it_goes_and_nothing_else(cloud: Cloud, full: Tenant) -> None:
    operation = delete(full)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "succeeded", operation.error
    assert Instance.unscoped.exclude(state="deleted").get().tenant_id == cloud.tenant.id
    assert [states()[name] for name in ("dept", "team", "other")] == ["deleted"] * 3
    assert Allocation.objects.count() == 1
    assert not Keypair.unscoped.exists()
    assert not Quota.unscoped.filter(tenant=full, used__gt=0).exists()
    assert Quota.unscoped.get(tenant=cloud.tenant, resource="instances").used == 1
    assert Quota.unscoped.get(tenant=cloud.tenant, resource="tenants").used == 0
    cloud.node.beat()
    assert check_all() == []


def test_guests_are_ordered_from_the_deepest_tenant_up_a_few_at_a_time(
    cloud: Cloud, full: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_delete, "AT_ONCE", 1)
    told = [row["name"] for row in plan_tenant_delete(actor=SYSTEM, tenant=full).instances]
    assert told == ["in-team", "in-dept"]
    operation = delete(full)
    take_turn(operation.id)
    assert Operation.objects.filter(kind="instance_delete").count() == 1
    work(cloud)
    ordered = Operation.objects.filter(kind="instance_delete").order_by("created_at")
    assert list(ordered.values_list("target_name", flat=True)) == told


def test_it_is_closed_at_once_and_nobody_opens_or_moves_it(cloud: Cloud, full: Tenant) -> None:
    owner = make_actor("owner", full)
    operation = delete(full)
    with pytest.raises(TenantDisabled):
        create_instances(actor=owner, tenant=full, name="late", flavor="small", image="tiny")
    with pytest.raises(TenantDisabled):
        make_tenant("late", parent=full)
    team, elsewhere = Tenant.objects.get(name="team"), make_tenant("elsewhere")
    for act in (
        lambda: tenants.set_tenant_state(actor=SYSTEM, tenant=full, active=True),
        lambda: move_tenant_with_guests(actor=SYSTEM, tenant=full, parent=elsewhere),
        lambda: move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=elsewhere),
        lambda: move_tenant_with_guests(actor=SYSTEM, tenant=elsewhere, parent=team),
    ):
        with pytest.raises((Conflict, TenantDisabled)) as caught:
            act()
        assert caught.value.data.get("reason", "deleting") == "deleting"
    with pytest.raises(OperationInProgress) as twice:
        delete(full)
    assert twice.value.data["operation_id"] == str(operation.id)


def test_a_cancel_stops_between_guests_and_opens_it_again(
    cloud: Cloud, full: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_delete, "AT_ONCE", 1)
    operation = delete(full)
    take_turn(operation.id)
    cancel_operation(actor=SYSTEM, operation_id=operation.id)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "cancelled"
    left = Instance.unscoped.exclude(state="deleted").filter(tenant__path__contains=[full.id])
    assert [row.name for row in left] == ["in-dept"]
    assert states()["dept"] == "active"
    assert Keypair.unscoped.count() == 1
    assert check_all() == []


def test_a_cancel_before_it_began_opens_it_with_all_that_it_had(cloud: Cloud, full: Tenant) -> None:
    operation = delete(full)
    cancel_operation(actor=SYSTEM, operation_id=operation.id)
    assert states()["dept"] == "deleting"
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "cancelled"
    assert states()["dept"] == "active"
    assert Instance.unscoped.filter(state="active", tenant__path__contains=[full.id]).count() == 2
    assert not Operation.objects.filter(kind="instance_delete").exists()


def test_it_goes_back_to_disabled_where_it_was(cloud: Cloud, full: Tenant) -> None:
    tenants.set_tenant_state(actor=SYSTEM, tenant=full, active=False)
    operation = delete(full)
    cancel_operation(actor=SYSTEM, operation_id=operation.id)
    work(cloud)
    assert states()["dept"] == "disabled"


def test_a_guest_that_cannot_be_deleted_ends_it_with_a_reason(cloud: Cloud, full: Tenant) -> None:
    stubborn = Instance.unscoped.get(name="in-team")
    cloud.node.driver.host.inject(Fault("remove", "never", instance_id=str(stubborn.id), times=-1))
    operation = delete(full)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "failed"
    assert operation.error is not None
    assert operation.error["code"] == "instances_left"
    assert "could not be deleted; each says why: in-team." in operation.error["message"]
    assert states()["dept"] == "active"
    cloud.node.driver.host.faults.clear()
    again = delete(full)
    work(cloud)
    again.refresh_from_db()
    assert again.state == "succeeded"


def test_progress_counts_guests(cloud: Cloud, full: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_delete, "AT_ONCE", 1)
    operation = delete(full)
    seen = []
    for _ in range(40):
        for row in Operation.objects.filter(state__in=["pending", "running"]).order_by("-created_at"):
            make_due(row.id)
            take_turn(row.id)
        cloud.node.run_calls()
        operation.refresh_from_db()
        seen.append((progress_of(operation), operation.steps[0].get("note")))
    assert (16, "1 of 2 instances deleted") in seen
    assert seen == sorted(seen)
    assert seen[-1][0] == 100


def test_it_is_decided_from_above(cloud: Cloud, full: Tenant) -> None:
    with pytest.raises(PermissionDenied):
        delete(full, make_actor("owner", full))
    with pytest.raises(PermissionDenied):
        plan_tenant_delete(actor=make_actor("admin", cloud.tenant), tenant=full)
    with pytest.raises(NotFound):
        delete(full, make_actor("owner", make_tenant()))
    assert delete(full, make_actor("owner", cloud.tenant)).tenant_id == cloud.tenant.id


def test_without_cascade_what_is_in_it_is_counted(cloud: Cloud, full: Tenant) -> None:
    with pytest.raises(Conflict, match="2 instances, 1 keypair, 2 tenants below it") as caught:
        delete_empty_tenant(actor=SYSTEM, tenant=full)
    assert caught.value.data["goes_with"] == {"members": 1, "tokens": 1}
    assert "1 member and 1 token would go with it" in caught.value.detail


def test_an_instance_that_failed_keeps_its_tenant(cloud: Cloud) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    cloud.node.driver.host.inject(Fault("start", "never"))
    guest_in(team)
    work(cloud)
    with pytest.raises(Conflict, match="1 instances that failed"):
        delete_empty_tenant(actor=SYSTEM, tenant=team)
    assert states()["team"] == "active"
    delete(team)
    work(cloud)
    assert states()["team"] == "deleted"


@pytest.mark.parametrize("change", ["guest", "key", "tenant", "grant"])
def test_what_came_after_the_look_is_not_deleted_unseen(cloud: Cloud, full: Tenant, change: str) -> None:
    seen = plan_tenant_delete(actor=SYSTEM, tenant=full)
    other = Tenant.objects.get(name="other")
    if change == "guest":
        guest_in(other)
    elif change == "key":
        create_keypair(actor=SYSTEM, tenant=other, name="new", public_key=KEY)
    elif change == "tenant":
        make_tenant("new", parent=other)
    else:
        _promise(cloud, other, units=0)
    with pytest.raises(Conflict) as caught:
        delete_tenant_with_contents(actor=SYSTEM, tenant=full, fingerprint=seen.fingerprint)
    assert caught.value.data["reason"] == "changed"
    assert states()["dept"] == "active"
    assert not Operation.objects.filter(kind="tenant_delete").exists()


def test_the_plan_counts_what_goes(cloud: Cloud, full: Tenant) -> None:
    Pool.objects.update(host_losses=0)
    _promise(cloud, full, units=1)
    plan = plan_tenant_delete(actor=SYSTEM, tenant=full)
    assert plan.counts == {
        "instances": 2,
        "addresses": 2,
        "keypairs": 1,
        "groups": 0,
        "grants": 1,
        "tenants": 3,
        "members": 1,
        "tokens": 1,
    }
    above = cloud.tenant.name
    assert plan.tenants[-1] == f"{above}/dept"
    assert [(row["name"], row["tenant"]) for row in plan.instances] == [
        ("in-team", f"{above}/dept/team"),
        ("in-dept", f"{above}/dept"),
    ]
    assert plan.grants == [{"tenant": f"{above}/dept", "pool": cloud.pool.name, "unit": "small", "units": 1}]
    assert plan == plan_tenant_delete(actor=SYSTEM, tenant=full), "the same as long as nothing changes"


def _promise(cloud: Cloud, tenant: Tenant, *, units: int, expandable: bool = False) -> Grant:
    small = Flavor.objects.get(name="small")
    terms = Terms(units=units, expandable=expandable)
    return create_grant(actor=SYSTEM, tenant=tenant, pool=cloud.pool, flavor=small, terms=terms)


def test_promises_are_ended_from_the_deepest_up_and_their_room_comes_back(cloud: Cloud, full: Tenant) -> None:
    Pool.objects.update(host_losses=0)
    team = Tenant.objects.get(name="team")
    top = _promise(cloud, cloud.tenant, units=6)
    _promise(cloud, full, units=2)
    _promise(cloud, team, units=0, expandable=True)
    guest_in(team)
    work(cloud)
    top.refresh_from_db()
    assert top.used_units > 0
    operation = delete(full)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "succeeded", operation.error
    assert list(Grant.unscoped.values_list("id", flat=True)) == [top.id]
    assert Grant.unscoped.get().used_units == Allocation.objects.filter(grant=top).count()
    ended = AuditEvent.unscoped.filter(action="grant.delete", operation_id=operation.id)
    assert ended.count() == 2
    cloud.node.beat()
    assert check_all() == []


def test_a_promise_that_cannot_be_ended_is_named_and_the_tenant_is_opened_again(cloud: Cloud, full: Tenant) -> None:
    Pool.objects.update(host_losses=0)
    grant, below = _promise(cloud, full, units=2), make_tenant("kept", parent=cloud.tenant)
    strange = _promise(cloud, below, units=0)
    # No service leaves it so: one from elsewhere that draws on it beyond its own.
    Grant.unscoped.filter(id=strange.id).update(parent=grant, expandable=True, used_units=1)
    operation = delete(full)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "failed"
    assert operation.error is not None
    assert operation.error["code"] == "grant_in_use"
    assert f"The grant of dept in {cloud.pool.name}" in operation.error["message"]
    assert states()["dept"] == "active"


def test_use_that_nothing_explains_ends_it_with_a_reason(cloud: Cloud) -> None:
    team = make_tenant("team", parent=cloud.tenant)
    Quota.unscoped.filter(tenant=team, resource="instances").update(used=1)
    operation = delete(team)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "failed"
    assert operation.error is not None
    assert operation.error["code"] == "tenant_in_use"
    assert "team: The tenant still holds 1 instance" in operation.error["message"]
    assert states()["team"] == "active"


def test_groups_go_with_their_tenant(cloud: Cloud, full: Tenant) -> None:
    create_group(actor=SYSTEM, tenant=full, name="apart", rule="anti_affinity")
    delete(full)
    work(cloud)
    assert not Group.unscoped.exists()


def test_a_guest_that_others_delete_already_is_waited_for(cloud: Cloud, full: Tenant) -> None:
    guest = Instance.unscoped.get(name="in-team")
    delete_instance(actor=SYSTEM, instance_id=guest.id)
    operation = delete(full)
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "succeeded"
    assert Operation.objects.filter(kind="instance_delete", target_id=guest.id).count() == 1


def test_tenants_go_one_at_a_time(cloud: Cloud, full: Tenant) -> None:
    operation = delete(full)
    for _ in range(40):
        work(cloud, rounds=1)
        found = states()
        if [found["team"], found["other"]].count("deleted") == 1:
            break
    assert found["dept"] == "deleting"
    operation.refresh_from_db()
    assert operation.steps[2]["note"] == "1 of 3 tenants deleted"
    work(cloud)
    operation.refresh_from_db()
    assert operation.state == "succeeded"


def test_one_within_another_that_is_being_deleted_comes_to_the_same_end(cloud: Cloud, full: Tenant) -> None:
    inner = delete(Tenant.objects.get(name="team"))
    outer = delete(full)
    work(cloud)
    for operation in (inner, outer):
        operation.refresh_from_db()
        assert operation.state == "succeeded", operation.error
    assert [states()[name] for name in ("dept", "team", "other")] == ["deleted"] * 3


def test_the_audit_finds_a_tenant_that_nobody_deletes_and_life_in_one_that_is_gone(cloud: Cloud, full: Tenant) -> None:
    def found() -> list[str]:
        return [re.sub(r"[0-9a-f-]{36}", "ID", fault.detail) for fault in check_all() if fault.invariant == "I5"]

    operation = delete(full)
    cloud.node.beat()
    assert found() == []
    Tenant.objects.filter(id=full.id).update(state="active")
    assert found() == ["tenant ID is active while operation ID deletes it"]
    Tenant.objects.filter(id=full.id).update(state="deleting")
    Operation.objects.filter(id=operation.id).update(state="failed")
    assert found() == ["tenant ID is deleting without an operation"]
    Tenant.objects.filter(id=full.id).update(state="deleted")
    assert sorted(found()) == [
        "instance ID is active in tenant ID, which is deleted",
        *["tenant ID is active below tenant ID, which is deleted"] * 2,
    ]
