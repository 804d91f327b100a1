"""Showback: what usage costs at the prices of its time.

Cost is units x seconds x price per hour, exact until the line: a line is all usage of one tenant, kind, flavor, pool and
resource at one price, and is rounded once, half to even, to six places. Every total is a sum of such lines, so whichever
way they are grouped, and wherever the tree is cut, the sums agree to the last place. (Grouped by instance, each instance
has lines of its own and is rounded by itself.)
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Final

from compute.models import PRICED
from compute.selectors.prices import MIB_PER_GIB, PriceBook
from compute.selectors.usage import Amounts, Period, Piece, Source, check_group_count, measure, tenant_names
from tenants.models import Tenant
from tenants.services.access import Actor, authorize_past

GROUPS: Final[tuple[str, ...]] = ("tenant", "flavor", "pool", "kind", "instance")
PLACES: Final = Decimal("0.000001")
# Enough for 2^63 unit-seconds at the highest price without rounding before the line.
_DIGITS: Final = 60


@dataclass(frozen=True, slots=True)
class Line:
    """What one group used of one resource at one price. `quantity` in unit-hours, rounded as `cost` is."""

    group: str
    group_name: str
    resource: str
    per_hour: Decimal
    unit_seconds: int
    quantity: Decimal
    cost: Decimal


@dataclass(frozen=True, slots=True)
class Showback:
    """A tenant's (None: the cloud's) costs in a period. `currency` None: no price held in it."""

    tenant: Tenant | None
    period: Period
    group_by: str
    currency: str | None
    lines: tuple[Line, ...]
    total: Decimal


def read_showback(*, actor: Actor, tenant: Tenant | None, period: Period, group_by: str = "tenant") -> Showback:
    """Price the usage of a tenant and all below it (None: of the whole cloud, for operators).

    Usage without a price costs nothing and has no line. Raises PermissionDenied, NotFound, InvalidInput.
    """
    authorize_past(actor, "usage.read", tenant)
    book = PriceBook.between(period.start, period.end)
    cuts = period.cut_at(book.changes())
    pieces = measure(payer=tenant.id if tenant else None, cuts=cuts, group_by=group_by, for_prices=True)
    names = {piece.group: piece.group_name or piece.group for piece in pieces}
    if group_by == "tenant":
        names |= tenant_names(names)
    lines = _lines(_atoms(pieces, book), names)
    check_group_count(len({line.group for line in lines}))
    total = sum((line.cost for line in lines), Decimal(0))
    return Showback(tenant=tenant, period=period, group_by=group_by, currency=book.currency, lines=lines, total=total)


# group, resource, price -> source -> unit-seconds: each is rounded once
_Atoms = dict[tuple[str, str, Decimal], dict[Source, int]]


def _atoms(pieces: list[Piece], book: PriceBook) -> _Atoms:
    prices: dict[tuple[str, uuid.UUID, uuid.UUID, datetime], Decimal | None] = {}
    atoms: _Atoms = defaultdict(lambda: defaultdict(int))
    for piece in pieces:
        source = piece.source
        assert source is not None
        for resource in PRICED:
            key = (resource, source.flavor_id, source.pool_id, piece.start)
            if key not in prices:
                found = book.find(resource, flavor_id=source.flavor_id, pool_id=source.pool_id, at=piece.start)
                prices[key] = found.per_hour if found else None
            per_hour = prices[key]
            if per_hour is not None:
                atoms[piece.group, resource, per_hour][source] += _unit_seconds(piece.amounts, resource)
    return atoms


def _lines(atoms: _Atoms, names: dict[str, str]) -> tuple[Line, ...]:
    lines = []
    for (group, resource, per_hour), parts in atoms.items():
        units = sum(parts.values())
        lines.append(
            Line(
                group=group,
                group_name=names[group],
                resource=resource,
                per_hour=per_hour,
                unit_seconds=units,
                quantity=_per_hour_of(resource, units, Decimal(1)),
                cost=sum((_per_hour_of(resource, part, per_hour) for part in parts.values()), Decimal(0)),
            )
        )
    return tuple(
        sorted(lines, key=lambda line: (line.group_name, line.group, PRICED.index(line.resource), line.per_hour))
    )


def _unit_seconds(amounts: Amounts, resource: str) -> int:
    return {
        "instance": amounts.instance_seconds,
        "vcpu": amounts.vcpu_seconds,
        "memory_gib": amounts.memory_mib_seconds,
        "disk_gib": amounts.disk_gib_seconds,
    }[resource]


def _per_hour_of(resource: str, unit_seconds: int, per_hour: Decimal) -> Decimal:
    """Return unit-seconds (of memory: MiB-seconds) times the price of a unit's hour, rounded here and nowhere else."""
    divisor = 3600 * MIB_PER_GIB if resource == "memory_gib" else 3600
    with localcontext() as context:
        context.prec = _DIGITS
        return (unit_seconds * per_hour / divisor).quantize(PLACES, rounding=ROUND_HALF_EVEN)
