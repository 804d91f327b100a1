"""API tokens: one's own, and others' for those who manage them."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from cloud.pages.fields import Form
from cloud.portal.desk import Desk, at_desk
from tenants import selectors
from tenants.errors import DomainError, InvalidInput
from tenants.scope import tenant_scope
from tenants.services import tokens
from tenants.services.access import visible_tenant_ids

_LIVES = {"30": "30 days", "90": "90 days", "365": "a year", "": "no end"}


@require_http_methods(["GET", "HEAD", "POST"])
@at_desk
def index(request: HttpRequest, desk: Desk) -> HttpResponse:
    """The list, and the form that makes one. A new token's text stands on this one answer and nowhere else."""
    form = Form(values={"name": "", "scope": "full", "days": "90"})
    made, text = None, ""
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "") for name in form.values}
        try:
            made, text = tokens.create_token(
                actor=desk.actor,
                user=desk.user,
                tenant=desk.tenant,
                name=form.values["name"].strip(),
                scope=form.values["scope"],
                expires_at=_expiry(form.values["days"]),
            )
            form.values["name"] = ""
        except DomainError as error:
            form.refuse(error, fields={"expires_at": "days", "user": "name"})
    with tenant_scope(visible_tenant_ids(desk.actor, "token.read")):
        mine = None if "token_manage" in desk.can else desk.user
        rows = list(selectors.tokens(desk.tenant, user=mine).order_by("-created_at")[:500])
    context = {"desk": desk, "form": form, "rows": rows, "made": made, "text": text, "lives": _LIVES}
    return render(request, "portal/tokens.html", context, status=400 if form.errors or form.refusal else 200)


def _expiry(days: str) -> datetime | None:
    if days not in _LIVES:
        raise InvalidInput.field("/days", "unknown", "Choose one of the offered times.")
    return timezone.now() + timedelta(days=int(days)) if days else None


@require_POST
@at_desk
def revoke(request: HttpRequest, desk: Desk, token_id: uuid.UUID) -> HttpResponse:
    with tenant_scope(visible_tenant_ids(desk.actor, "token.read")):
        token = selectors.get_token(desk.tenant, token_id)
    tokens.revoke_token(actor=desk.actor, token=token)
    messages.success(request, f"The token {token.name} is revoked: the next request with it is refused.")
    return redirect("tokens")
