"""Usage and showback add up: over time, over the tree, over groups, to the second and to the last place."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compute.models import Flavor, Pool, Price
from compute.selectors.showback import GROUPS as SHOWBACK_GROUPS
from compute.selectors.showback import Showback, read_showback
from compute.selectors.usage import GROUPS, Amounts, Period, UsageReport, read_usage
from tenants.errors import InvalidInput, NotFound, PermissionDenied
from tenants.models import Tenant, UsageSegment
from tenants.services.access import system_actor
from tests.factories.compute import make_flavor, make_pool
from tests.factories.tenants import make_actor, make_tenant

ACTOR = system_actor("tests")
BASE = datetime(2026, 3, 1, tzinfo=UTC)
pytestmark = pytest.mark.django_db


def add(
    tenant: Tenant,
    begin: int,
    end: int | None,
    *,
    flavor: Flavor,
    pool: Pool,
    held: int = 0,
    billed: bool = True,
    size: tuple[int, int, int] = (2, 512, 10),
) -> None:
    """Write a segment that was held `held` seconds before it was billed from BASE + begin seconds on."""
    UsageSegment.unscoped.create(
        tenant=tenant,
        payers=tenant.path,
        consumer_type="instance",
        consumer_id=uuid.uuid4(),
        consumer_name="web",
        kind="vm",
        flavor_id=flavor.id,
        flavor_name=flavor.name,
        pool_id=pool.id,
        pool_name=pool.name,
        vcpus=size[0],
        memory_mib=size[1],
        disk_gib=size[2],
        held_from=BASE + timedelta(seconds=begin - held),
        billed_from=BASE + timedelta(seconds=begin) if billed else None,
        ended_at=None if end is None else BASE + timedelta(seconds=end),
    )


def usage(tenant: Tenant | None, begin: int, end: int, group_by: str = "tenant") -> UsageReport:
    period = Period.between(BASE + timedelta(seconds=begin), BASE + timedelta(seconds=end))
    return read_usage(actor=ACTOR, tenant=tenant, period=period, group_by=group_by)


def costs(tenant: Tenant | None, begin: int, end: int, group_by: str = "tenant") -> Showback:
    period = Period.between(BASE + timedelta(seconds=begin), BASE + timedelta(seconds=end))
    return read_showback(actor=ACTOR, tenant=tenant, period=period, group_by=group_by)


def price(resource: str, per_hour: str, begin: int = -(10**7), end: int | None = None, **more: Any) -> None:
    Price.objects.create(
        resource=resource,
        per_hour=Decimal(per_hour),
        currency="EUR",
        valid_from=BASE + timedelta(seconds=begin),
        valid_until=None if end is None else BASE + timedelta(seconds=end),
        set_by="tests",
        **more,
    )


@pytest.fixture
def small() -> Flavor:
    return make_flavor()


@pytest.fixture
def lab() -> Pool:
    return make_pool()


def test_a_segment_counts_from_when_it_is_billed_inside_the_period(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    add(tenant, 100, 200, flavor=small, pool=lab, held=50)
    add(tenant, 100, 200, flavor=small, pool=lab, billed=False)
    assert usage(tenant, 0, 1000).total == Amounts(100, 200, 51_200, 1000)
    assert usage(tenant, 150, 1000).total == Amounts(50, 100, 25_600, 500)
    assert usage(tenant, 0, 101).total == Amounts(1, 2, 512, 10)
    assert usage(tenant, 200, 1000).total == usage(tenant, 0, 100).total == Amounts()


def test_what_is_still_held_counts_up_to_now_and_never_into_the_future(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    now = timezone.now().replace(microsecond=0)
    add(tenant, int((now - BASE).total_seconds()) - 60, None, flavor=small, pool=lab)
    period = Period.between(now - timedelta(hours=1), now + timedelta(days=30))
    assert period.until - now < timedelta(seconds=30)
    report = read_usage(actor=ACTOR, tenant=tenant, period=period)
    assert report.total.instance_seconds == 60 + (period.until - now).total_seconds()
    future = Period.between(now + timedelta(days=1), now + timedelta(days=2))
    assert read_usage(actor=ACTOR, tenant=tenant, period=future).total == Amounts()


segments = st.lists(
    st.tuples(
        st.integers(0, 5),  # tenant
        st.integers(-200_000, 200_000),  # begin
        st.none() | st.integers(0, 300_000),  # seconds
        st.tuples(st.integers(1, 64), st.integers(16, 9999), st.integers(1, 500)),
        st.integers(0, 1),  # flavor
    ),
    min_size=1,
    max_size=12,
)


def _tree() -> list[Tenant]:
    root = make_tenant()
    left, right = make_tenant(parent=root), make_tenant(parent=root)
    return [root, left, right, make_tenant(parent=left), make_tenant(parent=left), make_tenant()]


def _fill(rows: Sequence[Any]) -> tuple[list[Tenant], list[Flavor]]:
    tree, pool, flavors = _tree(), make_pool(), [make_flavor(), make_flavor()]
    for index, begin, seconds, size, flavor in rows:
        end = None if seconds is None else begin + seconds
        add(tree[index], begin, end, flavor=flavors[flavor], pool=pool, size=size)
    return tree, flavors


def _sum(parts: Sequence[Amounts]) -> Amounts:
    return sum(parts, Amounts())


PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@PROPERTY
@given(rows=segments, cuts=st.lists(st.integers(-300_000, 600_000), min_size=2, max_size=6, unique=True))
def test_every_split_of_a_period_and_of_the_tree_adds_up(rows: Sequence[Any], cuts: list[int]) -> None:
    with transaction.atomic():
        _check_splits(rows, sorted(cuts))
        transaction.set_rollback(True)


def _check_splits(rows: Sequence[Any], cuts: list[int]) -> None:
    tree, _ = _fill(rows)
    root, left, right, leaf, other, _ = tree
    for tenant in (root, left, leaf, None):
        whole = usage(tenant, cuts[0], cuts[-1]).total
        parts = [usage(tenant, begin, end).total for begin, end in pairwise(cuts)]
        assert _sum(parts) == whole
    reports = {tenant.id: usage(tenant, cuts[0], cuts[-1]) for tenant in tree}
    for report in reports.values():
        assert _sum([group.amounts for group in report.groups]) == report.total
    for parent, children in ((root, (left, right)), (left, (leaf, other))):
        shown = {group.id: group.amounts for group in reports[parent.id].groups}
        for child in children:
            assert shown.get(str(child.id), Amounts()) == reports[child.id].total
        own = shown.get(str(parent.id), Amounts())
        assert _sum([own, *(reports[child.id].total for child in children)]) == reports[parent.id].total
    for group_by in GROUPS:
        assert usage(root, cuts[0], cuts[-1], group_by).total == reports[root.id].total, group_by
    # By hand: seconds of the overlap times the amount.
    below = {root.id, left.id, right.id, leaf.id, other.id}
    expected = Amounts()
    for segment in UsageSegment.unscoped.filter(tenant_id__in=below):
        begin = max(segment.billed_from, BASE + timedelta(seconds=cuts[0]))  # type: ignore[type-var]
        end = min(segment.ended_at or timezone.now(), BASE + timedelta(seconds=cuts[-1]))
        seconds = max(0, int((end - begin).total_seconds()))  # type: ignore[operator]
        expected += Amounts(seconds, seconds * segment.vcpus, seconds * segment.memory_mib, seconds * segment.disk_gib)
    assert reports[root.id].total == expected


def _reprice(prices: Sequence[tuple[str, int, int, bool]], flavor: Flavor) -> None:
    since: dict[tuple[str, bool], int] = {}
    for resource, seconds, micros, special in prices:
        key = (resource, special)
        begin = since.get(key, -250_000)
        since[key] = begin + seconds
        price(resource, str(Decimal(micros) / 10**6), begin, begin + seconds, flavor=flavor if special else None)


@PROPERTY
@given(
    rows=segments,
    prices=st.lists(
        st.tuples(
            st.sampled_from(["instance", "vcpu", "memory_gib", "disk_gib"]),
            st.integers(1, 200_000),
            st.integers(0, 10**7),
            st.booleans(),
        ),
        max_size=8,
    ),
)
def test_costs_add_up_over_the_tree_and_over_groups_to_the_last_place(
    rows: Sequence[Any], prices: Sequence[Any]
) -> None:
    with transaction.atomic():
        _check_costs(rows, prices)
        transaction.set_rollback(True)


def _check_costs(rows: Sequence[Any], prices: Sequence[Any]) -> None:
    tree, flavors = _fill(rows)
    _reprice(prices, flavors[0])
    root, left, right, leaf, other, alone = tree
    total = {tenant.id: costs(tenant, -300_000, 600_000).total for tenant in tree}
    for parent, children in ((root, (left, right)), (left, (leaf, other))):
        report = costs(parent, -300_000, 600_000)
        for child in children:
            assert (
                sum((line.cost for line in report.lines if line.group == str(child.id)), Decimal(0)) == total[child.id]
            )
        assert sum((line.cost for line in report.lines), Decimal(0)) == report.total
    for group_by in SHOWBACK_GROUPS[:-1]:
        assert costs(root, -300_000, 600_000, group_by).total == total[root.id], group_by
    assert costs(None, -300_000, 600_000).total == total[root.id] + total[alone.id]
    _check_by_hand(tree, flavors, total[root.id])


def _check_by_hand(tree: list[Tenant], flavors: list[Flavor], total: Decimal) -> None:
    """Second by second in spirit: exact fractions per segment and price, compared within what rounding may move."""
    exact, roundings = Decimal(0), 0
    for segment in UsageSegment.unscoped.filter(tenant__in=tree[:5]):
        amounts = {
            "instance": Decimal(1),
            "vcpu": Decimal(segment.vcpus),
            "memory_gib": Decimal(segment.memory_mib) / 1024,
            "disk_gib": Decimal(segment.disk_gib),
        }
        begin = segment.billed_from
        assert begin is not None
        end = min(segment.ended_at or timezone.now(), BASE + timedelta(seconds=600_000))
        begin = max(begin, BASE - timedelta(seconds=300_000))
        moments = {begin, max(begin, end)}
        moments |= {
            m for row in Price.objects.all() for m in (row.valid_from, row.valid_until) if m and begin < m < end
        }
        ordered = sorted(moments)
        for start, stop in pairwise(ordered):
            for resource, amount in amounts.items():
                valid = [
                    row
                    for row in Price.objects.filter(resource=resource)
                    if row.valid_from <= start < row.valid_until and row.flavor_id in (None, segment.flavor_id)  # type: ignore[operator]
                ]
                if valid:
                    chosen = max(valid, key=lambda row: row.flavor_id is not None)
                    exact += int((stop - start).total_seconds()) * amount * chosen.per_hour / 3600
                    roundings += 1
    assert abs(total - exact) <= Decimal("0.0000005") * roundings + Decimal("1e-12")


def test_a_price_holds_from_its_second_on_and_the_special_one_goes_before(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    add(tenant, 0, 7200, flavor=small, pool=lab)
    price("vcpu", "0.50", end=3600)
    price("vcpu", "1.00", 3600)
    report = costs(tenant, 0, 7200)
    assert [(line.resource, line.per_hour, line.quantity, line.cost) for line in report.lines] == [
        ("vcpu", Decimal("0.5"), Decimal(2), Decimal(1)),
        ("vcpu", Decimal(1), Decimal(2), Decimal(2)),
    ]
    assert (report.total, report.currency) == (Decimal(3), "EUR")
    price("vcpu", "0", 5400, pool=lab)
    assert costs(tenant, 0, 7200).total == Decimal(2)
    price("memory_gib", "2")
    assert costs(tenant, 0, 7200).total == Decimal(4), "half a GiB for two hours at 2"


def test_rounding_is_half_to_even_at_the_sixth_place(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    price("instance", "0.0018")
    for seconds, cost in ((1, "0"), (3, "0.000002"), (5, "0.000002"), (7, "0.000004")):
        UsageSegment.unscoped.all().delete()
        add(tenant, 0, seconds, flavor=small, pool=lab)
        assert costs(tenant, 0, 100).total == Decimal(cost), seconds


def test_usage_without_a_price_costs_nothing_and_has_no_line(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    add(tenant, 0, 100, flavor=small, pool=lab)
    report = costs(tenant, 0, 100)
    assert (report.lines, report.total, report.currency) == ((), Decimal(0), None)


def test_days_are_listed_with_the_empty_ones_between(small: Flavor, lab: Pool) -> None:
    tenant = make_tenant()
    add(tenant, 86_400 - 10, 86_400 + 5, flavor=small, pool=lab)
    report = usage(tenant, 0, 4 * 86_400, "day")
    assert [(group.id, group.amounts.instance_seconds) for group in report.groups] == [
        ("2026-03-01", 10),
        ("2026-03-02", 5),
        ("2026-03-03", 0),
        ("2026-03-04", 0),
    ]


def test_a_tenant_that_moved_leaves_its_past_with_those_who_paid(small: Flavor, lab: Pool) -> None:
    old, new = make_tenant("old"), make_tenant("new")
    team = make_tenant("team", parent=old)
    add(team, 0, 100, flavor=small, pool=lab)
    Tenant.objects.filter(id=team.id).update(parent=new, path=[new.id, team.id])
    team.refresh_from_db()
    add(team, 100, 150, flavor=small, pool=lab)
    seconds = {t.name: usage(t, 0, 1000).total.instance_seconds for t in (old, new, team)}
    assert seconds == {"old": 100, "new": 50, "team": 150}


def test_who_may_read(small: Flavor) -> None:
    tenant, other = make_tenant(), make_tenant()
    viewer = make_actor("viewer", tenant)
    period = Period.between(None, None)
    assert read_usage(actor=viewer, tenant=tenant, period=period).total == Amounts()
    for read in (read_usage, read_showback):
        with pytest.raises(NotFound):
            read(actor=viewer, tenant=other, period=period)  # type: ignore[operator]
        with pytest.raises(PermissionDenied):
            read(actor=viewer, tenant=None, period=period)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (BASE + timedelta(seconds=1), BASE),
        (BASE + timedelta(microseconds=1), BASE + timedelta(seconds=1)),
        (BASE, BASE + timedelta(seconds=1, microseconds=5)),
        (BASE - timedelta(days=4000), BASE),
    ],
)
def test_a_period_that_makes_no_sense_is_refused(begin: datetime, end: datetime) -> None:
    with pytest.raises(InvalidInput):
        Period.between(begin, end)


def test_an_empty_period_is_empty(small: Flavor, lab: Pool) -> None:
    add(make_tenant(), -100, 100, flavor=small, pool=lab)
    assert astuple(usage(None, 0, 0).total) == (0, 0, 0, 0)
