"""Tenants and their quotas."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from cloud.console.guard import for_operators
from cloud.pages.fields import Form, whole_number
from cloud.pages.tenant_delete import ask_before_deletion
from compute.services.tenants_move import move_tenant_with_guests, plan_tenant_move
from tenants import selectors
from tenants.errors import DomainError, InvalidInput, NotFound
from tenants.models import Quota, Tenant, User
from tenants.scope import ALL, tenant_scope
from tenants.services import quotas
from tenants.services.access import Actor, authorize
from tenants.services.tenants import create_tenant, set_tenant_state

_SHOWN = 500


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    """The tree as a list of paths, and the form that plants a new top tenant."""
    form = Form(values={"name": "", "owner": ""})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        try:
            owner = _owner(form.values["owner"])
            tenant = create_tenant(actor=actor, name=form.values["name"], owner=owner)
        except DomainError as error:
            form.refuse(error, fields={"name_taken": "name"})
        else:
            messages.success(request, f"The tenant {tenant.name} is there. Give it limits.")
            return redirect("console:tenant", tenant.id)
    search = request.GET.get("q", "").strip()
    with tenant_scope(ALL):
        rows = selectors.tenants()
        found = list((rows.filter(name__icontains=search) if search else rows)[:_SHOWN])
    paths = selectors.tenant_paths(found)
    used = _used(found)
    table = sorted(((paths[tenant.id], tenant, used.get(tenant.id, {})) for tenant in found), key=lambda row: row[0])
    context = {"rows": table, "form": form, "search": search, "full": len(found) == _SHOWN, "shown": _SHOWN}
    return render(request, "console/tenants/index.html", context, status=400 if form.errors or form.refusal else 200)


def _used(found: list[Tenant]) -> dict[uuid.UUID, dict[str, int]]:
    """What each tenant and all below it use, by resource: one query for the whole list."""
    used: dict[uuid.UUID, dict[str, int]] = {}
    for row in Quota.unscoped.filter(tenant_id__in=[tenant.id for tenant in found]):
        used.setdefault(row.tenant_id, {})[row.resource] = row.used
    return used


def _owner(name: str) -> User | None:
    if not name:
        return None
    try:
        return selectors.get_user(name)
    except NotFound:
        raise InvalidInput.field("/owner", "not_found", "There is no user of this name.") from None


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def detail(request: HttpRequest, actor: Actor, tenant_id: uuid.UUID) -> HttpResponse:
    """One tenant: its limits as a form, its members."""
    with tenant_scope(ALL):
        tenant = selectors.get_tenant(tenant_id)
        authorize(actor, "quota.read", tenant)
        members = list(selectors.members(tenant)[:_SHOWN])
    lines = quotas.summary(tenant)
    form = Form(values={line.resource: "" if line.limit is None else str(line.limit) for line in lines})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        try:
            quotas.set_limits(actor=actor, tenant=tenant, limits=_limits(form.values))
        except DomainError as error:
            form.refuse(error)
        else:
            messages.success(request, f"The limits of {tenant.name} hold from now on.")
            return redirect("console:tenant", tenant.id)
    context = {
        "tenant": tenant,
        "path": selectors.tenant_paths([tenant])[tenant.id],
        "lines": lines,
        "members": members,
        "form": form,
    }
    return render(request, "console/tenants/detail.html", context, status=400 if form.errors or form.refusal else 200)


def _limits(values: dict[str, str]) -> dict[str, int | None]:
    """Read limits as typed; an empty field is no limit."""
    limits: dict[str, int | None] = {}
    errors = []
    for name, text in values.items():
        try:
            limits[name] = whole_number(text) if text else None
        except ValueError:
            errors.append({"pointer": f"/{name}", "code": "out_of_range", "detail": "A whole number, or nothing."})
    if errors:
        raise InvalidInput(errors=errors)
    return limits


def _version(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError:
        raise InvalidInput("Look at what would happen first, then move.") from None


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def move(request: HttpRequest, actor: Actor, tenant_id: uuid.UUID) -> HttpResponse:
    """Another place for a tenant and all below it: first what would happen, then the move. An empty place is the top."""
    with tenant_scope(ALL):
        tenant = selectors.get_tenant(tenant_id)
        given = request.POST if request.method == "POST" else request.GET
        form = Form(values={"parent": given.get("parent", "").strip()})
        plan = None
        if "parent" in given:
            try:
                parent = _parent(form.values["parent"])
                if request.method == "POST":
                    # The plan that was shown is what is agreed to: not a tenant that has changed since.
                    version = _version(request.POST.get("version", ""))
                    move_tenant_with_guests(actor=actor, tenant=tenant, parent=parent, expected_version=version)
                    messages.success(
                        request, f"{tenant.name} stands under {parent.name if parent else 'no other'} now."
                    )
                    return redirect("console:tenant", tenant.id)
                plan = plan_tenant_move(actor=actor, tenant=tenant, parent=parent)
            except DomainError as error:
                form.refuse(error)
        found = [tenant] if plan is None or plan.parent is None else [tenant, plan.parent]
        paths = selectors.tenant_paths(found)
    context = {"tenant": tenant, "path": paths[tenant.id], "form": form, "plan": plan}
    if plan is not None:
        context["target"] = f"{paths[plan.parent.id]}/{tenant.name}" if plan.parent else tenant.name
    return render(request, "console/tenants/move.html", context, status=400 if form.errors or form.refusal else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def delete(request: HttpRequest, actor: Actor, tenant_id: uuid.UUID) -> HttpResponse:
    """What a tenant holds, and its deletion with all of that once its name was typed."""
    with tenant_scope(ALL):
        tenant = selectors.get_tenant(tenant_id)
    asked = ask_before_deletion(request, actor=actor, tenant=tenant)
    if asked.operation is not None:
        return redirect("console:operation", asked.operation.id)
    path = selectors.tenant_paths([tenant])[tenant.id]
    context = {"tenant": tenant, "path": path, "form": asked.form, "contents": asked.contents}
    status = 400 if asked.form.errors or asked.form.refusal else 200
    return render(request, "console/tenants/delete.html", context, status=status)


def _parent(reference: str) -> Tenant | None:
    if not reference:
        return None
    try:
        return selectors.get_tenant(reference)
    except NotFound:
        raise InvalidInput.field("/parent", "not_found", "There is no tenant of this path, name or id.") from None


@require_POST
@for_operators
def switch(request: HttpRequest, actor: Actor, tenant_id: uuid.UUID, active: bool) -> HttpResponse:
    """Disable a tenant and all below it, or enable it again."""
    with tenant_scope(ALL):
        tenant = selectors.get_tenant(tenant_id)
    set_tenant_state(actor=actor, tenant=tenant, active=active)
    messages.success(request, f"{tenant.name} is {'enabled' if active else 'disabled'}.")
    return redirect("console:tenant", tenant_id)
