"""services/quotas.py: the ledger, one transaction at a time."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from tenants.errors import InvalidInput, LedgerMismatch, NotFound, PermissionDenied, QuotaExceeded
from tenants.models import RESOURCES, AuditEvent, Quota
from tenants.services import quotas
from tests.factories.tenants import SYSTEM, make_actor, make_tenant

pytestmark = pytest.mark.django_db


def used(tenant, resource="instances"):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


def row(tenant, resource="instances"):
    found = Quota.unscoped.get(tenant=tenant, resource=resource)
    return found.limit, found.used, found.ceiling


def test_new_tenant_has_a_row_for_every_resource():
    tenant = make_tenant()
    assert set(Quota.unscoped.filter(tenant=tenant).values_list("resource", flat=True)) == set(RESOURCES)


def test_charge_is_counted_at_every_level_up_to_the_root():
    root = make_tenant()
    middle = make_tenant(parent=root)
    leaf, sibling = make_tenant(parent=middle), make_tenant(parent=middle)
    quotas.charge(tenant=leaf, amounts={"instances": 2, "vcpus": 8})
    quotas.charge(tenant=sibling, amounts={"instances": 1})
    assert [used(t) for t in (root, middle, leaf, sibling)] == [3, 3, 2, 1]
    assert [used(t, "vcpus") for t in (root, middle, leaf, sibling)] == [8, 8, 8, 0]


def test_charge_up_to_the_limit_is_taken_and_one_more_refused():
    tenant = make_tenant(limits={"instances": 2})
    quotas.charge(tenant=tenant, amounts={"instances": 2})
    with pytest.raises(QuotaExceeded) as caught:
        quotas.charge(tenant=tenant, amounts={"instances": 1})
    assert caught.value.code == "quota_exceeded"
    assert caught.value.data == {
        "tenant": {"id": str(tenant.id), "name": tenant.name},
        "resource": "instances",
        "limit": 2,
        "used": 2,
        "asked": 1,
    }
    assert used(tenant) == 2


def test_refused_charge_leaves_no_level_and_no_resource_charged():
    root = make_tenant(limits={"vcpus": 4})
    leaf = make_tenant(parent=root)
    with pytest.raises(QuotaExceeded) as caught:
        quotas.charge(tenant=leaf, amounts={"instances": 1, "vcpus": 5, "memory_mib": 10})
    assert caught.value.data["tenant"]["name"] == root.name
    assert {used(t, resource) for t in (root, leaf) for resource in ("instances", "vcpus", "memory_mib")} == {0}


def test_refusal_names_the_level_nearest_the_leaf():
    root = make_tenant(limits={"instances": 1})
    leaf = make_tenant(parent=root, limits={"instances": 1})
    quotas.charge(tenant=leaf, amounts={"instances": 1})
    with pytest.raises(QuotaExceeded) as caught:
        quotas.charge(tenant=leaf, amounts={"instances": 1})
    assert caught.value.data["tenant"]["id"] == str(leaf.id)


def test_figures_of_a_parent_that_the_actor_cannot_see_are_kept_out():
    root = make_tenant("provider", limits={"instances": 1})
    leaf, other = make_tenant(parent=root), make_tenant(parent=root)
    quotas.charge(tenant=other, amounts={"instances": 1})
    with pytest.raises(QuotaExceeded) as caught:
        quotas.charge(tenant=leaf, amounts={"instances": 1}, actor=make_actor("owner", leaf))
    assert "provider" not in caught.value.detail
    assert caught.value.data == {
        "tenant": {"id": None, "name": None},
        "resource": "instances",
        "limit": None,
        "used": None,
        "asked": 1,
    }
    with pytest.raises(QuotaExceeded) as caught:
        quotas.charge(tenant=leaf, amounts={"instances": 1}, actor=make_actor("viewer", root))
    assert caught.value.data["used"] == 1


def test_release_gives_back_at_every_level():
    root = make_tenant()
    leaf = make_tenant(parent=root)
    quotas.charge(tenant=leaf, amounts={"instances": 3})
    quotas.release(tenant=leaf, amounts={"instances": 2})
    assert (used(root), used(leaf)) == (1, 1)


def test_release_below_zero_is_a_defect_and_changes_nothing():
    root = make_tenant()
    leaf = make_tenant(parent=root)
    quotas.charge(tenant=root, amounts={"instances": 5})
    with pytest.raises(LedgerMismatch):
        quotas.release(tenant=leaf, amounts={"instances": 1})
    assert (used(root), used(leaf)) == (5, 0)


def test_limit_below_use_keeps_what_is_and_admits_nothing():
    """F43: lowered below use; releases are never refused and never make the limit forget itself."""
    tenant = make_tenant(limits={"instances": 10})
    quotas.charge(tenant=tenant, amounts={"instances": 8})
    quotas.set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=5)
    assert row(tenant) == (5, 8, 8)
    with pytest.raises(QuotaExceeded):
        quotas.charge(tenant=tenant, amounts={"instances": 1})
    quotas.release(tenant=tenant, amounts={"instances": 2})
    assert row(tenant) == (5, 6, 6)
    with pytest.raises(QuotaExceeded):
        quotas.charge(tenant=tenant, amounts={"instances": 1})
    quotas.release(tenant=tenant, amounts={"instances": 2})
    assert row(tenant) == (5, 4, 5)
    quotas.charge(tenant=tenant, amounts={"instances": 1})
    assert row(tenant) == (5, 5, 5)
    quotas.release(tenant=tenant, amounts={"instances": 5})
    assert row(tenant) == (5, 0, 5)


@pytest.mark.parametrize("limit", [5, 8, 3])
def test_database_refuses_a_charge_past_the_limit_whoever_writes_it(limit):
    """Without the guard of the service: below, at and above the limit the CHECK itself stops the statement."""
    tenant = make_tenant(limits={"instances": 8})
    quotas.charge(tenant=tenant, amounts={"instances": 5})
    quotas.set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=limit)
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tenants_quota SET used = used + 4 WHERE tenant_id = %s AND resource = 'instances'", [tenant.id]
        )
    assert used(tenant) == 5


@pytest.mark.parametrize("change", ["used = -1", '"limit" = -1', "ceiling = 9", "ceiling = NULL", '"limit" = NULL'])
def test_database_refuses_an_untrue_row(change):
    tenant = make_tenant(limits={"instances": 3})
    with pytest.raises(IntegrityError), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE tenants_quota SET {change} WHERE tenant_id = %s AND resource = 'instances'", [tenant.id]
        )


def test_limit_can_be_taken_away_and_set_again():
    tenant = make_tenant(limits={"instances": 1})
    quotas.set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=None)
    quotas.charge(tenant=tenant, amounts={"instances": 7})
    assert row(tenant) == (None, 7, None)
    quotas.set_limit(actor=SYSTEM, tenant=tenant, resource="instances", limit=0)
    assert row(tenant) == (0, 7, 7)


@pytest.mark.parametrize("limit", [-1, 2**60, 1.5, True, "3"])
def test_impossible_limit_is_refused(limit):
    with pytest.raises(InvalidInput) as caught:
        quotas.set_limit(actor=SYSTEM, tenant=make_tenant(), resource="instances", limit=limit)
    assert caught.value.errors[0]["pointer"] == "/instances"


def test_unknown_resource_in_limits_is_refused_and_none_of_them_is_set():
    tenant = make_tenant()
    with pytest.raises(InvalidInput):
        quotas.set_limits(actor=SYSTEM, tenant=tenant, limits={"instances": 3, "unicorns": 1})
    assert row(tenant)[0] is None


def test_limits_are_set_from_above():
    root = make_tenant()
    child = make_tenant(parent=root)
    quotas.set_limit(actor=make_actor("admin", root), tenant=child, resource="vcpus", limit=4)
    for actor in (make_actor("owner", child), make_actor("operator", root)):
        with pytest.raises(PermissionDenied):
            quotas.set_limit(actor=actor, tenant=child, resource="vcpus", limit=400)
    with pytest.raises(PermissionDenied):
        quotas.set_limit(actor=make_actor("owner", root), tenant=root, resource="vcpus", limit=None)
    with pytest.raises(NotFound):
        quotas.set_limit(actor=make_actor(), tenant=child, resource="vcpus", limit=1)
    quotas.set_limit(actor=make_actor(is_operator=True), tenant=root, resource="vcpus", limit=100)
    assert (row(root, "vcpus")[0], row(child, "vcpus")[0]) == (100, 4)


def test_change_of_limits_is_audited_with_what_really_changed():
    tenant = make_tenant(limits={"instances": 3, "vcpus": 4})
    quotas.set_limits(actor=SYSTEM, tenant=tenant, limits={"instances": 5, "vcpus": 4})
    event = AuditEvent.unscoped.filter(tenant=tenant, action="quota.update").first()
    assert (event.before, event.after) == ({"instances": 3}, {"instances": 5})


@pytest.mark.parametrize("move", [quotas.charge, quotas.release])
@pytest.mark.parametrize("amounts", [{"unicorns": 1}, {"instances": -1}, {"instances": 2**60}])
def test_amount_that_is_none_is_a_defect(move, amounts):
    with pytest.raises(ValueError, match=r"resource|amount"):
        move(tenant=make_tenant(), amounts=amounts)


def test_nothing_charged_costs_nothing(django_assert_num_queries):
    tenant = make_tenant(limits={"instances": 0})
    with django_assert_num_queries(0):
        quotas.charge(tenant=tenant, amounts={"instances": 0, "vcpus": 0})


def test_charge_is_one_statement_at_any_depth(django_assert_num_queries):
    tenant = make_tenant()
    for _ in range(10):
        tenant = make_tenant(parent=tenant)
    with django_assert_num_queries(3):  # savepoint, the statement, release of the savepoint
        quotas.charge(tenant=tenant, amounts={"instances": 1, "vcpus": 2, "memory_mib": 512, "disk_gib": 5})


@pytest.mark.django_db(transaction=True)
def test_move_outside_a_transaction_is_refused():
    tenant = make_tenant()
    with pytest.raises(transaction.TransactionManagementError):
        quotas.charge(tenant=tenant, amounts={"instances": 1})
    with pytest.raises(transaction.TransactionManagementError):
        quotas.release(tenant=tenant, amounts={"instances": 1})


def test_missing_row_is_reported_and_never_free_of_charge():
    tenant = make_tenant()
    Quota.unscoped.filter(tenant=tenant, resource="vcpus").delete()
    with pytest.raises(LedgerMismatch):
        quotas.charge(tenant=tenant, amounts={"vcpus": 1})
    quotas.ensure_rows(tenant=tenant)
    quotas.charge(tenant=tenant, amounts={"vcpus": 1})
    assert used(tenant, "vcpus") == 1


def test_summary_counts_the_tenants_above():
    root = make_tenant(limits={"instances": 10, "vcpus": 5})
    leaf, other = make_tenant(parent=root, limits={"instances": 8}), make_tenant(parent=root)
    quotas.charge(tenant=other, amounts={"instances": 6})
    quotas.charge(tenant=leaf, amounts={"instances": 1})
    lines = {line.resource: line for line in quotas.summary(leaf)}
    assert sorted(lines) == sorted(RESOURCES)
    assert (lines["instances"].limit, lines["instances"].used, lines["instances"].available) == (8, 1, 3)
    assert (lines["vcpus"].limit, lines["vcpus"].available) == (None, 5)
    assert lines["disk_gib"].available is None


def test_charge_many_counts_shared_levels_once_for_each_item():
    root = make_tenant(limits={"instances": 3})
    one, two = make_tenant(parent=root), make_tenant(parent=root)
    quotas.charge_many(items=[(one, {"instances": 1}), (two, {"instances": 2})])
    assert (used(root), used(one), used(two)) == (3, 1, 2)
    with pytest.raises(QuotaExceeded):
        quotas.charge_many(items=[(one, {"vcpus": 1}), (two, {"instances": 1})])
    assert used(one, "vcpus") == 0
    quotas.release_many(items=[(one, {"instances": 1}), (two, {"instances": 2})])
    assert used(root) == 0
