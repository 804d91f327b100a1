"""Plans: the list, one with the fate of each guest, and what is done with it; the page on which a drain is drawn up."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from cloud.pages.paging import page
from compute import states
from compute.selectors.instances import list_instances
from compute.selectors.plans import get_plan, list_plans
from compute.selectors.pools import get_host
from compute.services.drain_draft import DrainOptions
from compute.services.plans import abort_plan, apply_plan, pause_plan, propose_drain, resume_plan
from tenants.services.access import Actor

MOST_NAMED = 200
_FILTERS = ("open", "proposed", "finished", "aborted", "expired")
_DONE = {
    "apply": "The plan is being carried out.",
    "pause": "No further move begins; those under way go on.",
    "resume": "The plan goes on.",
    "abort": "The plan has ended; moves under way are cancelled where they still can be.",
}


@require_safe
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    state, named = request.GET.get("state", ""), request.GET.get("host", "")
    rows = list_plans(
        actor=actor,
        host=get_host(actor=actor, reference=named) if named else None,
        open_only=state == "open",
        state=state if state in states.PLAN else None,
    )
    found = page(request, rows)
    context = {"plans": found.items, "page": found, "state": state, "states": _FILTERS}
    return render_live(request, "console/plans/index.html", "console/plans/_rows.html", context)


@require_safe
@for_operators
def detail(request: HttpRequest, actor: Actor, plan_id: uuid.UUID) -> HttpResponse:
    plan = get_plan(actor=actor, plan_id=plan_id)
    context = {"plan": plan, "open": plan.state in states.PLAN_OPEN}
    return render_live(request, "console/plans/detail.html", "console/plans/_detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def drain(request: HttpRequest, actor: Actor, host_id: uuid.UUID) -> HttpResponse:
    """What may be done to its guests; a POST draws the plan up, which is then looked at and applied."""
    host = get_host(actor=actor, reference=str(host_id))
    if request.method == "POST":
        options = DrainOptions(
            stop="stop" in request.POST,
            consent=tuple(sorted(request.POST.getlist("consent"))),
            accept_losses="accept_losses" in request.POST,
        )
        reason = request.POST.get("reason", "").strip()
        plan = propose_drain(actor=actor, host_id=host.id, options=options, reason=reason)
        return redirect("console:plan", plan.id)
    guests = list_instances(actor=actor, host=host).select_related("tenant")
    context = {
        "host": host,
        "guests": guests.count(),
        "asking": list(guests.filter(disruption="consent")[:MOST_NAMED]),
        "restarting": guests.filter(kind="container", desired_power="running", disruption="live").count(),
    }
    return render(request, "console/plans/drain.html", context)


@require_POST
@for_operators
def act(request: HttpRequest, actor: Actor, plan_id: uuid.UUID, verb: str) -> HttpResponse:
    """Apply, pause, resume or abort."""
    act_on = {"apply": apply_plan, "pause": pause_plan, "resume": resume_plan, "abort": abort_plan}
    act_on[verb](actor=actor, plan_id=plan_id)
    messages.info(request, _DONE[verb])
    return redirect("console:plan", plan_id)
