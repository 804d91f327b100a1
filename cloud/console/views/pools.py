"""Pools: hosts that share storage, a network and ratios."""

from __future__ import annotations

import uuid

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from cloud.console.guard import for_operators
from cloud.pages.fields import Form
from compute.selectors.pools import list_pools
from compute.services.catalog import create_pool, update_pool
from tenants.errors import DomainError, InvalidInput
from tenants.services.access import Actor


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    form = Form(values={"name": "", "cidr": "", "vcpu_ratio": "4", "policy": "spread", "description": ""})
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        try:
            if form.values["policy"] not in ("spread", "pack"):
                raise InvalidInput.field("/policy", "unknown", "A policy is spread or pack.")
            create_pool(
                actor=actor,
                name=form.values["name"],
                cidr=form.values["cidr"],
                vcpu_ratio=_ratio(form.values["vcpu_ratio"]),
                policy=form.values["policy"],
                description=form.values["description"][:255],
            )
        except DomainError as error:
            form.refuse(error, fields={"name_taken": "name"})
        else:
            messages.success(request, f"The pool {form.values['name']} is there. Make a join token for its first host.")
            return redirect("console:pools")
    context = {"pools": list(list_pools(actor=actor)), "form": form}
    return render(request, "console/pools.html", context, status=400 if form.errors or form.refusal else 200)


@require_POST
@for_operators
def ratio(request: HttpRequest, actor: Actor, pool_id: uuid.UUID) -> HttpResponse:
    """Change how many vCPU a thread carries."""
    pool = update_pool(actor=actor, pool_id=pool_id, vcpu_ratio=_ratio(request.POST.get("vcpu_ratio", "")))
    messages.success(request, f"{pool.name} carries {pool.vcpu_ratio:g} vCPU a thread now.")
    return redirect("console:pools")


def _ratio(text: str) -> float:
    """Read a ratio. "nan" and "inf" are floats to Python, and no ratios."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value <= 64:
        raise InvalidInput.field("/vcpu_ratio", "out_of_range", "The ratio is a number from 1 to 64.")
    return value
