"""Each check of the usage ledger finds what it is there for, and nothing else is reported."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db.models import F

from compute.models import Allocation, BookCheck, Instance
from compute.selectors.invariants import CHECKS, QUOTA_SUMS, check_all, run_checks
from compute.services.books import check_books
from compute.services.instances_create import create_instances
from tenants.models import Quota, Tenant, UsageSegment
from tests.factories.compute import make_flavor, make_host, make_image, make_pool
from tests.factories.tenants import make_actor, make_tenant

pytestmark = pytest.mark.django_db(transaction=True)

SIZE, BILLED, GAP, SUMS = (check.title for check in CHECKS if check.invariant == "I13")


@pytest.fixture
def instance() -> Instance:
    make_host(make_pool())
    make_flavor("small")
    make_image("tiny")
    tenant = make_tenant("web", parent=make_tenant("acme"))
    created = create_instances(
        actor=make_actor("owner", tenant), tenant=tenant, name="web", flavor="small", image="tiny"
    )
    assert check_all() == []
    return created.instances[0]


def violated() -> set[str]:
    return {result.check.title for result in run_checks() if result.violations}


def _smaller() -> None:
    UsageSegment.unscoped.update(memory_mib=F("memory_mib") - 1)


def _other_payers() -> None:
    UsageSegment.unscoped.update(payers=[UsageSegment.unscoped.get().tenant_id])


def _ended() -> None:
    UsageSegment.unscoped.update(ended_at=F("held_from"))


def _billed_while_building() -> None:
    UsageSegment.unscoped.update(billed_from=F("held_from"))


def _active_and_free() -> None:
    Instance.unscoped.update(state="active")


def _gap() -> None:
    row = UsageSegment.unscoped.get()
    row.id, row.ended_at = uuid.uuid4(), row.held_from - timedelta(seconds=1)
    row.held_from -= timedelta(hours=1)
    row.save(force_insert=True)


def _billing_pauses() -> None:
    row = UsageSegment.unscoped.get()
    row.id, row.ended_at = uuid.uuid4(), row.held_from
    row.held_from -= timedelta(hours=1)
    row.billed_from = row.held_from
    row.save(force_insert=True)


@pytest.mark.parametrize(
    ("tamper", "titles"),
    [
        (_smaller, {SIZE, SUMS}),
        (_other_payers, {SIZE, SUMS}),
        (_ended, {SIZE, SUMS}),
        (_billed_while_building, {BILLED}),
        (_active_and_free, {BILLED}),
        (_gap, {GAP}),
        (_billing_pauses, {GAP, BILLED}),
    ],
)
def test_a_false_ledger_is_found(instance: Instance, tamper: Callable[[], None], titles: set[str]) -> None:
    tamper()
    assert violated() == titles


def test_changes_within_one_second_are_no_gap_in_whatever_order_their_rows_lie(instance: Instance) -> None:
    row = UsageSegment.unscoped.get()
    at = row.held_from
    for billed_from in (at, None, at, None):
        row.id, row.billed_from, row.ended_at = uuid.uuid4(), billed_from, at
        row.save(force_insert=True)
    UsageSegment.unscoped.filter(ended_at=None).update(billed_from=at)
    Instance.unscoped.update(state="active")
    assert GAP not in violated()


def test_usage_without_an_allocation_is_found(instance: Instance) -> None:
    Allocation.objects.all().delete()
    assert SIZE in violated()


def test_a_move_that_the_ledger_does_not_follow_is_found(instance: Instance) -> None:
    Tenant.objects.filter(id=instance.tenant_id).update(parent=None, path=[instance.tenant_id])
    assert {SIZE, SUMS, QUOTA_SUMS.title} & violated() >= {SIZE}


def test_the_check_is_kept_one_row_for_each_with_what_it_found(instance: Instance) -> None:
    Quota.unscoped.filter(resource="vcpus", tenant_id=instance.tenant_id).update(used=7)
    assert check_books()
    rows = list(BookCheck.objects.all())
    assert [row.title for row in rows] == [check.title for check in CHECKS]
    wrong = {row.title: row for row in rows if row.violations}
    assert set(wrong) == {SUMS, QUOTA_SUMS.title}
    assert "7 vcpus" in wrong[SUMS].samples[0]
    assert all(row.seconds > 0 for row in rows)
    Quota.unscoped.filter(resource="vcpus", tenant_id=instance.tenant_id).update(used=1)
    first = rows[0].checked_at
    assert check_books()
    assert not BookCheck.objects.exclude(violations=0).exists()
    assert BookCheck.objects.count() == len(rows)
    assert BookCheck.objects.first().checked_at > first  # type: ignore[union-attr]


def test_titles_are_unique_they_are_the_rows_key() -> None:
    titles = [check.title for check in CHECKS]
    assert len(titles) == len(set(titles))
