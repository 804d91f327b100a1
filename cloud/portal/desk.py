"""The desk a person sits at in the portal: who they are, the tenant they look at, what they may do there."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from cloud.pages.guard import View, actor_of, answer_errors, current_user, to_login
from tenants import roles, selectors
from tenants.models import Tenant, User
from tenants.scope import tenant_scope
from tenants.services.access import Actor, standing, visible_tenant_ids

SESSION_KEY = "tenant_id"
_SHOWN_IN_SWITCHER = 12


@dataclass(frozen=True, slots=True)
class Desk:
    """`can` holds the permissions of this person in this tenant, for showing and hiding; services check again."""

    user: User
    actor: Actor
    tenant: Tenant
    role: str
    can: frozenset[str]
    tenants: list[Tenant]
    more_tenants: bool
    disabled: bool
    deleting: bool  # it, or one above: with all that it holds


def reachable(user: User, *, name: str = "", only: uuid.UUID | None = None, most: int) -> list[Tenant]:
    """Up to `most` tenants that a person may look at: an operator all, others those in which they have a role.

    `name` narrows to names that hold it, `only` to one tenant.
    """
    if user.is_operator:
        with tenant_scope(visible_tenant_ids(Actor(username=user.username, user_id=user.id, is_operator=True))):
            rows = selectors.tenants().filter(name__icontains=name)
        return list((rows if only is None else rows.filter(id=only))[:most])
    own = [belonging.tenant for belonging in selectors.belongings(user)]
    found = [tenant for tenant in own if name.lower() in tenant.name.lower() and only in (None, tenant.id)]
    return found[:most]


def chosen(request: HttpRequest) -> uuid.UUID | None:
    """The tenant that was chosen in this session."""
    try:
        return uuid.UUID(request.session.get(SESSION_KEY, ""))
    except ValueError:
        return None


def seat(request: HttpRequest, tenant_id: uuid.UUID | None = None) -> Desk | None:
    """The desk for a request, in `tenant_id`, in the tenant chosen before, or in the first; None for one without any."""
    user = current_user(request)
    choice = reachable(user, most=_SHOWN_IN_SWITCHER + 1)
    wanted = tenant_id or chosen(request)
    found = next((tenant for tenant in choice if tenant.id == wanted), None)
    if found is None and wanted is not None:
        found = next(iter(reachable(user, only=wanted, most=1)), None)
    tenant = found or next(iter(choice), None)
    if tenant is None:
        return None
    actor = actor_of(request, tenant.id)
    here = standing(actor=actor, tenant=tenant)
    role = here.role or roles.VIEWER
    can = roles.ALL_PERMISSIONS if here.as_operator else roles.PERMISSIONS_BY_ROLE[role]
    return Desk(
        user=user,
        actor=actor,
        tenant=tenant,
        role="cloud operator" if here.as_operator else role,
        can=frozenset(permission.replace(".", "_") for permission in can),
        tenants=choice[:_SHOWN_IN_SWITCHER],
        more_tenants=len(choice) > _SHOWN_IN_SWITCHER,
        disabled=not here.active,
        deleting=not here.active and tenant.ancestors(include_self=True).filter(state=Tenant.State.DELETING).exists(),
    )


def at_desk(view: Callable[..., HttpResponse]) -> View:
    """Guard of the portal's pages: logged in, with a tenant. The view gets the desk as its second argument."""

    @functools.wraps(view)
    @answer_errors
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return to_login(request)
        desk = seat(request)
        if desk is None:
            if current_user(request).is_operator:
                return redirect("console:overview")
            return render(request, "portal/no_tenant.html", {})
        request.desk = desk  # type: ignore[attr-defined]  # the frame's template reads it
        return view(request, desk, *args, **kwargs)

    return wrapped


def move_to(request: HttpRequest, desk: Desk, tenant_id: uuid.UUID) -> Desk:
    """The desk in the tenant of the object that is shown: a link from a colleague opens whichever tenant one was in."""
    if desk.tenant.id == tenant_id:
        return desk
    moved = seat(request, tenant_id)
    if moved is None or moved.tenant.id != tenant_id:
        return desk
    request.session[SESSION_KEY] = str(tenant_id)
    request.desk = moved  # type: ignore[attr-defined]
    return moved
