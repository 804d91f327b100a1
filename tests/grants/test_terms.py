"""Making, changing and ending promises: never more than the pool can keep, never less than is in use."""

from __future__ import annotations

import uuid

import pytest
from django.db import transaction
from pytest_django import DjangoAssertNumQueries

from compute.errors import InvalidState, PromiseNotPlaceable
from compute.models import Grant, GrantLimit, Host, Pool, SetAside
from compute.placement.promises import arrange, lock_hosts
from compute.services.grants import Terms, create_grant, delete_grant, update_grant
from tenants.errors import Conflict, InvalidInput, NotFound, PermissionDenied, QuotaExceeded
from tenants.models import Tenant
from tests.factories.compute import make_flavor
from tests.factories.tenants import SYSTEM, make_actor, make_tenant
from tests.grants.conftest import Field


def _set(grant: Grant, **terms: object) -> Grant:
    return update_grant(actor=SYSTEM, grant_id=grant.id, terms=Terms(**terms))  # type: ignore[arg-type]


def test_a_pool_promises_what_it_keeps_through_the_loss_of_a_host_and_not_a_unit_more(
    field: Field, ours: Tenant, others: Tenant
) -> None:
    field.grant(ours, 9)
    with pytest.raises(PromiseNotPlaceable) as refused:
        field.grant(others, 4)
    assert (refused.value.data["placeable"], refused.value.data["promised"]) == (12, 13)
    assert not Grant.unscoped.filter(tenant=others).exists()
    field.grant(others, 3)


def test_a_promise_is_counted_in_hosts_that_are_left_not_in_sums(field: Field, ours: Tenant) -> None:
    """4 hosts of 3 vCPU free each are 12 vCPU and 4 units of 2; without one host there are 3."""
    for _ in field.hosts:
        field.create(make_tenant(), make_flavor(vcpus=5, memory_mib=64, disk_gib=1))
    with pytest.raises(PromiseNotPlaceable):
        field.grant(ours, 4)
    field.grant(ours, 3)


def test_guests_that_run_are_counted_in(field: Field, ours: Tenant, others: Tenant) -> None:
    field.create(ours, count=4)
    field.grant(ours, 4)
    assert field.reserved(ours) == 4
    # 4 in use; 2 more slots so that any host may be lost with what stands on it.
    assert sum(row.slots for row in SetAside.objects.all()) == 6
    assert field.fill(others) == 10


def test_the_policy_that_holds_is_the_one_under_the_locks(field: Field, ours: Tenant) -> None:
    read_before = field.pool
    Pool.objects.update(host_losses=2)
    create_grant(actor=SYSTEM, tenant=ours, pool=read_before, flavor=field.unit, terms=Terms(units=4))
    assert sorted(row.slots for row in SetAside.objects.all()) == [2, 2, 2, 2]


def test_guests_beyond_a_reservation_cost_no_query_each(
    field: Field, ours: Tenant, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    grant = field.grant(ours, 2)
    field.create(ours, count=12)
    with transaction.atomic(), django_assert_max_num_queries(14):
        arrange(pool=field.pool, hosts=lock_hosts(pool_id=field.pool.id))
    assert (field.reserved(ours), Grant.unscoped.get(id=grant.id).used_units) == (2, 2)


def test_units_in_use_cannot_be_taken_back(field: Field, ours: Tenant) -> None:
    grant = field.grant(ours, 3)
    field.create(ours, count=2)
    with pytest.raises(InvalidState, match="2 units are in use"):
        _set(grant, units=1)
    assert _set(grant, units=2).units == 2


def test_lowered_units_are_room_for_others(field: Field, ours: Tenant, others: Tenant) -> None:
    grant = field.grant(ours, 6)
    field.fill(others)
    _set(grant, units=0)
    assert field.fill(others) == 8
    assert not SetAside.objects.exists()


def test_a_child_comes_out_of_its_parent(field: Field, ours: Tenant) -> None:
    field.grant(ours, 3)
    team, other_team = make_tenant("team", parent=ours), make_tenant("other-team", parent=ours)
    field.grant(team, 2)
    with pytest.raises(Conflict, match="has 1 units left, 2 more"):
        field.grant(other_team, 2)
    field.grant(other_team, 1)
    assert sum(row.slots for row in SetAside.objects.all()) == 4, "the pool promises 3 units as before"


def test_a_grant_between_two_levels_takes_the_lower_one_over(field: Field, ours: Tenant) -> None:
    field.grant(ours, 4)
    division = make_tenant("division", parent=ours)
    team = make_tenant("team", parent=division)
    lower = field.grant(team, 2)
    with pytest.raises(InvalidState, match="come to 2 units; 1 are too few"):
        field.grant(division, 1)
    between = field.grant(division, 3)
    assert Grant.unscoped.get(id=lower.id).parent_id == between.id
    assert Grant.unscoped.get(tenant=ours).used_units == 3


def test_a_grant_of_another_unit_in_the_same_tree_is_refused(field: Field, ours: Tenant) -> None:
    field.grant(ours, 3)
    team = make_tenant("team", parent=ours)
    with pytest.raises(InvalidInput):
        create_grant(actor=SYSTEM, tenant=team, pool=field.pool, flavor=field.small, terms=Terms(units=1))
    with pytest.raises(InvalidInput):
        create_grant(actor=SYSTEM, tenant=make_tenant(), pool=field.pool, flavor=None, terms=Terms(units=1))


def test_ending_a_grant_leaves_its_guests_and_frees_its_room(field: Field, ours: Tenant, others: Tenant) -> None:
    grant = field.grant(ours, 6)
    field.create(ours, count=2)
    delete_grant(actor=SYSTEM, grant_id=grant.id)
    assert field.reserved(ours) == 0
    assert field.fill(others) == 14
    assert not SetAside.objects.exists()


def test_guests_of_an_ended_grant_come_under_the_one_above(field: Field, ours: Tenant) -> None:
    above = field.grant(ours, 3)
    team = make_tenant("team", parent=ours)
    grant = field.grant(team, 2)
    field.create(team, count=2)
    delete_grant(actor=SYSTEM, grant_id=grant.id)
    assert field.reserved(team) == 2
    assert Grant.unscoped.get(id=above.id).used_units == 2


def test_a_limit_holds_for_the_subtree_and_counts_what_is_there(field: Field, ours: Tenant) -> None:
    team = make_tenant("team", parent=ours)
    field.create(team)
    grant = field.grant(ours, 0, limits={"vcpus": 4})
    field.create(ours)
    with pytest.raises(QuotaExceeded, match="may use 4 vcpus in the pool"):
        field.create(team)
    _set(grant, limits={"vcpus": 2})
    row = GrantLimit.objects.get(grant=grant, resource="vcpus")
    assert (row.limit, row.used, row.ceiling) == (2, 4, 4), "what is there stays"
    with pytest.raises(QuotaExceeded):
        field.create(team, field.small)
    _set(grant, limits={"vcpus": None})
    field.create(team)


def test_a_batch_past_a_limit_leaves_nothing(field: Field, ours: Tenant) -> None:
    field.grant(ours, 2, limits={"memory_mib": 4096})
    with pytest.raises(QuotaExceeded):
        field.create(ours, count=3)
    assert (field.reserved(ours), sum(host.used_vcpus for host in Host.objects.all())) == (0, 0)
    field.create(ours, count=2)


@pytest.mark.parametrize(
    "terms",
    [
        Terms(units=-1),
        Terms(units=10**9),
        Terms(shares={"vcpus": 0}),
        Terms(shares={"luck": 1}),
        Terms(limits={"vcpus": -1}),
        Terms(limits={"luck": 1}),
    ],
)
def test_nonsense_is_refused_with_its_field(field: Field, ours: Tenant, terms: Terms) -> None:
    with pytest.raises(InvalidInput) as refused:
        create_grant(actor=SYSTEM, tenant=ours, pool=field.pool, flavor=field.unit, terms=terms)
    assert refused.value.errors[0]["pointer"].startswith("/")
    assert not Grant.unscoped.exists()


def test_a_second_grant_for_the_same_pool_is_refused(field: Field, ours: Tenant) -> None:
    field.grant(ours, 1)
    with pytest.raises(Conflict, match="already"):
        field.grant(ours, 1)


def test_a_pool_is_given_away_by_operators_and_a_share_by_the_tenant_above(field: Field, ours: Tenant) -> None:
    team = make_tenant("team", parent=ours)
    owner = make_actor("owner", ours)
    with pytest.raises(PermissionDenied):
        create_grant(actor=owner, tenant=ours, pool=field.pool, flavor=field.unit, terms=Terms(units=1))
    grant = field.grant(ours, 2)
    with pytest.raises(PermissionDenied):
        update_grant(actor=owner, grant_id=grant.id, terms=Terms(units=3))
    create_grant(actor=owner, tenant=team, pool=field.pool, flavor=None, terms=Terms(units=1))
    with pytest.raises(PermissionDenied):
        delete_grant(actor=make_actor("owner", team), grant_id=Grant.unscoped.get(tenant=team).id)


def test_a_grant_that_is_not_there_is_not_found(field: Field) -> None:
    with pytest.raises(NotFound):
        delete_grant(actor=SYSTEM, grant_id=uuid.uuid4())


def test_a_small_guest_that_is_counted_into_a_new_promise_leaves_the_rest_of_its_slot_held(
    field: Field, ours: Tenant
) -> None:
    Pool.objects.filter(id=field.pool.id).update(host_losses=0)
    field.pool.refresh_from_db()
    guest = field.create(ours, field.small)[0]
    field.grant(ours, 1)
    host = Host.objects.get(id=guest.host_id)
    assert (host.held_vcpus, host.held_memory_mib, host.held_disk_gib) == (1, 1536, 15)
