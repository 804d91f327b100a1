"""Choosing the tenant to look at."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from cloud.portal.desk import SESSION_KEY, Desk, at_desk, reachable
from tenants.errors import NotFound
from tenants.selectors import tenant_paths

_SHOWN = 500


@require_safe
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """All tenants that one may look at, by their paths of names."""
    search = request.GET.get("q", "").strip()
    found = reachable(desk.user, name=search, most=_SHOWN)
    paths = tenant_paths(found)
    rows = sorted(((paths[tenant.id], tenant) for tenant in found), key=lambda row: row[0])
    context = {"rows": rows, "search": search, "full": len(found) == _SHOWN, "shown": _SHOWN}
    return render(request, "portal/tenants.html", context)


@require_POST
@at_desk
def switch(request: HttpRequest, desk: Desk) -> HttpResponse:
    """Look at another tenant from now on."""
    try:
        wanted = uuid.UUID(request.POST.get("tenant", ""))
    except ValueError:
        raise NotFound from None
    if not reachable(desk.user, only=wanted, most=1):
        raise NotFound
    request.session[SESSION_KEY] = str(wanted)
    return redirect("home")
