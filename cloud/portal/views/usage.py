"""What the tenant and all below it used, and what that costs."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from cloud.pages.shares import pool_bars
from cloud.pages.usage import usage_context, usage_lines
from cloud.portal.desk import Desk, at_desk


@require_safe
@at_desk
def usage(request: HttpRequest, desk: Desk) -> HttpResponse:
    context = usage_context(request, desk.actor, desk.tenant)
    bars = pool_bars(actor=desk.actor, tenant=desk.tenant)
    return render(request, "portal/usage.html", {**context, "desk": desk, "share_bars": bars})


@require_safe
@at_desk
def lines(request: HttpRequest, desk: Desk) -> HttpResponse:
    return usage_lines(request, desk.actor, desk.tenant)
