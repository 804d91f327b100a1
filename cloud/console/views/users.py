"""Users of the cloud."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from cloud.console.guard import for_operators
from cloud.pages.fields import Form
from tenants import selectors
from tenants.errors import DomainError
from tenants.services.access import Actor, authorize
from tenants.services.passwords import set_password
from tenants.services.users import create_user, update_user

_SHOWN = 500


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    """The list, and the form that makes a user."""
    authorize(actor, "user.read", None)
    form = Form(values={"username": "", "email": "", "password": "", "is_operator": ""})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "") for name in form.values}
        try:
            user = create_user(
                actor=actor,
                username=form.values["username"].strip(),
                email=form.values["email"].strip(),
                password=form.values["password"] or None,
                is_operator=form.values["is_operator"] == "yes",
            )
        except DomainError as error:
            form.refuse(error, fields={"name_taken": "username"})
        else:
            messages.success(request, f"{user.username} is there. Add the name to a tenant as a member.")
            return redirect("console:users")
    search = request.GET.get("q", "").strip()
    rows = selectors.users()
    found = list((rows.filter(username__icontains=search) if search else rows)[:_SHOWN])
    context = {"users": found, "form": form, "search": search, "full": len(found) == _SHOWN, "shown": _SHOWN}
    return render(request, "console/users.html", context, status=400 if form.errors or form.refusal else 200)


@sensitive_post_parameters()
@require_POST
@for_operators
def change(request: HttpRequest, actor: Actor, user_id: uuid.UUID, verb: str) -> HttpResponse:
    """Disable or enable a user, or set a password."""
    user = selectors.get_user(user_id)
    if verb == "password":
        set_password(actor=actor, user=user, new_password=request.POST.get("new_password", ""))
        messages.success(request, f"The password of {user.username} is set; their sessions have ended.")
    else:
        update_user(actor=actor, user=user, is_active=verb == "enable")
        messages.success(request, f"{user.username} is {'enabled' if verb == 'enable' else 'disabled'}.")
    return redirect("console:users")
