"""What the tenant and all below it used, and what that costs."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from cloud.pages.shares import pool_bars
from cloud.pages.usage import named_tenant, usage_context, usage_lines
from cloud.portal.desk import Desk, at_desk
from tenants.errors import NotFound
from tenants.models import Tenant
from tenants.scope import tenant_scope
from tenants.services.access import visible_tenant_ids


@require_safe
@at_desk
def usage(request: HttpRequest, desk: Desk) -> HttpResponse:
    tenant = _asked_for(request, desk)
    context = usage_context(request, desk.actor, tenant)
    context["path"] = [(above, name) for above, name in context["path"] if above not in desk.tenant.path[:-1]]
    bars = [] if tenant != desk.tenant else pool_bars(actor=desk.actor, tenant=tenant)
    return render(request, "portal/usage.html", {**context, "desk": desk, "share_bars": bars})


@require_safe
@at_desk
def lines(request: HttpRequest, desk: Desk) -> HttpResponse:
    return usage_lines(request, desk.actor, _asked_for(request, desk))


def _asked_for(request: HttpRequest, desk: Desk) -> Tenant:
    """The tenant of `?tenant=`, this one or one below, deleted or not. Raises NotFound."""
    with tenant_scope(visible_tenant_ids(desk.actor)):
        tenant = named_tenant(request) or desk.tenant
    if desk.tenant.id not in tenant.path:
        raise NotFound
    return tenant
