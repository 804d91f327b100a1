"""One's own account."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from cloud.pages.fields import Form
from cloud.pages.guard import actor_of, answer_errors, current_user, to_login
from cloud.portal.desk import seat
from tenants.errors import DomainError, InvalidInput
from tenants.services.passwords import change_password


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@answer_errors
def account(request: HttpRequest) -> HttpResponse:
    """Change the password. Needs no tenant: whoever has none yet has a password all the same."""
    if not request.user.is_authenticated:
        return to_login(request)
    form = Form(values={"current_password": "", "new_password": "", "repeated": ""})
    if request.method == "POST":
        try:
            if request.POST.get("new_password", "") != request.POST.get("repeated", ""):
                raise InvalidInput.field("/repeated", "differs", "The two new passwords differ.")
            user = change_password(
                actor=actor_of(request),
                current_password=request.POST.get("current_password", ""),
                new_password=request.POST.get("new_password", ""),
            )
        except DomainError as error:
            form.refuse(error)
        else:
            # All other sessions end with the old password; this one goes on.
            update_session_auth_hash(request, user)
            messages.success(request, "Your password is changed. All your other sessions have ended.")
            return redirect("account")
    desk = seat(request)
    request.desk = desk  # type: ignore[attr-defined]
    context = {"desk": desk, "form": form, "user": current_user(request)}
    return render(request, "portal/account.html", context, status=400 if form.errors or form.refusal else 200)
