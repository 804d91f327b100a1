"""The first page: quota, what runs, what happened last."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from cloud.pages.live import render_live
from cloud.portal.desk import SESSION_KEY, Desk, at_desk
from compute.models import Instance
from compute.selectors.grants import list_grants
from compute.selectors.instances import list_instances, status_of
from compute.selectors.operations import list_operations, progress_of
from tenants.services import quotas

MAIN_RESOURCES = ("instances", "vcpus", "memory_mib", "disk_gib")


@require_safe
@at_desk
def home(request: HttpRequest, desk: Desk) -> HttpResponse:
    if desk.user.is_operator and SESSION_KEY not in request.session:
        # Operators begin with the cloud as a whole, until they choose a tenant to look at.
        return redirect("console:overview")
    lines = quotas.summary(desk.tenant)
    recent = list_operations(actor=desk.actor, tenant_id=desk.tenant.id)[:8]
    context = {
        "desk": desk,
        "main_lines": sorted(
            (line for line in lines if line.resource in MAIN_RESOURCES),
            key=lambda line: MAIN_RESOURCES.index(line.resource),
        ),
        "other_lines": [line for line in lines if line.resource not in MAIN_RESOURCES],
        "grants": list(list_grants(actor=desk.actor, tenant_id=desk.tenant.id).order_by("pool__name")),
        "statuses": count_statuses(desk),
        "operations": [(operation, progress_of(operation)) for operation in recent],
    }
    return render_live(request, "portal/home.html", "portal/_home.html", context)


def count_statuses(desk: Desk) -> list[tuple[str, int]]:
    """How many instances show each status; counted by the database, so as quick with ten thousand as with ten."""
    rows: QuerySet[Any] = list_instances(actor=desk.actor, tenant_id=desk.tenant.id)
    groups = (
        rows.select_related(None)
        .prefetch_related(None)
        .order_by()
        .values("state", "power", "open_operation_kind", "host_id", "host__observed_state")
        .annotate(count=Count("id"))
    )
    totals: Counter[str] = Counter()
    for group in groups:
        host = SimpleNamespace(observed_state=group["host__observed_state"]) if group["host_id"] else None
        row: Any = SimpleNamespace(**{**group, "host": host})
        totals[status_of(cast(Instance, row))] += group["count"]
    return totals.most_common()
