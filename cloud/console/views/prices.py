"""The price book: what an hour costs, what it did, and what it will."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from cloud.console.guard import for_operators
from cloud.pages.fields import Form
from compute.models import PRICED, Flavor, Pool
from compute.selectors.lookup import find_flavor, find_pool
from compute.selectors.prices import list_prices
from compute.services.prices import end_price, set_price
from tenants.errors import DomainError, InvalidInput
from tenants.services.access import Actor

_SHOWN = 500


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    book = list_prices(actor=actor, history=True)
    currency = book.values_list("currency", flat=True).first() or "EUR"
    form = Form(
        values={"resource": "vcpu", "per_hour": "", "currency": currency, "flavor": "", "pool": "", "valid_from": ""}
    )
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        try:
            price = set_price(actor=actor, **_parsed(form.values))
        except DomainError as error:
            form.refuse(error)
        else:
            messages.success(request, f"{price} an hour, from {price.valid_from:%Y-%m-%d %H:%M:%S} UTC on.")
            return redirect("console:prices")
    history = request.GET.get("history") == "yes"
    context = {
        "form": form,
        "prices": list((book if history else list_prices(actor=actor))[:_SHOWN]),
        "now": timezone.now(),
        "history": history,
        "resources": PRICED,
        "flavors": Flavor.objects.filter(active=True),
        "pools": Pool.objects.all(),
    }
    return render(request, "console/prices.html", context, status=400 if form.errors or form.refusal else 200)


@require_POST
@for_operators
def end(request: HttpRequest, actor: Actor, price_id: uuid.UUID) -> HttpResponse:
    end_price(actor=actor, price_id=price_id)
    messages.success(request, "The price has ended.")
    return redirect("console:prices")


def _parsed(values: dict[str, Any]) -> dict[str, Any]:
    """Turn what was typed into a service's arguments. Raises InvalidInput, NotFound."""
    try:
        per_hour = Decimal(values["per_hour"])
    except InvalidOperation:
        raise InvalidInput.field("/per_hour", "invalid", "Give a price such as 0.0125.")
    return {
        "resource": values["resource"],
        "per_hour": per_hour,
        "currency": values["currency"].upper(),
        "flavor": find_flavor(values["flavor"]) if values["flavor"] else None,
        "pool": find_pool(values["pool"]) if values["pool"] else None,
        "valid_from": _moment(values["valid_from"]),
    }


def _moment(text: str) -> datetime | None:
    """Read a browser's date and time, which has no zone: it is UTC, as the page says."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidInput.field("/valid_from", "invalid", "Give a date and a time.")
