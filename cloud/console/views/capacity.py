"""Capacity of one pool: how full it is, what still fits, how long it lasts, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from cloud.console.guard import for_operators
from compute.models import Pool
from compute.scheduler.model import Resource
from compute.scheduler.trend import Trend
from compute.selectors.capacity import Amount, FlavorFit, PoolCapacity, read_capacity
from compute.selectors.lookup import find_pool
from tenants.services.access import Actor

NEVER_DAYS: Final = 3 * 365
_SOON_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class ResourceRow:
    """One resource. `used` and `held` are percents of the capacity, for the bar; `lasts` in words; `soon`: worth a look."""

    resource: Resource
    amount: Amount
    used: float
    held: float
    lasts: str
    soon: bool

    @property
    def taken(self) -> float:
        return self.used + self.held


@dataclass(frozen=True, slots=True)
class FitRow:
    """One flavor; `lost`: percent of what would fit in one piece. `same`: VMs and containers find the same room."""

    fit: FlavorFit
    same: bool
    lost: float


@require_safe
@for_operators
def capacity(request: HttpRequest, actor: Actor) -> HttpResponse:
    """One pool; `?pool=` chooses it by name."""
    pools = list(Pool.objects.order_by("name"))
    context: dict[str, object] = {"pools": pools}
    if pools:
        pool = find_pool(request.GET["pool"]) if request.GET.get("pool") else pools[0]
        found = read_capacity(actor=actor, pool=pool)
        rows = _rows(found)
        context |= {
            "pool": pool,
            "found": found,
            "rows": rows,
            "fits": [_fit_row(fit) for fit in found.fits],
            "in_service": sum(
                one.hosts for one in found.states if (one.admin_state, one.observed_state) == ("enabled", "up")
            ),
            "tightest": max(rows, key=lambda row: row.taken),
        }
    return render(request, "console/capacity.html", context)


def _rows(found: PoolCapacity) -> list[ResourceRow]:
    rows = []
    for resource, amount in found.amounts.items():
        share = 100 / amount.capacity if amount.capacity else 0.0
        soonest = amount.trend.soonest if amount.trend else None
        used = min(100.0, amount.used * share)
        rows.append(
            ResourceRow(
                resource=resource,
                amount=amount,
                used=round(used, 2),
                held=round(min(100.0 - used, amount.held * share), 2),
                lasts=lasts(amount.trend),
                soon=soonest is not None and soonest < _SOON_DAYS,
            )
        )
    return rows


def _fit_row(fit: FlavorFit) -> FitRow:
    return FitRow(
        fit=fit,
        same=fit.vm == fit.container,
        lost=round(100 * max(fit.vm.lost, fit.container.lost), 1),
    )


def lasts(found: Trend | None) -> str:
    """Say in words when room runs out, with the interval."""
    if found is None:
        return "Not enough history: a rate needs seven whole days."
    if found.soonest is None:
        return "No end in sight: use is not growing."
    soonest = _days(found.soonest)
    latest = "or never" if found.latest is None else f"{_days(found.latest)} at the latest"
    if found.expected is None:
        return f"Not growing on average ({soonest} at the earliest, or never)."
    return f"{_days(found.expected).capitalize()} ({soonest} at the earliest, {latest})."


def _days(number: float) -> str:
    if number > NEVER_DAYS:
        return "more than 3 years"
    if number < 1:
        return "less than a day"
    return "1 day" if round(number) == 1 else f"{round(number)} days"
