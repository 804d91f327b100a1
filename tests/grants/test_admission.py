"""Who gets which room: first one's own, then what nobody has reserved, never what is promised to others."""

from __future__ import annotations

import pytest

from compute.errors import NoValidHost
from compute.models import Grant, Host, SetAside
from tenants.models import Tenant
from tests.factories.tenants import make_tenant
from tests.grants.conftest import Field


def test_what_is_promised_is_refused_to_others_and_there_for_its_tenant(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 6)
    # 16 units fit in all. 6 promised through the loss of any host: two slots on each of the four.
    assert field.fill(others) == 8
    assert len(field.create(ours, count=6)) == 6
    assert field.reserved(ours) == 6
    # Two slots more stand for the loss of a host: they are nobody's to use up.
    with pytest.raises(NoValidHost):
        field.create(ours)


def test_whatever_host_is_lost_the_others_have_a_slot_for_every_unit(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 6)
    field.fill(others)
    field.create(ours, count=3)
    for lost in field.hosts:
        rest = SetAside.objects.exclude(host=lost)
        assert sum(row.slots for row in rest) >= 6


def test_the_own_reservation_is_used_up_before_common_room(field: Field, ours: Tenant) -> None:
    field.grant(ours, 2)
    field.create(ours)
    field.create(ours)
    assert field.reserved(ours) == 2
    field.create(ours)
    assert field.reserved(ours) == 2
    assert sum(host.used_instances for host in Host.objects.all()) == 3


def test_a_batch_draws_on_the_reservation_and_takes_the_rest_from_common_room(field: Field, ours: Tenant) -> None:
    field.grant(ours, 2)
    field.create(ours, count=5)
    assert field.reserved(ours) == 2


def test_small_guests_share_slots_so_that_whole_units_stay(field: Field, ours: Tenant, others: Tenant) -> None:
    """2 slots hold four small guests (2 vCPU each): crumbs on four hosts would leave room for no unit."""
    grant = field.grant(ours, 3)
    field.fill(others)
    for _ in range(4):
        field.create(ours, field.small)
    assert Grant.unscoped.get(id=grant.id).used_units == 2
    field.create(ours)
    assert field.reserved(ours) == 5


def test_room_of_a_deleted_guest_is_set_aside_again(field: Field, ours: Tenant, others: Tenant) -> None:
    field.grant(ours, 2)
    first, _ = field.create(ours, count=2)
    field.fill(others)
    field.end(first)
    with pytest.raises(NoValidHost):
        field.create(others)
    field.create(ours)
    assert field.reserved(ours) == 2


def test_a_guest_larger_than_the_unit_fills_several_slots_of_one_host(field: Field, ours: Tenant) -> None:
    grant = field.grant(ours, 4)
    large = field.unit
    large.vcpus, large.memory_mib, large.disk_gib = 3, 2048, 20
    large.save()
    field.create(ours, large)
    assert Grant.unscoped.get(id=grant.id).used_units == 2


def test_a_tenant_below_draws_on_the_grant_above_it(field: Field, ours: Tenant, others: Tenant) -> None:
    field.grant(ours, 2)
    team = make_tenant("team", parent=ours)
    field.fill(others)
    field.create(team, count=2)
    assert field.reserved(team) == 2


def test_a_fixed_grant_stops_at_its_units_and_an_expandable_one_draws_on_the_one_above(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 4)
    fixed, wide = make_tenant("fixed", parent=ours), make_tenant("wide", parent=ours)
    field.grant(fixed, 1)
    field.grant(wide, 1, expandable=True)
    field.fill(others)
    field.create(fixed)
    with pytest.raises(NoValidHost):
        field.create(fixed)
    field.create(wide, count=3)
    assert (field.reserved(fixed), field.reserved(wide)) == (1, 3)
    with pytest.raises(NoValidHost):
        field.create(wide)


def test_what_is_promised_to_a_sibling_is_not_lent_out(field: Field, ours: Tenant, others: Tenant) -> None:
    field.grant(ours, 3)
    mine, sibling = make_tenant("mine", parent=ours), make_tenant("sibling", parent=ours)
    field.grant(mine, 1, expandable=True)
    field.grant(sibling, 2)
    field.fill(others)
    field.create(mine)
    with pytest.raises(NoValidHost):
        field.create(mine)
    field.create(sibling, count=2)
