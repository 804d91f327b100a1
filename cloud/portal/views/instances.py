"""Instances: the list, one of them, and what may be done to it."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from django.contrib import messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from cloud.pages.guard import back_to, is_fragment
from cloud.pages.live import render_live
from cloud.pages.paging import page
from cloud.portal.desk import Desk, at_desk, move_to
from cloud.portal.rows import row_of
from compute.models import Instance
from compute.selectors.decisions import decision_of, explain_decision
from compute.selectors.instances import get_instance, list_instances
from compute.selectors.operations import list_operations, progress_of
from compute.services import console as console_service
from compute.services.instances_delete import delete_instance
from compute.services.instances_power import reboot_instance, start_instance, stop_instance
from tenants.errors import NotFound, PermissionDenied

# Filter chips: word in the URL -> what it narrows to. Fixed here, so nothing of a request reaches a lookup.
_STATES: dict[str, Q] = {
    "running": Q(state="active", power="running"),
    "stopped": Q(state="active") & ~Q(power__in=["running", "paused"]),
    "busy": Q(open_operation_id__isnull=False),
    "trouble": Q(state__in=["error", "failed"]) | Q(host__observed_state__in=["down", "fenced", "unknown"]),
}
_KINDS = {"vm": "VMs", "container": "Containers"}


@require_safe
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """The list, newest first; search and filters live in the URL, so that they can be kept and sent on."""
    search = request.GET.get("q", "").strip()[:64]
    kind, state = request.GET.get("kind", ""), request.GET.get("state", "")
    rows: QuerySet[Instance] = list_instances(
        actor=desk.actor,
        tenant_id=desk.tenant.id,
        kind=kind if kind in _KINDS else None,
        search=search or None,
    )
    by_id = _as_id(search)
    if by_id is not None:
        rows = list_instances(actor=desk.actor, tenant_id=desk.tenant.id).filter(id=by_id)
    if state in _STATES:
        rows = rows.filter(_STATES[state])
    found = page(request, rows)
    context = {
        "desk": desk,
        "rows": [row_of(instance) for instance in found.items],
        "page": found,
        "search": search,
        "kind": kind,
        "state": state,
        "kinds": _KINDS,
        "states": list(_STATES),
        "filtered": bool(search or kind in _KINDS or state in _STATES),
    }
    return render_live(request, "portal/instances/index.html", "portal/instances/_rows.html", context)


def _as_id(text: str) -> uuid.UUID | None:
    """The id that somebody pasted from a log or a script, or None."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


def _opened(request: HttpRequest, desk: Desk, instance_id: uuid.UUID) -> tuple[Desk, Instance]:
    instance = get_instance(actor=desk.actor, reference=str(instance_id))
    return move_to(request, desk, instance.tenant_id), instance


def _gone(request: HttpRequest) -> HttpResponse:
    """A live part of an instance that has just been deleted: the page leaves for the list and says why."""
    messages.success(request, "The instance is deleted. Its room and quota are free again.")
    response = HttpResponse(status=204)
    response["HX-Redirect"] = reverse("instances")
    return response


@require_safe
@at_desk
def detail(request: HttpRequest, desk: Desk, instance_id: uuid.UUID, tab: str = "overview") -> HttpResponse:
    """One instance. Each tab is a page of its own, with its own address, and lives by the same refresh."""
    try:
        desk, instance = _opened(request, desk, instance_id)
    except NotFound:
        if is_fragment(request):
            return _gone(request)
        raise
    row = row_of(instance)
    context = {
        "desk": desk,
        "row": row,
        "instance": instance,
        "tab": tab,
        "part": request.headers.get("Cenote-Live", ""),
    }
    context |= _TABS[tab](desk, instance)
    return render_live(request, f"portal/instances/{tab}.html", "portal/instances/_detail.html", context)


def _overview(desk: Desk, instance: Instance) -> dict[str, object]:
    recent = list_operations(actor=desk.actor, target_id=instance.id)[:1]
    return {"last": [(operation, progress_of(operation)) for operation in recent]}


def _console(desk: Desk, instance: Instance) -> dict[str, object]:
    try:
        return {"log": console_service.request_console_log(actor=desk.actor, instance_id=instance.id)}
    except PermissionDenied as error:
        return {"log": None, "refusal": error}


def _activity(desk: Desk, instance: Instance) -> dict[str, object]:
    rows = list_operations(actor=desk.actor, target_id=instance.id)[:50]
    return {"operations": [(operation, progress_of(operation)) for operation in rows]}


def _placement(desk: Desk, instance: Instance) -> dict[str, object]:
    try:
        decision = decision_of(actor=desk.actor, instance=instance)
    except NotFound:
        return {"decision": None}
    return {
        "decision": decision,
        "explained": explain_decision(actor=desk.actor, decision=decision) if desk.actor.is_operator else None,
    }


_TABS: dict[str, Callable[[Desk, Instance], dict[str, object]]] = {
    "overview": _overview,
    "console": _console,
    "activity": _activity,
    "placement": _placement,
}
_POWER = {"start": start_instance, "stop": stop_instance, "reboot": reboot_instance}
_SAID = {"start": "is starting", "stop": "is stopping", "reboot": "is rebooting"}


@require_POST
@at_desk
def power(request: HttpRequest, desk: Desk, instance_id: uuid.UUID, verb: str) -> HttpResponse:
    """Start, stop or reboot; `force` cuts the power instead of asking the guest."""
    if verb != "start" and request.POST.get("force") == "yes":
        order = {"stop": stop_instance, "reboot": reboot_instance}[verb]
        instance, _ = order(actor=desk.actor, instance_id=instance_id, force=True)
    else:
        instance, _ = _POWER[verb](actor=desk.actor, instance_id=instance_id)
    messages.info(request, f"{instance.name} {_SAID[verb]}.")
    return redirect(back_to(request, reverse("instance", args=[instance_id])))


@require_POST
@at_desk
def delete(request: HttpRequest, desk: Desk, instance_id: uuid.UUID) -> HttpResponse:
    """Delete, if the name was typed: what is on the disk goes with it."""
    instance = get_instance(actor=desk.actor, reference=str(instance_id))
    if request.POST.get("name", "") != instance.name:
        messages.error(request, f"Nothing was deleted: type the name {instance.name} to confirm.")
        return redirect("instance", instance_id)
    delete_instance(actor=desk.actor, instance_id=instance_id)
    messages.info(request, f"{instance.name} is being deleted.")
    return redirect("instance", instance_id)
