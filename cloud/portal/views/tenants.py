"""The tenants that one may look at, and the deletion of one."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from cloud.pages.tenant_delete import ask_before_deletion
from cloud.portal.desk import SESSION_KEY, Desk, at_desk, reachable
from tenants.errors import NotFound
from tenants.models import Tenant
from tenants.scope import ALL
from tenants.selectors import tenant_paths
from tenants.services.access import visible_tenant_ids

_SHOWN = 500


@require_safe
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """All tenants that one may look at, by their paths of names."""
    search = request.GET.get("q", "").strip()
    found = reachable(desk.user, name=search, most=_SHOWN)
    paths = tenant_paths(found)
    # Decided from above: a top tenant's by the operators, in the console.
    above = visible_tenant_ids(desk.actor, "tenant.delete")
    rows = sorted(
        (
            (
                paths[tenant.id],
                tenant,
                tenant.parent_id is not None
                and tenant.state != Tenant.State.DELETING
                and (above is ALL or tenant.parent_id in above),
            )
            for tenant in found
        ),
        key=lambda row: row[0],
    )
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


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def delete(request: HttpRequest, desk: Desk, tenant_id: uuid.UUID) -> HttpResponse:
    """What a tenant holds, and its deletion with all of that once its name was typed."""
    found = reachable(desk.user, only=tenant_id, most=1)
    if not found:
        raise NotFound
    tenant = found[0]
    asked = ask_before_deletion(request, actor=desk.actor, tenant=tenant)
    if asked.operation is not None:
        return redirect("operation", asked.operation.id)
    path = tenant_paths([tenant])[tenant.id]
    context = {"desk": desk, "tenant": tenant, "path": path, "form": asked.form, "contents": asked.contents}
    status = 400 if asked.form.errors or asked.form.refusal else 200
    return render(request, "portal/tenant_delete.html", context, status=status)
