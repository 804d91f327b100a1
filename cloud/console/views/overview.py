"""The first page: is there room, do all hosts answer, is anything stuck."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from compute.selectors.grants import list_alarms
from compute.selectors.operations import list_operations, progress_of
from compute.selectors.pools import count_hosts, list_hosts, list_pools
from tenants.services.access import Actor

_TROUBLE_SHOWN = 20


@require_safe
@for_operators
def overview(request: HttpRequest, actor: Actor) -> HttpResponse:
    open_now = list_operations(actor=actor, open_only=True)
    context = {
        "alarms": list(list_alarms(actor=actor).order_by("-raised_at")[:20]),
        "pools": list(list_pools(actor=actor)),
        "hosts": count_hosts(actor=actor),
        "trouble": list(list_hosts(actor=actor, in_service=False).order_by("name")[:_TROUBLE_SHOWN]),
        "open": open_now.exclude(state="stuck").count(),
        "stuck": open_now.filter(state="stuck").count(),
        "operations": [(operation, progress_of(operation)) for operation in list_operations(actor=actor)[:8]],
    }
    return render_live(request, "console/overview.html", "console/_overview.html", context)
