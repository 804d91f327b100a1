"""Who belongs to the tenant, and as what."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from cloud.pages.fields import Form
from cloud.portal.desk import Desk, at_desk
from tenants import roles, selectors
from tenants.errors import DomainError, InvalidInput, NotFound
from tenants.models import User
from tenants.scope import tenant_scope
from tenants.services import members
from tenants.services.access import authorize, standing, visible_tenant_ids


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """The list, and the form that adds somebody by user name."""
    authorize(desk.actor, "member.read", desk.tenant)
    form = Form(values={"user": "", "role": roles.OPERATOR})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "") for name in form.values}
        try:
            # Before the name is looked up: only those who may add somebody learn which names exist.
            authorize(desk.actor, "member.create", desk.tenant)
            user = _user_named(form.values["user"].strip())
            members.add_member(actor=desk.actor, tenant=desk.tenant, user=user, role=form.values["role"])
        except DomainError as error:
            form.refuse(error, fields={"conflict": "user"})
        else:
            messages.success(request, f"{user.username} is now {form.values['role']} here.")
            return redirect("members")
    with tenant_scope(visible_tenant_ids(desk.actor, "member.read")):
        rows = list(selectors.members(desk.tenant)[:500])
    own = roles.rank(standing(actor=desk.actor, tenant=desk.tenant).role)
    context = {
        "desk": desk,
        "form": form,
        "rows": [(row, roles.rank(row.role) <= own) for row in rows],
        "roles": [role for role in reversed(roles.ROLES) if roles.rank(role) <= own],
    }
    return render(request, "portal/members.html", context, status=400 if form.errors or form.refusal else 200)


def _user_named(name: str) -> User:
    """Find a user by name only (an id would be one more way to guess). Raises InvalidInput."""
    try:
        uuid.UUID(name)
    except ValueError:
        try:
            return selectors.get_user(name)
        except NotFound:
            pass
    raise InvalidInput.field("/user", "not_found", "There is no user of this name. Operators of the cloud make users.")


@require_POST
@at_desk
def change(request: HttpRequest, desk: Desk, user_id: uuid.UUID) -> HttpResponse:
    member = _member(desk, user_id)
    role = request.POST.get("role", "")
    members.change_role(actor=desk.actor, tenant=desk.tenant, user=member, role=role)
    messages.success(request, f"{member.username} is now {role} here.")
    return redirect("members")


@require_POST
@at_desk
def remove(request: HttpRequest, desk: Desk, user_id: uuid.UUID) -> HttpResponse:
    member = _member(desk, user_id)
    members.remove_member(actor=desk.actor, tenant=desk.tenant, user=member)
    messages.success(request, f"{member.username} is no longer a member.")
    return redirect("home" if member.id == desk.user.id else "members")


def _member(desk: Desk, user_id: uuid.UUID) -> User:
    authorize(desk.actor, "member.read", desk.tenant)
    with tenant_scope({desk.tenant.id}):
        return selectors.get_member(desk.tenant, user_id).user
