"""What everybody used, from the whole cloud down into the tree."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from cloud.console.guard import for_operators
from cloud.pages.usage import named_tenant, usage_context, usage_lines
from tenants.scope import ALL, tenant_scope
from tenants.services.access import Actor


@require_safe
@for_operators
def usage(request: HttpRequest, actor: Actor) -> HttpResponse:
    with tenant_scope(ALL):
        context = usage_context(request, actor, named_tenant(request))
    return render(request, "console/usage.html", context)


@require_safe
@for_operators
def lines(request: HttpRequest, actor: Actor) -> HttpResponse:
    with tenant_scope(ALL):
        return usage_lines(request, actor, named_tenant(request))
