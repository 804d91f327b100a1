"""Tenants with promises, or with guests on them, move only where no promise changes hands; limits of grants follow."""

from __future__ import annotations

import pytest

from compute.errors import InvalidState
from compute.models import GrantLimit
from compute.services.grants import delete_grant
from compute.services.tenants_move import move_tenant_with_guests, plan_tenant_move
from tenants.errors import QuotaExceeded
from tenants.models import Tenant
from tests.factories.tenants import SYSTEM, make_tenant
from tests.grants.conftest import Field


def _used(tenant: Tenant) -> int:
    return GrantLimit.objects.get(grant__tenant=tenant, resource="vcpus").used


def test_a_grant_that_hangs_on_one_above_keeps_its_tenant_there(field: Field, ours: Tenant, others: Tenant) -> None:
    team = make_tenant("team", parent=ours)
    field.grant(ours, 2)
    grant = field.grant(team, 1)
    for act in (plan_tenant_move, move_tenant_with_guests):
        with pytest.raises(InvalidState, match="take it back first"):
            act(actor=SYSTEM, tenant=team, parent=others)
    delete_grant(actor=SYSTEM, grant_id=grant.id)
    move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=others)
    assert Tenant.objects.get(id=team.id).parent_id == others.id


def test_a_grant_moves_along_where_the_one_above_stays_the_same(field: Field, ours: Tenant) -> None:
    west, east = make_tenant("west", parent=ours), make_tenant("east", parent=ours)
    team = make_tenant("team", parent=west)
    top = field.grant(ours, 2)
    grant = field.grant(team, 1)
    field.create(team)
    move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=east)
    grant.refresh_from_db()
    assert grant.parent_id == top.id


def test_a_grant_does_not_slip_below_another_one(field: Field, ours: Tenant, others: Tenant) -> None:
    field.grant(ours, 1)
    field.grant(others, 1)
    with pytest.raises(InvalidState):
        move_tenant_with_guests(actor=SYSTEM, tenant=ours, parent=others)


def test_guests_on_the_reservation_of_a_tenant_above_are_not_taken_away_from_it(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    team = make_tenant("team", parent=ours)
    field.grant(ours, 2)
    guest = field.create(team)[0]
    with pytest.raises(InvalidState, match="1 guests fill"):
        move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=others)
    field.end(guest)
    move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=others)


def test_the_limits_of_grants_follow_the_guests(field: Field, ours: Tenant, others: Tenant) -> None:
    team = make_tenant("team", parent=ours)
    field.grant(ours, 0, limits={"vcpus": 8})
    field.grant(others, 0, limits={"vcpus": 1})
    guest = field.create(team)[0]
    with pytest.raises(QuotaExceeded, match="may use 1 vcpus in the pool"):
        plan_tenant_move(actor=SYSTEM, tenant=team, parent=others)
    with pytest.raises(QuotaExceeded) as caught:
        move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=others)
    assert (caught.value.data["pool"], caught.value.data["limit"]) == (field.pool.name, 1)
    assert (_used(ours), _used(others)) == (2, 0)
    GrantLimit.objects.filter(grant__tenant=others, resource="vcpus").update(limit=4, ceiling=4)
    plan_tenant_move(actor=SYSTEM, tenant=team, parent=others)
    move_tenant_with_guests(actor=SYSTEM, tenant=team, parent=others)
    assert (_used(ours), _used(others)) == (0, 2)
    field.end(guest)
    assert (_used(ours), _used(others)) == (0, 0)
