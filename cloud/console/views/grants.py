"""Promises: who is promised what in which pool, whether it can be kept, and what stands against it."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from cloud.console.guard import for_operators
from cloud.pages.fields import Form, whole_number
from compute.models import Flavor
from compute.selectors.grants import list_alarms, list_grants, list_promises
from compute.selectors.lookup import find_flavor, find_pool
from compute.selectors.pools import list_pools
from compute.services.grants import Terms, create_grant, delete_grant, update_grant
from tenants import selectors as tenants
from tenants.errors import DomainError, InvalidInput
from tenants.scope import ALL, tenant_scope
from tenants.services.access import Actor

_SHOWN = 500


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    form = Form(values={"tenant": "", "pool": "", "unit": "", "units": "", "shares": "100"})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        values = form.values
        try:
            with tenant_scope(ALL):
                tenant = tenants.get_tenant(values["tenant"])
            grant = create_grant(
                actor=actor,
                tenant=tenant,
                pool=find_pool(values["pool"]),
                flavor=find_flavor(values["unit"]) if values["unit"] else None,
                terms=Terms(
                    units=_whole("units", values["units"]), shares={"vcpus": _whole("shares", values["shares"])}
                ),
            )
        except DomainError as error:
            form.refuse(error, fields={"not_found": "tenant", "ambiguous_name": "tenant"})
        else:
            messages.success(request, f"{grant.tenant.name} is promised {grant} in {grant.pool.name}.")
            return redirect("console:grants")
    context = {
        "form": form,
        "alarms": list(list_alarms(actor=actor).order_by("-raised_at")[:_SHOWN]),
        "promises": list_promises(actor=actor),
        "grants": list(list_grants(actor=actor).order_by("pool__name", "tenant__path")[:_SHOWN]),
        "pools": list(list_pools(actor=actor)),
        "flavors": Flavor.objects.filter(active=True),
    }
    return render(request, "console/grants.html", context, status=400 if form.errors or form.refusal else 200)


@require_POST
@for_operators
def change(request: HttpRequest, actor: Actor, grant_id: uuid.UUID) -> HttpResponse:
    units = _whole("units", request.POST.get("units", ""))
    grant = update_grant(actor=actor, grant_id=grant_id, terms=Terms(units=units))
    messages.success(request, f"{grant.tenant.name} is promised {grant} in {grant.pool.name} now.")
    return redirect("console:grants")


@require_POST
@for_operators
def end(request: HttpRequest, actor: Actor, grant_id: uuid.UUID) -> HttpResponse:
    delete_grant(actor=actor, grant_id=grant_id)
    messages.success(request, "The promise is taken back; its guests go on.")
    return redirect("console:grants")


def _whole(field: str, text: str) -> int:
    try:
        return whole_number(text.strip())
    except ValueError:
        raise InvalidInput.field(f"/{field}", "invalid", "Give a whole number.")
