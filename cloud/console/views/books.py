"""The books: every invariant, and what the last check found. A worker checks; a request only reads the result."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from compute.selectors.books import read_books
from compute.selectors.invariants import SETTLE_SECONDS
from compute.services.books import request_check
from tenants.services.access import Actor


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def books(request: HttpRequest, actor: Actor) -> HttpResponse:
    if request.method == "POST":
        with transaction.atomic():
            request_check(actor=actor)
        messages.success(request, "A check has been asked for; what it finds appears here.")
        return redirect("console:books")
    found = read_books(actor=actor)
    # Two periods and a check's own time: later than that, nobody is checking.
    late = timezone.now() - timedelta(seconds=2 * settings.BOOKS_SECONDS + 60)
    context = {
        "books": found,
        "overdue": found.checked_at is not None and found.checked_at < late,
        "settle": SETTLE_SECONDS,
        "minutes": settings.BOOKS_SECONDS // 60,
    }
    return render_live(request, "console/books.html", "console/_books.html", context)
