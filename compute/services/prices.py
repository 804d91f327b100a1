"""The price book's only writer."""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Q

from compute import outbox
from compute.models import PRICED, Flavor, Pool, Price
from tenants.errors import Conflict, InvalidInput, NotFound
from tenants.services import audit
from tenants.services.access import Actor, authorize

MAX_PRICE = Decimal("1000000")
_CURRENCY = re.compile(r"[A-Z]{3}")


def set_price(
    *,
    actor: Actor,
    resource: str,
    per_hour: Decimal,
    currency: str,
    flavor: Flavor | None = None,
    pool: Pool | None = None,
    valid_from: datetime | None = None,
) -> Price:
    """Have one hour of `resource` cost `per_hour` from a time on, for all, or for one flavor or pool or both.

    What was planned from that time on for the same key is dropped, what is in force ends there, the past stays.
    `valid_from` is a whole second in the future, the next one unless told. Raises InvalidInput, PermissionDenied.
    """
    authorize(actor, "price.update", None)
    _check(resource, per_hour, currency)
    with transaction.atomic(durable=True):
        _lock()
        start = _start(valid_from)
        same = Price.objects.filter(resource=resource, flavor=flavor, pool=pool)
        same.filter(valid_from__gte=start).delete()
        before = same.filter(Q(valid_until=None) | Q(valid_until__gt=start)).first()
        if before is not None:
            _end(before, start)
        kept_in = Price.objects.exclude(currency=currency).values_list("currency", flat=True).first()
        if kept_in is not None:
            raise InvalidInput.field("/currency", "mismatch", f"The price book is kept in {kept_in}.")
        price = Price.objects.create(
            resource=resource,
            flavor=flavor,
            pool=pool,
            per_hour=per_hour,
            currency=currency,
            valid_from=start,
            set_by=actor.username,
        )
        audit.record(
            actor=actor,
            action="price.update",
            target=price,
            before={"per_hour": before.per_hour if before else None},
            after={
                "resource": resource,
                "flavor": flavor.name if flavor else None,
                "pool": pool.name if pool else None,
                "per_hour": per_hour,
                "currency": currency,
                "valid_from": start,
            },
        )
        return price


def end_price(*, actor: Actor, price_id: uuid.UUID) -> None:
    """Have a price end with the next second; one that has not begun is withdrawn, and the one before goes on in its place.

    Raises NotFound, Conflict (it has ended already), PermissionDenied.
    """
    authorize(actor, "price.update", None)
    with transaction.atomic(durable=True):
        _lock()
        price = Price.objects.select_related("flavor", "pool").filter(id=price_id).first()
        if price is None:
            raise NotFound("There is no such price.")
        start = _start(None)
        if price.valid_until is not None and price.valid_until <= start:
            raise Conflict("This price has ended already.")
        target = ("price", price.id, str(price))
        if price.valid_from >= start:
            same = Price.objects.filter(resource=price.resource, flavor=price.flavor, pool=price.pool)
            before = same.filter(valid_until=price.valid_from).first()
            price.delete()
            if before is not None:
                _end(before, price.valid_until)
        else:
            _end(price, start)
        audit.record(actor=actor, action="price.update", target=target, before={"per_hour": price.per_hour}, after={})


def _check(resource: str, per_hour: Decimal, currency: str) -> None:
    if resource not in PRICED:
        raise InvalidInput.field("/resource", "unknown", f"What has a price is one of {', '.join(PRICED)}.")
    if not per_hour.is_finite() or not 0 <= per_hour <= MAX_PRICE:
        raise InvalidInput.field("/per_hour", "out_of_range", f"A price is between 0 and {MAX_PRICE}.")
    if per_hour != round(per_hour, 6):
        raise InvalidInput.field("/per_hour", "too_precise", "A price has at most six places after the point.")
    if not _CURRENCY.fullmatch(currency):
        raise InvalidInput.field("/currency", "invalid", "Give the currency's three letters, for example EUR.")


def _lock() -> None:
    """Two writers, one after the other: each sees what the one before left. Readers are not held up."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE compute_price IN SHARE ROW EXCLUSIVE MODE")


def _end(price: Price, moment: datetime | None) -> None:
    price.valid_until = moment
    price.save(update_fields=["valid_until"])


def _start(valid_from: datetime | None) -> datetime:
    """Return when the price begins: what has been lived through has its price already."""
    next_second = outbox.database_now().astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
    if valid_from is None:
        return next_second
    if valid_from.microsecond:
        raise InvalidInput.field("/valid_from", "invalid", "Prices begin with a whole second.")
    if valid_from < next_second:
        raise InvalidInput.field(
            "/valid_from", "in_the_past", "A price begins in the future: what is past has its price."
        )
    return valid_from
