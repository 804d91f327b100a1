"""Between Django and a page: who asks, and what becomes of a domain error. No page answers 500 for a refusal."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.http import url_has_allowed_host_and_scheme

from cloud.problems import STATUSES
from tenants.errors import DomainError
from tenants.models import User
from tenants.services.access import Actor, actor_for_user

View = Callable[..., HttpResponse]


def current_user(request: HttpRequest) -> User:
    """The logged-in user of a request that has passed the guard."""
    assert isinstance(request.user, User)
    return request.user


def actor_of(request: HttpRequest, tenant_id: uuid.UUID | None = None) -> Actor:
    """The actor behind a logged-in request."""
    return actor_for_user(
        user=current_user(request), tenant_id=tenant_id, request_id=getattr(request, "request_id", "")
    )


def to_login(request: HttpRequest) -> HttpResponse:
    """Send a visitor to the log-in page and back; a live fragment makes the whole page do so instead of its own box."""
    if is_fragment(request):
        response = HttpResponse(status=401)
        response["HX-Refresh"] = "true"
        return response
    return redirect_to_login(request.get_full_path())


def is_fragment(request: HttpRequest) -> bool:
    """Whether htmx asks for the live part of a page only. Links and forms that it boosts want the whole page."""
    return request.headers.get("HX-Request") == "true" and request.headers.get("HX-Boosted") != "true"


def answer_errors(view: View) -> View:
    """Turn a DomainError that a view did not handle into a page, or, after a POST, into a notice where one came from."""

    @functools.wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            response = view(request, *args, **kwargs)
        except DomainError as error:
            response = _refusal(request, error)
        # Pages show tenants' data and forms' tokens: nothing of them belongs in a cache.
        response.setdefault("Cache-Control", "no-store")
        return response

    return wrapped


def _refusal(request: HttpRequest, error: DomainError) -> HttpResponse:
    status, title = STATUSES[error.code]
    if request.method == "POST" and status not in (401, 404):
        messages.error(request, error.detail)
        return HttpResponseRedirect(back_to(request))
    return render(request, "cenote/refused.html", {"status": status, "title": title, "error": error}, status=status)


def back_to(request: HttpRequest, otherwise: str = "/") -> str:
    """Where a form came from: its `next` field, else the referring page; only ever a page of ours."""
    for target in (request.POST.get("next", ""), request.headers.get("Referer", "")):
        if target and url_has_allowed_host_and_scheme(
            target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
        ):
            return target
    return otherwise
