"""The price book: the past stays, the most special price wins, one currency."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, IntegrityError, transaction
from django.utils import timezone

from compute.models import Price
from compute.selectors.prices import PriceBook, hourly_prices, list_prices, price_per_hour
from compute.services.prices import end_price, set_price
from tenants.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from tenants.models import AuditEvent
from tenants.services.access import system_actor
from tests.factories.compute import make_flavor, make_pool
from tests.factories.tenants import make_actor, make_tenant

ACTOR = system_actor("tests")
pytestmark = pytest.mark.django_db(transaction=True)


def put(resource: str, per_hour: str, **more: object) -> Price:
    return set_price(actor=ACTOR, resource=resource, per_hour=Decimal(per_hour), currency="EUR", **more)  # type: ignore[arg-type]


def begun(resource: str, per_hour: str, *, hours: int = 2, **more: object) -> Price:
    """A price that began in the past: written around the service, which refuses that."""
    since = timezone.now().replace(microsecond=0) - timedelta(hours=hours)
    return Price.objects.create(
        resource=resource, per_hour=Decimal(per_hour), currency="EUR", valid_from=since, set_by="tests", **more
    )


def test_a_new_price_ends_the_old_one_and_leaves_the_past() -> None:
    old = begun("vcpu", "0.01")
    new = put("vcpu", "0.02")
    old.refresh_from_db()
    assert old.valid_until == new.valid_from
    assert old.per_hour == Decimal("0.01")
    assert new.valid_from > timezone.now() - timedelta(seconds=1)
    event = AuditEvent.unscoped.get(action="price.update")
    assert (event.before, event.after["per_hour"]) == ({"per_hour": "0.010000"}, "0.02")


def test_what_was_planned_is_replaced_by_a_newer_plan() -> None:
    old = begun("vcpu", "0.01")
    later = timezone.now().replace(microsecond=0) + timedelta(days=30)
    put("vcpu", "0.05", valid_from=later)
    put("vcpu", "0.03", valid_from=later - timedelta(days=1))
    old.refresh_from_db()
    assert old.valid_until == later - timedelta(days=1)
    assert [price.per_hour for price in Price.objects.order_by("valid_from")] == [Decimal("0.01"), Decimal("0.03")]
    assert [price.per_hour for price in list_prices(actor=ACTOR)] == [Decimal("0.01"), Decimal("0.03")]


def test_a_price_ends_with_the_next_second_once() -> None:
    price = begun("vcpu", "1")
    end_price(actor=ACTOR, price_id=price.id)
    price.refresh_from_db()
    assert price.valid_until is not None
    assert timedelta(0) <= price.valid_until - timezone.now() + timedelta(seconds=1) <= timedelta(seconds=2)
    Price.objects.filter(id=price.id).update(valid_until=timezone.now() + timedelta(milliseconds=1))
    with pytest.raises(Conflict):
        end_price(actor=ACTOR, price_id=price.id)
    with pytest.raises(NotFound):
        end_price(actor=ACTOR, price_id=uuid.uuid4())


def test_a_plan_that_is_withdrawn_leaves_no_time_without_a_price() -> None:
    old = begun("vcpu", "1")
    later = timezone.now().replace(microsecond=0) + timedelta(days=1)
    planned = put("vcpu", "2", valid_from=later)
    latest = put("vcpu", "3", valid_from=later + timedelta(days=1))
    end_price(actor=ACTOR, price_id=planned.id)
    old.refresh_from_db()
    assert old.valid_until == latest.valid_from
    end_price(actor=ACTOR, price_id=latest.id)
    old.refresh_from_db()
    assert old.valid_until is None


def test_the_past_cannot_be_set_through_the_service() -> None:
    with pytest.raises(InvalidInput, match="in the future"):
        put("vcpu", "1", valid_from=timezone.now().replace(microsecond=0))
    with pytest.raises(InvalidInput, match="whole second"):
        put("vcpu", "1", valid_from=timezone.now().replace(microsecond=1) + timedelta(days=1))


@pytest.mark.parametrize(
    "change",
    [{"per_hour": 2}, {"valid_from": "2020-01-01T00:00:00Z"}, {"valid_until": "2020-01-01T00:00:00Z"}, {"flavor": 1}],
)
def test_the_database_refuses_to_change_a_price_that_has_begun(change: dict[str, object]) -> None:
    price = begun("vcpu", "1")
    if "flavor" in change:
        change = {"flavor": make_flavor()}
    with pytest.raises(DatabaseError, match="history"), transaction.atomic():
        Price.objects.filter(id=price.id).update(**change)


def test_the_database_refuses_to_delete_a_price_that_has_begun() -> None:
    price = begun("vcpu", "1")
    with pytest.raises(DatabaseError, match="history"), transaction.atomic():
        price.delete()
    Price.objects.filter(id=price.id).update(valid_until=timezone.now() + timedelta(days=1))
    with pytest.raises(DatabaseError, match="history"), transaction.atomic():
        Price.objects.filter(id=price.id).update(valid_until=timezone.now() - timedelta(hours=1))


def test_the_database_refuses_two_prices_at_one_time_and_two_currencies() -> None:
    begun("vcpu", "1")
    with pytest.raises(IntegrityError, match="price_never_overlaps"), transaction.atomic():
        begun("vcpu", "2", hours=1)
    with pytest.raises(IntegrityError, match="price_one_currency"), transaction.atomic():
        Price.objects.create(resource="disk_gib", per_hour=1, currency="USD", valid_from=timezone.now(), set_by="tests")
    with pytest.raises(InvalidInput, match="kept in EUR"):
        set_price(actor=ACTOR, resource="disk_gib", per_hour=Decimal(1), currency="USD")


def test_the_most_special_price_wins() -> None:
    pool, other_pool = make_pool(), make_pool()
    flavor, other = make_flavor(vcpus=2, memory_mib=1536, disk_gib=10), make_flavor(vcpus=1)
    begun("vcpu", "0.01")
    begun("vcpu", "0.02", pool=pool)
    begun("vcpu", "0.03", flavor=flavor)
    assert price_per_hour(flavor=other, pool=other_pool).total == Decimal("0.01")
    assert price_per_hour(flavor=other, pool=pool).total == Decimal("0.02")
    assert price_per_hour(flavor=flavor, pool=pool).total == Decimal("0.06")
    begun("vcpu", "0.04", flavor=flavor, pool=pool)
    assert price_per_hour(flavor=flavor, pool=pool).total == Decimal("0.08")
    assert price_per_hour(flavor=flavor, pool=other_pool).total == Decimal("0.06")


def test_an_hours_price_is_exact_and_names_its_parts() -> None:
    flavor, pool = make_flavor(vcpus=2, memory_mib=1536, disk_gib=10), make_pool()
    begun("vcpu", "0.013")
    begun("memory_gib", "0.000001")
    begun("instance", "0.1")
    price = price_per_hour(flavor=flavor, pool=pool)
    assert price.parts == {
        "instance": Decimal("0.1"),
        "vcpu": Decimal("0.026"),
        "memory_gib": Decimal("0.0000015"),
    }
    assert price.total == Decimal("0.1260015")
    assert price.currency == "EUR"


def test_an_empty_book_costs_nothing_and_has_no_currency() -> None:
    flavor = make_flavor()
    price = hourly_prices(flavors=[flavor], pool=make_pool())[flavor.id]
    assert (price.total, price.currency, dict(price.parts)) == (Decimal(0), None, {})


def test_a_planned_price_does_not_hold_yet() -> None:
    flavor, pool = make_flavor(), make_pool()
    put("vcpu", "1", valid_from=timezone.now().replace(microsecond=0) + timedelta(hours=1))
    assert price_per_hour(flavor=flavor, pool=pool).total == 0
    book = PriceBook.between(timezone.now(), timezone.now() + timedelta(hours=2))
    assert len(book.rows) == 1


def test_only_operators_set_prices_and_values_are_judged() -> None:
    actor = make_actor("owner", make_tenant())
    with pytest.raises(PermissionDenied):
        set_price(actor=actor, resource="vcpu", per_hour=Decimal(1), currency="EUR")
    with pytest.raises(PermissionDenied):
        end_price(actor=actor, price_id=uuid.uuid4())
    for wrong in (
        {"resource": "gpu"},
        {"per_hour": Decimal("-1")},
        {"per_hour": Decimal("0.0000001")},
        {"currency": "eur"},
    ):
        values = {"resource": "vcpu", "per_hour": Decimal(1), "currency": "EUR", **wrong}
        with pytest.raises(InvalidInput):
            set_price(actor=ACTOR, **values)  # type: ignore[arg-type]
    assert not Price.objects.exists()


def test_the_database_lets_no_plan_slip_into_the_past() -> None:
    planned = put("vcpu", "2", valid_from=timezone.now().replace(microsecond=0) + timedelta(days=1))
    with pytest.raises(DatabaseError, match="history"), transaction.atomic():
        Price.objects.filter(id=planned.id).update(valid_from=timezone.now() - timedelta(days=1))
