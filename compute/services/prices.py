"""The price book's only writer."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction
from django.db.models import Q

from compute import outbox
from compute.models import PRICED, Flavor, Pool, Price
from tenants.errors import InvalidInput
from tenants.services import audit
from tenants.services.access import Actor, authorize

MAX_PRICE = Decimal("1000000")
_CURRENCY = re.compile(r"[A-Z]{3}")


def set_price(
    *,
    actor: Actor,
    resource: str,
    per_hour: Decimal | None,
    currency: str,
    flavor: Flavor | None = None,
    pool: Pool | None = None,
    valid_from: datetime | None = None,
) -> Price | None:
    """Have one hour of `resource` cost `per_hour` from a time on, for all or for one flavor or pool; None: no price.

    What was planned from that time on for the same key is dropped, what is in force ends there, the past stays.
    `valid_from` is a whole second in the future, the next one unless told. Raises InvalidInput, PermissionDenied.
    """
    authorize(actor, "price.update", None)
    if resource not in PRICED:
        raise InvalidInput.field("/resource", "unknown", f"What has a price is one of {', '.join(PRICED)}.")
    if per_hour is not None and (not per_hour.is_finite() or not 0 <= per_hour <= MAX_PRICE):
        raise InvalidInput.field("/per_hour", "out_of_range", f"A price is between 0 and {MAX_PRICE}.")
    if per_hour is not None and per_hour != round(per_hour, 6):
        raise InvalidInput.field("/per_hour", "too_precise", "A price has at most six places after the point.")
    if not _CURRENCY.fullmatch(currency):
        raise InvalidInput.field("/currency", "invalid", "Give the currency's three letters, for example EUR.")
    with transaction.atomic(durable=True):
        with connection.cursor() as cursor:
            # Two writers, one after the other: each sees what the one before left. Readers are not held up.
            cursor.execute("LOCK TABLE compute_price IN SHARE ROW EXCLUSIVE MODE")
        start = _start(valid_from)
        same = Price.objects.filter(resource=resource, flavor=flavor, pool=pool)
        same.filter(valid_from__gte=start).delete()
        before = same.filter(Q(valid_until=None) | Q(valid_until__gt=start)).first()
        if before is not None:
            before.valid_until = start
            before.save(update_fields=["valid_until"])
        price = None
        if per_hour is not None:
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
            target=price or ("price", before.id if before else None, resource),
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
