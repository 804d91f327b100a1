"""What the cloud keeps of itself: decisions and the audit trail."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from cloud.console.guard import for_operators
from cloud.pages.paging import page
from compute.selectors.decisions import (
    explain_decision,
    find_verdict,
    get_decision,
    list_decisions,
    shown_quota,
    shown_remedies,
)
from tenants import selectors
from tenants.errors import NotFound
from tenants.scope import ALL, tenant_scope
from tenants.services.access import Actor, authorize

_AUDIT_PAGE = 100
_HOSTS_SUGGESTED = 200


@require_safe
@for_operators
def decisions(request: HttpRequest, actor: Actor) -> HttpResponse:
    outcome = request.GET.get("outcome", "")
    rows = list_decisions(actor=actor, outcome=outcome if outcome in ("placed", "refused") else None)
    found = page(request, rows)
    return render(request, "console/decisions/index.html", {"rows": found.items, "page": found, "outcome": outcome})


@require_safe
@for_operators
def decision(request: HttpRequest, actor: Actor, decision_id: uuid.UUID) -> HttpResponse:
    """Why here, and why not there; `?host=` asks about one host of thousands."""
    found = get_decision(actor=actor, decision_id=decision_id)
    explained = explain_decision(actor=actor, decision=found)
    wanted, asked_about, unknown = request.GET.get("host", "").strip(), None, False
    if wanted:
        try:
            asked_about = find_verdict(explained.verdicts, wanted)
        except NotFound:
            unknown = True
    context = {
        "decision": found,
        "explained": explained,
        "weighers": list(explained.best[0].points) if explained.best else [],
        "remedies": shown_remedies(decision=found, visible=ALL),
        "quota": shown_quota(decision=found, visible=ALL),
        "wanted": wanted,
        "asked_about": asked_about,
        "unknown": unknown,
        "names": [verdict.host_name for verdict in explained.verdicts[:_HOSTS_SUGGESTED]],
    }
    return render(request, "console/decisions/detail.html", context)


@require_safe
@for_operators
def audit(request: HttpRequest, actor: Actor) -> HttpResponse:
    """The trail, newest first; narrowed by an exact action or a part of the actor's or target's name."""
    authorize(actor, "ledger.read", None)
    action, who = request.GET.get("action", "").strip(), request.GET.get("q", "").strip()
    cursor = _cursor(request.GET.get("before", ""))
    with tenant_scope(ALL):
        rows = selectors.audit_events().select_related("tenant")
        if action:
            rows = rows.filter(action=action)
        if who:
            rows = rows.filter(actor_name__icontains=who) | rows.filter(target_name__icontains=who)
        if cursor is not None:
            rows = rows.filter(id__lt=cursor)
        found = list(rows[: _AUDIT_PAGE + 1])
    context = {
        "events": found[:_AUDIT_PAGE],
        "next": found[_AUDIT_PAGE - 1].id if len(found) > _AUDIT_PAGE else None,
        "action": action,
        "who": who,
        "paged": cursor is not None,
    }
    return render(request, "console/audit.html", context)


def _cursor(text: str) -> uuid.UUID | None:
    """Ids of events grow with their age, so an id is all that a page needs to go on from."""
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
