"""Operations: what the cloud is doing and did."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST, require_safe

from cloud.pages.live import render_live
from cloud.pages.paging import page
from cloud.portal.desk import Desk, at_desk, move_to
from compute import states
from compute.selectors.operations import get_operation, list_operations, progress_of
from compute.services.operations import cancel_operation, retry_operation

_FILTERS = ("open", "succeeded", "failed", "cancelled")


@require_safe
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    state = request.GET.get("state", "")
    rows = list_operations(
        actor=desk.actor,
        tenant_id=desk.tenant.id,
        open_only=state == "open",
        state=state if state in states.OPERATION_FINAL else None,
    )
    found = page(request, rows)
    context = {
        "desk": desk,
        "operations": [(operation, progress_of(operation)) for operation in found.items],
        "page": found,
        "state": state,
        "states": _FILTERS,
    }
    return render_live(request, "portal/operations/index.html", "portal/operations/_rows.html", context)


@require_safe
@at_desk
def detail(request: HttpRequest, desk: Desk, operation_id: uuid.UUID) -> HttpResponse:
    operation = get_operation(actor=desk.actor, operation_id=operation_id)
    if operation.tenant_id is not None:
        desk = move_to(request, desk, operation.tenant_id)
    context = {
        "desk": desk,
        "operation": operation,
        "progress": progress_of(operation),
        "open": operation.state in states.OPERATION_OPEN,
    }
    return render_live(request, "portal/operations/detail.html", "portal/operations/_detail.html", context)


@require_POST
@at_desk
def act(request: HttpRequest, desk: Desk, operation_id: uuid.UUID, verb: str) -> HttpResponse:
    """Cancel an open operation, or have a stuck one tried again."""
    if verb == "cancel":
        cancel_operation(actor=desk.actor, operation_id=operation_id)
        messages.info(request, "The operation was asked to stop; it does so at its next step, where its kind can.")
    else:
        retry_operation(actor=desk.actor, operation_id=operation_id)
        messages.info(request, "The operation is tried again.")
    return redirect("operation", operation_id)
