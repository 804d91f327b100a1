"""Operations of all tenants and of the hosts."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from cloud.pages.paging import page
from compute import states
from compute.models import HostCall, Migration
from compute.sagas.registry import SAGAS
from compute.selectors.operations import get_operation, list_operations, progress_of
from compute.services.operations import cancel_operation, retry_operation
from tenants.services.access import Actor

_FILTERS = ("open", "stuck", "failed", "succeeded", "cancelled")


@require_safe
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    state, kind = request.GET.get("state", ""), request.GET.get("kind", "")
    rows = list_operations(
        actor=actor,
        open_only=state == "open",
        state=state if state in states.OPERATION and state in _FILTERS else None,
        kind=kind if kind in SAGAS else None,
    )
    found = page(request, rows)
    context = {
        "operations": [(operation, progress_of(operation)) for operation in found.items],
        "page": found,
        "state": state,
        "kind": kind,
        "states": _FILTERS,
        "kinds": list(SAGAS),
    }
    return render_live(request, "console/operations/index.html", "console/operations/_rows.html", context)


@require_safe
@for_operators
def detail(request: HttpRequest, actor: Actor, operation_id: uuid.UUID) -> HttpResponse:
    operation = get_operation(actor=actor, operation_id=operation_id)
    context = {
        "operation": operation,
        "progress": progress_of(operation),
        "open": operation.state in states.OPERATION_OPEN,
        "migration": Migration.objects.select_related("source", "destination").filter(operation=operation).first(),
        "calls": list(HostCall.objects.filter(operation=operation).select_related("host").order_by("created_at")[:100]),
    }
    return render_live(request, "console/operations/detail.html", "console/operations/_detail.html", context)


@require_POST
@for_operators
def act(request: HttpRequest, actor: Actor, operation_id: uuid.UUID, verb: str) -> HttpResponse:
    """Cancel an open operation, or have a stuck one tried again."""
    if verb == "cancel":
        cancel_operation(actor=actor, operation_id=operation_id)
        messages.info(request, "The operation was asked to stop; it does so at its next step, where its kind can.")
    else:
        retry_operation(actor=actor, operation_id=operation_id)
        messages.info(request, "The operation is tried again.")
    return redirect("console:operation", operation_id)
