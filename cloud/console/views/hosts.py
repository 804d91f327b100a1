"""Hosts: what they offer, what they carry, what they showed of themselves; and the way in for new ones."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from cloud.console.guard import for_operators
from cloud.pages.fields import Form
from cloud.pages.live import render_live
from cloud.pages.paging import page_by_name
from cloud.pages.shares import host_bars
from compute.models import Pool
from compute.selectors.instances import list_instances, status_of
from compute.selectors.lookup import find_pool
from compute.selectors.operations import list_operations, progress_of
from compute.selectors.pools import get_host, list_hosts, list_pools, told_by
from compute.services import hosts
from tenants.errors import DomainError
from tenants.services.access import Actor

_SHOWN_INSTANCES = 200
_IN_SERVICE = {"in-service": True, "out-of-service": False}


@require_safe
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    """The list by name; search and filters live in the URL."""
    search, state = request.GET.get("q", "").strip()[:64], request.GET.get("state", "")
    pools = list(Pool.objects.order_by("name"))
    pool = next((pool for pool in pools if pool.name == request.GET.get("pool", "")), None)
    rows = list_hosts(actor=actor, pool=pool, search=search, in_service=_IN_SERVICE.get(state))
    found = page_by_name(request, rows)
    context = {
        "hosts": found.items,
        "page": found,
        "search": search,
        "state": state,
        "pool": pool,
        "pools": pools,
        "filtered": bool(search or state in _IN_SERVICE or pool),
    }
    return render_live(request, "console/hosts/index.html", "console/hosts/_rows.html", context)


@require_safe
@for_operators
def detail(request: HttpRequest, actor: Actor, host_id: uuid.UUID) -> HttpResponse:
    host = get_host(actor=actor, reference=str(host_id))
    instances = list_instances(actor=actor, host=host)[:_SHOWN_INSTANCES]
    recent = list_operations(actor=actor, target_id=host.id)[:6]
    context = {
        "host": host,
        "told": told_by(host),
        "share_bars": host_bars(actor=actor, host=host),
        "instances": [(instance, status_of(instance)) for instance in instances],
        "operations": [(operation, progress_of(operation)) for operation in recent],
    }
    return render_live(request, "console/hosts/detail.html", "console/hosts/_detail.html", context)


@require_POST
@for_operators
def act(request: HttpRequest, actor: Actor, host_id: uuid.UUID, verb: str) -> HttpResponse:
    """Enable, disable, prove again, or let go of a host."""
    if verb == "enable":
        host = hosts.enable_host(actor=actor, host_id=host_id)
        messages.success(request, f"{host.name} takes new instances again.")
    elif verb == "disable":
        host = hosts.disable_host(actor=actor, host_id=host_id, reason=request.POST.get("reason", "").strip())
        messages.success(request, f"{host.name} takes no new instances. What runs there goes on.")
    elif verb == "prove":
        host, operation = hosts.prove_host(actor=actor, host_id=host_id)
        messages.info(request, f"{host.name} was told to prove itself.")
        return redirect("console:operation", operation.id)
    else:
        host = hosts.remove_host(actor=actor, host_id=host_id)
        messages.success(request, "The host was let go. Its tokens are dead.")
        return redirect("console:hosts")
    return redirect("console:host", host_id)


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def join(request: HttpRequest, actor: Actor) -> HttpResponse:
    """Make a one-time join token. Its text stands on this one answer and nowhere else."""
    pools = list(list_pools(actor=actor))
    form = Form(values={"name": "", "pool": str(pools[0].id) if pools else ""})
    secret, token = "", None
    if request.method == "POST":
        form.values = {name: request.POST.get(name, "").strip() for name in form.values}
        try:
            pool = find_pool(form.values["pool"])
            token, secret = hosts.create_join_token(actor=actor, pool=pool, name=form.values["name"])
        except DomainError as error:
            form.refuse(error, fields={"not_found": "pool"})
    context = {
        "pools": pools,
        "form": form,
        "token": token,
        "command": f"deploy/join {settings.CLOUD_URL} {secret}" if secret else "",
    }
    return render(request, "console/hosts/join.html", context, status=400 if form.errors or form.refusal else 200)
