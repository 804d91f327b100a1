"""Usage segments: opened, billed and ended exactly once, never overlapping."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from tenants.models import Tenant, UsageSegment
from tenants.services import metering
from tests.factories.tenants import make_tenant
from tests.tenants.conftest import Runner

USAGE = metering.Usage(
    consumer_type="instance",
    kind="vm",
    flavor_id=uuid.uuid4(),
    flavor_name="small",
    pool_id=uuid.uuid4(),
    pool_name="lab",
    vcpus=2,
    memory_mib=512,
    disk_gib=4,
)


def hold(tenant: Tenant, consumer: uuid.UUID | None = None) -> uuid.UUID:
    consumer = consumer or uuid.uuid4()
    with transaction.atomic():
        metering.hold(tenant=tenant, usage=USAGE, consumers=[(consumer, "web")])
    return consumer


def segment(consumer: uuid.UUID) -> UsageSegment:
    return UsageSegment.unscoped.get(consumer_id=consumer)


@pytest.mark.django_db
def test_a_hold_is_not_billed_until_it_is_committed() -> None:
    tenant = make_tenant()
    consumer = hold(tenant)
    held = segment(consumer)
    assert (held.tenant_id, held.payers, held.vcpus, held.memory_mib, held.disk_gib) == (
        tenant.id,
        tenant.path,
        2,
        512,
        4,
    )
    assert (held.billed_from, held.ended_at) == (None, None)
    assert metering.commit(consumer_id=consumer)
    billed = segment(consumer)
    assert billed.billed_from is not None
    assert billed.billed_from.microsecond == 0
    assert not metering.commit(consumer_id=consumer), "a second time changes nothing"
    assert segment(consumer).billed_from == billed.billed_from


@pytest.mark.django_db
def test_a_hold_that_is_released_was_never_billed() -> None:
    consumer = hold(make_tenant())
    assert metering.release(consumer_id=consumer)
    assert not metering.release(consumer_id=consumer)
    assert not metering.commit(consumer_id=consumer), "what has ended cannot be billed any more"
    ended = segment(consumer)
    assert (ended.billed_from, ended.ended_at) == (None, ended.held_from)


@pytest.mark.django_db
def test_payers_are_the_tenant_and_all_above() -> None:
    root = make_tenant("acme")
    leaf = make_tenant("web", parent=make_tenant("dev", parent=root))
    assert segment(hold(leaf)).payers == leaf.path
    assert len(leaf.path) == 3


@pytest.mark.django_db
def test_outside_a_transaction_nothing_is_recorded(transactional_db: None) -> None:
    with pytest.raises(transaction.TransactionManagementError):
        metering.hold(tenant=make_tenant(), usage=USAGE, consumers=[(uuid.uuid4(), "web")])


@pytest.mark.django_db
def test_a_second_open_segment_is_refused() -> None:
    tenant = make_tenant()
    consumer = hold(tenant)
    with pytest.raises(IntegrityError, match="usage_"):
        hold(tenant, consumer)


def add_segment(tenant: Tenant, consumer: uuid.UUID, held_from: datetime, ended_at: datetime | None) -> None:
    """Insert past segments, which no service does."""
    values: dict[str, Any] = {
        name: getattr(USAGE, name) for name in USAGE.__slots__ if name not in ("kind", "consumer_type")
    }
    with transaction.atomic():
        UsageSegment.unscoped.create(
            tenant=tenant,
            payers=tenant.path,
            consumer_type="instance",
            kind="vm",
            consumer_id=consumer,
            consumer_name="web",
            held_from=held_from,
            billed_from=held_from,
            ended_at=ended_at,
            **values,
        )


@pytest.mark.django_db
@pytest.mark.parametrize(("begin", "end"), [(0, 10), (5, 15), (-5, 1), (9, None), (3, 4), (-9, 30)])
def test_the_database_refuses_an_overlap(begin: int, end: int | None) -> None:
    tenant, consumer = make_tenant(), uuid.uuid4()
    base = timezone.now().replace(microsecond=0)
    add_segment(tenant, consumer, base, base + timedelta(seconds=10))
    ended = None if end is None else base + timedelta(seconds=end)
    with pytest.raises(IntegrityError, match="usage_never_overlaps"):
        add_segment(tenant, consumer, base + timedelta(seconds=begin), ended)


@pytest.mark.django_db
def test_neighbours_touch_and_other_consumers_do_not_matter() -> None:
    tenant, consumer = make_tenant(), uuid.uuid4()
    base = timezone.now().replace(microsecond=0)
    add_segment(tenant, consumer, base, base + timedelta(seconds=10))
    add_segment(tenant, consumer, base + timedelta(seconds=10), None)
    add_segment(tenant, uuid.uuid4(), base, None)
    assert UsageSegment.unscoped.count() == 3


@pytest.mark.django_db
def test_after_a_move_the_new_tenants_above_pay_from_that_second_on() -> None:
    old, new = make_tenant("old"), make_tenant("new")
    tenant = make_tenant("team", parent=old)
    billed, held = hold(tenant), hold(tenant)
    assert metering.commit(consumer_id=billed)
    other = hold(old)
    Tenant.objects.filter(id=tenant.id).update(parent=new, path=[new.id, tenant.id])
    assert metering.follow_move(tenant_ids=[tenant.id]) == 2
    assert metering.follow_move(tenant_ids=[tenant.id]) == 0, "they follow once"
    for consumer in (billed, held):
        before, after = UsageSegment.unscoped.filter(consumer_id=consumer).order_by("ended_at")
        assert before.payers == [old.id, tenant.id]
        assert after.payers == [new.id, tenant.id]
        assert before.ended_at == after.held_from
        assert after.billed_from == (after.held_from if consumer == billed else None)
        assert after.ended_at is None
    assert segment(other).ended_at is None


@pytest.mark.django_db(transaction=True)
def test_two_releases_at_once_end_one_segment_once(at_once: Runner) -> None:
    for _ in range(5):
        consumer = hold(make_tenant())

        def release(consumer: uuid.UUID = consumer) -> bool:
            with transaction.atomic():
                return metering.release(consumer_id=consumer)

        assert sorted(at_once(*[release] * 6)) == [False] * 5 + [True]


_LATER = "UPDATE tenants_usagesegment SET ended_at = held_from + interval '1 hour' WHERE consumer_id = %(consumer)s"


@pytest.mark.django_db(transaction=True)
def test_control_without_the_guard_each_release_ends_it_again(at_once: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = hold(make_tenant())
    monkeypatch.setattr(metering, "_RELEASE", _LATER)

    def release() -> bool:
        with transaction.atomic():
            return metering.release(consumer_id=consumer)

    assert at_once(*[release] * 6) == [True] * 6


@pytest.mark.django_db(transaction=True)
def test_a_release_that_waited_for_a_commit_keeps_the_order_of_time(at_once: Runner) -> None:
    """The transaction that ends the segment began before the one that billed it: its clock is the older one."""
    consumer = hold(make_tenant())
    UsageSegment.unscoped.filter(consumer_id=consumer).update(billed_from=timezone.now() + timedelta(seconds=30))
    with transaction.atomic():
        assert metering.release(consumer_id=consumer)
    ended = segment(consumer)
    assert ended.ended_at == ended.billed_from, "an end before its start would have been refused by the database"


@pytest.mark.django_db
def test_times_are_the_databases_to_the_second() -> None:
    consumer = hold(make_tenant())
    with connection.cursor() as cursor:
        cursor.execute("SELECT date_trunc('second', now())")
        assert segment(consumer).held_from == cursor.fetchone()[0]
