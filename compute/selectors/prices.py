"""Reads of the price book: which price holds for what, when; and what an instance would cost."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from compute.models import PRICED, Flavor, Pool, Price
from tenants.services.access import Actor, authorize

MIB_PER_GIB: Final = 1024


def list_prices(*, actor: Actor, history: bool = False) -> QuerySet[Price]:
    """Return the prices that hold now or later; with `history` the ended ones too."""
    authorize(actor, "price.read", None)
    rows = Price.objects.select_related("flavor", "pool")
    return rows if history else rows.filter(Q(valid_until=None) | Q(valid_until__gt=Now()))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The rows that hold somewhere in a period. `currency` None: there is no price."""

    rows: tuple[Price, ...]

    @property
    def currency(self) -> str | None:
        return self.rows[0].currency if self.rows else None

    @classmethod
    def between(cls, start: datetime, end: datetime) -> PriceBook:
        """Read what holds at some time of [start, end)."""
        held = Price.objects.filter(Q(valid_until=None) | Q(valid_until__gt=start), valid_from__lt=end)
        return cls(tuple(held))

    @classmethod
    def now(cls) -> PriceBook:
        """Read what holds at this moment, on the database's clock."""
        return cls(tuple(Price.objects.filter(Q(valid_until=None) | Q(valid_until__gt=Now()), valid_from__lte=Now())))

    def changes(self) -> set[datetime]:
        """Return every time at which some price begins or ends."""
        ends = {row.valid_until for row in self.rows if row.valid_until is not None}
        return ends | {row.valid_from for row in self.rows}

    def find(
        self, resource: str, *, flavor_id: uuid.UUID, pool_id: uuid.UUID, at: datetime | None = None
    ) -> Price | None:
        """Return the price that names most: flavor and pool, then flavor, then pool, then neither. `at` None: any time."""
        fitting = [
            row
            for row in self.rows
            if row.resource == resource
            and row.flavor_id in (None, flavor_id)
            and row.pool_id in (None, pool_id)
            and (at is None or (row.valid_from <= at and (row.valid_until is None or at < row.valid_until)))
        ]
        return max(fitting, key=lambda row: (row.flavor_id is not None, row.pool_id is not None), default=None)


@dataclass(frozen=True, slots=True)
class HourlyPrice:
    """What one instance costs in an hour, exactly; `parts` by priced resource. `currency` None: the book is empty."""

    total: Decimal
    currency: str | None
    parts: Mapping[str, Decimal]


def price_per_hour(*, flavor: Flavor, pool: Pool) -> HourlyPrice:
    """Return what an instance of `flavor` in `pool` costs in an hour at the prices of this moment. One query."""
    return hourly_prices(flavors=[flavor], pool=pool)[flavor.id]


def hourly_prices(*, flavors: Iterable[Flavor], pool: Pool) -> dict[uuid.UUID, HourlyPrice]:
    """Return `price_per_hour` of several flavors by their ids. One query for all."""
    book = PriceBook.now()
    return {flavor.id: _hourly(book, flavor, pool) for flavor in flavors}


def _hourly(book: PriceBook, flavor: Flavor, pool: Pool) -> HourlyPrice:
    amounts = {
        "instance": Decimal(1),
        "vcpu": Decimal(flavor.vcpus),
        "memory_gib": Decimal(flavor.memory_mib) / MIB_PER_GIB,
        "disk_gib": Decimal(flavor.disk_gib),
    }
    parts = {}
    for resource in PRICED:
        price = book.find(resource, flavor_id=flavor.id, pool_id=pool.id)
        if price is not None:
            parts[resource] = (amounts[resource] * price.per_hour).normalize()
    return HourlyPrice(total=sum(parts.values(), Decimal(0)), currency=book.currency, parts=parts)
