"""Choosing the tenant to look at."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from cloud.portal.desk import SESSION_KEY, Desk, at_desk, reachable
from tenants.errors import NotFound
from tenants.selectors import tenant_paths


@require_safe
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """All tenants that one may look at, by their paths of names."""
    search = request.GET.get("q", "").strip()
    found = reachable(desk.user)
    paths = tenant_paths(found)
    fitting = [(paths[tenant.id], tenant) for tenant in found if search.lower() in paths[tenant.id].lower()]
    rows = sorted(fitting, key=lambda row: row[0])
    return render(request, "portal/tenants.html", {"rows": rows, "search": search})


@require_POST
@at_desk
def switch(request: HttpRequest, desk: Desk) -> HttpResponse:
    """Look at another tenant from now on."""
    wanted = request.POST.get("tenant", "")
    if not any(str(tenant.id) == wanted for tenant in reachable(desk.user)):
        raise NotFound
    request.session[SESSION_KEY] = wanted
    return redirect("home")
