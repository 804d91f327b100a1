"""What the usage pages of portal and console show: a month, as bars by day and as a table, with its cost."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

from cloud.showback_csv import write_lines
from compute.selectors.showback import GROUPS, read_showback
from compute.selectors.usage import Amounts, Group, Period, deleted_among, read_usage
from tenants import selectors
from tenants.errors import InvalidInput
from tenants.models import Tenant
from tenants.services.access import Actor

ROWS_SHOWN: Final = 200
# What the bars may show: name in the address -> (words, field of Amounts, its seconds in one hour of the unit shown)
SHOWN: Final = {
    "vcpu": ("vCPU-hours", "vcpu_seconds", 3600),
    "memory": ("GiB-hours of memory", "memory_mib_seconds", 3600 * 1024),
    "disk": ("GiB-hours of disk", "disk_gib_seconds", 3600),
    "instance": ("instance-hours", "instance_seconds", 3600),
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One day. `height` of 100."""

    label: str
    value: float
    height: float
    top: float
    left: int


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; figures in hours of the unit. `cost` None: nothing of it had a price.

    `deleted`: a tenant that is gone; another one may bear its name.
    """

    id: str
    name: str
    instance: float
    vcpu: float
    memory: float
    disk: float
    cost: Decimal | None
    deleted: bool = False


def usage_context(request: HttpRequest, actor: Actor, tenant: Tenant | None) -> dict[str, Any]:
    """Read the month that the address names (this one unless told). Raises PermissionDenied, NotFound."""
    month, by, show = _month(request), _choice(request, "by", GROUPS, _natural_group(tenant)), _show(request)
    period = _period(month)
    days = read_usage(actor=actor, tenant=tenant, period=period, group_by="day")
    try:
        report = read_usage(actor=actor, tenant=tenant, period=period, group_by=by)
    except InvalidInput:
        # Too many instances for a page; nobody asked for them where they are what the page begins with.
        by = "flavor"
        report = read_usage(actor=actor, tenant=tenant, period=period, group_by=by)
    costs = read_showback(actor=actor, tenant=tenant, period=period, group_by=by)
    cost_of: dict[str, Decimal] = {}
    for line in costs.lines:
        cost_of[line.group] = cost_of.get(line.group, Decimal(0)) + line.cost
    words, field, divisor = SHOWN[show]
    shown = report.groups[:ROWS_SHOWN]
    gone = deleted_among([group.id for group in shown]) if by == "tenant" else set()
    values = {day.id: getattr(day.amounts, field) / divisor for day in days.groups}
    return {
        "tenant": tenant,
        "month": month,
        "earlier": _step(month, -1),
        "later": _step(month, 1) if _step(month, 1) <= datetime.now(UTC) else None,
        "by": by,
        "groups": GROUPS,
        "show": show,
        "path": [] if tenant is None else [(row.id, row.name) for row in tenant.ancestors()],
        "kept": f"&tenant={tenant.id}" if "tenant" in request.GET and tenant else "",
        "shown": [(name, unit) for name, (unit, _, _) in SHOWN.items()],
        "unit": words,
        "bars": _bars(period, values),
        "highest": max(values.values(), default=0.0),
        "until": period.until,
        "rows": [_row(group, cost_of.get(group.id), deleted=group.id in gone) for group in shown],
        "more": max(0, len(report.groups) - ROWS_SHOWN),
        "total": _row(Group("", "Total", report.total), costs.total if costs.lines else None),
        "currency": costs.currency,
    }


def usage_lines(request: HttpRequest, actor: Actor, tenant: Tenant | None) -> HttpResponse:
    """Return the month's showback as a CSV file."""
    month, by = _month(request), _choice(request, "by", GROUPS, _natural_group(tenant))
    report = read_showback(actor=actor, tenant=tenant, period=_period(month), group_by=by)
    name = f"usage-{tenant.id if tenant else 'cloud'}-{month:%Y-%m}.csv"
    return HttpResponse(
        write_lines(report),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def named_tenant(request: HttpRequest) -> Tenant | None:
    """Return the tenant of `?tenant=`, in the scope that is open, or a deleted one. Raises NotFound."""
    try:
        identifier = uuid.UUID(request.GET.get("tenant", ""))
    except ValueError:
        return None
    return selectors.find_deleted_tenant(identifier) or selectors.get_tenant(identifier)


def _natural_group(tenant: Tenant | None) -> str:
    """Branches where there are some, else instances."""
    return "tenant" if tenant is None or tenant.children.exists() else "instance"


def _choice(request: HttpRequest, name: str, allowed: tuple[str, ...], otherwise: str) -> str:
    given = request.GET.get(name, "")
    return given if given in allowed else otherwise


def _show(request: HttpRequest) -> str:
    return _choice(request, "show", tuple(SHOWN), "vcpu")


def _month(request: HttpRequest) -> datetime:
    """Return the start of the month that `?month=2026-03` names; of this one where that is no month of the past."""
    now = datetime.now(UTC)
    try:
        month = datetime.strptime(request.GET.get("month", ""), "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        month = now
    if not 2000 <= month.year <= now.year or month > now:
        month = now
    return month.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _step(month: datetime, by: int) -> datetime:
    number = month.year * 12 + month.month - 1 + by
    return month.replace(year=number // 12, month=number % 12 + 1)


def _period(month: datetime) -> Period:
    return Period.between(month, _step(month, 1))


def _bars(period: Period, values: dict[str, float]) -> list[Bar]:
    highest = max(values.values(), default=0.0) or 1.0
    bars = []
    for number in range((period.end - period.start).days):
        label = (period.start + timedelta(days=number)).date().isoformat()
        value = values.get(label, 0.0)
        height = round(100 * value / highest, 2)
        bars.append(Bar(label=label, value=value, height=height, top=100 - height, left=10 * number))
    return bars


def _row(group: Group, cost: Decimal | None, *, deleted: bool = False) -> Row:
    amounts: Amounts = group.amounts
    return Row(
        id=group.id,
        name=group.name,
        instance=amounts.instance_seconds / 3600,
        vcpu=amounts.vcpu_seconds / 3600,
        memory=amounts.memory_mib_seconds / 3600 / 1024,
        disk=amounts.disk_gib_seconds / 3600,
        cost=cost,
        deleted=deleted,
    )
