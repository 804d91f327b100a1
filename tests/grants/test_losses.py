"""Hosts are lost and return; promises follow, and an alarm tells where they cannot."""

from __future__ import annotations

import pytest

from compute.errors import PromiseNotPlaceable
from compute.models import Alarm, Grant, Host, SetAside
from compute.reconcilers import promises
from compute.services.grants import Terms, delete_grant, update_grant
from compute.services.hosts import disable_host, remove_host
from tenants.models import Tenant
from tenants.services.tenants import delete_tenant
from tests.factories.tenants import SYSTEM, make_tenant
from tests.grants.conftest import Field


def _set(host: Host, **states: str) -> None:
    Host.objects.filter(id=host.id).update(**states)


def test_a_lost_host_is_made_up_for_where_there_is_room(field: Field, ours: Tenant) -> None:
    field.grant(ours, 6)
    _set(field.hosts[0], observed_state="down")
    assert promises.run() == 1
    assert sum(row.slots for row in SetAside.objects.exclude(host=field.hosts[0])) == 9
    assert not SetAside.objects.filter(host=field.hosts[0]).exists()
    assert not Alarm.objects.exists()
    assert promises.run() == 0, "settled"


def test_a_promise_at_risk_then_broken_names_its_tenants_until_it_is_kept_again(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 6)
    field.fill(others)
    _set(field.hosts[0], observed_state="down")
    promises.run()
    alarm = Alarm.objects.get()
    assert (alarm.kind, alarm.cleared_at) == ("promise_at_risk", None)
    assert [tenant["name"] for tenant in alarm.details["tenants"]] == ["ours"]
    assert "outlive 0 host losses" in alarm.message
    _set(field.hosts[1], observed_state="down")
    promises.run()
    broken = Alarm.objects.get(cleared_at=None)
    assert (broken.kind, broken.details["placeable"], broken.details["promised"]) == ("promise_broken", 4, 6)
    for host in field.hosts:
        _set(host, observed_state="up")
    promises.run()
    assert not Alarm.objects.filter(cleared_at=None).exists()


def test_what_is_promised_is_shared_out_while_it_cannot_all_be_kept(field: Field, ours: Tenant) -> None:
    above = field.grant(ours, 6)
    for host in field.hosts[1:]:
        _set(host, observed_state="down")
    promises.run()
    assert Alarm.objects.get(cleared_at=None).kind == "promise_broken"
    team = field.grant(make_tenant("team", parent=ours), 2)
    assert (team.parent_id, Grant.unscoped.get(id=above.id).used_units) == (above.id, 2)
    update_grant(actor=SYSTEM, grant_id=team.id, terms=Terms(units=3))
    with pytest.raises(PromiseNotPlaceable):
        update_grant(actor=SYSTEM, grant_id=above.id, terms=Terms(units=7))
    for host in field.hosts:
        _set(host, observed_state="up")
    promises.run()


def test_a_slot_in_use_on_a_host_that_is_away_does_not_hide_the_free_ones(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 4)
    half = field.create(ours, field.small)[0]
    field.fill(others)
    _set(Host.objects.get(id=half.host_id), observed_state="down")
    promises.run()
    field.create(ours, field.small)
    assert field.reserved(ours) == 2
    _set(Host.objects.get(id=half.host_id), observed_state="up")
    promises.run()


def test_a_removed_host_leaves_nothing_of_its_promises_behind(field: Field, ours: Tenant) -> None:
    grant = field.grant(ours, 4)
    guest = field.create(ours)[0]
    host = Host.objects.get(id=guest.host_id)
    field.end(guest)
    disable_host(actor=SYSTEM, host_id=host.id)
    remove_host(actor=SYSTEM, host_id=host.id)
    host.refresh_from_db()
    assert (host.held_vcpus, host.held_memory_mib, host.held_disk_gib) == (0, 0, 0)
    promises.run()
    assert promises.run() == 0, "settled"
    delete_grant(actor=SYSTEM, grant_id=grant.id)
    assert not SetAside.objects.exists()


def test_slots_in_use_stay_on_a_host_that_is_away(field: Field, ours: Tenant) -> None:
    field.grant(ours, 4)
    instance = field.create(ours)[0]
    away = Host.objects.get(id=instance.host_id)
    _set(away, observed_state="down")
    promises.run()
    assert [(row.slots, row.filled) for row in SetAside.objects.filter(host=away)] == [(1, 1)]
    _set(away, observed_state="up")
    promises.run()
    field.end(instance)
    field.create(ours, count=4)


def test_a_draining_host_holds_no_promise(field: Field, ours: Tenant) -> None:
    field.grant(ours, 6)
    _set(field.hosts[0], admin_state="draining")
    promises.run()
    assert not SetAside.objects.filter(host=field.hosts[0]).exists()


def test_the_grant_of_a_deleted_tenant_is_ended(field: Field, ours: Tenant) -> None:
    field.grant(ours, 6)
    Tenant.objects.filter(id=ours.id).update(state="deleted")
    promises.run()
    assert not Grant.unscoped.exists()
    assert not SetAside.objects.exists()


def test_grants_of_tenants_deleted_together_are_ended_from_the_deepest_up(field: Field, ours: Tenant) -> None:
    middle = make_tenant(parent=ours)
    field.grant(ours, 3)
    field.grant(middle, 0, expandable=True)
    leaf = make_tenant(parent=middle)
    field.grant(leaf, 1)
    assert Grant.unscoped.get(tenant=middle).used_units == 1, "more than its own: it holds on to the one above"
    for tenant in (leaf, middle, ours):
        delete_tenant(actor=SYSTEM, tenant=tenant)
    # What is written last is found last, unless asked for in an order.
    Grant.unscoped.exclude(tenant=ours).update(version=7)
    Tenant.objects.exclude(id=ours.id).update(version=7)
    promises.run()
    assert not Grant.unscoped.exists()
