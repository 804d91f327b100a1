"""Guests on their way from host to host: the list, and the page before one is sent."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_safe

from cloud.console.guard import for_operators
from cloud.pages.live import render_live
from cloud.pages.paging import page
from compute import states
from compute.models import Host
from compute.selectors.migrations import list_migrations
from compute.selectors.pools import get_host, list_hosts
from compute.services.elsewhere import MigrationCheck
from compute.services.instances_move import check_move, move_instance
from compute.services.migrations import check_migration, migrate_instance
from tenants.services.access import Actor


@require_safe
@for_operators
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    state = request.GET.get("state", "")
    rows = list_migrations(actor=actor, open_only=state == "open", state=state if state in states.MIGRATION else None)
    found = page(request, rows)
    context = {
        "migrations": found.items,
        "page": found,
        "state": state,
        "states": ("open", "completed", "failed", "aborted"),
    }
    return render_live(request, "console/migrations/index.html", "console/migrations/_rows.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def migrate(request: HttpRequest, actor: Actor, instance_id: uuid.UUID) -> HttpResponse:
    """Where a running VM would go and what is in the way; a POST sends it."""
    values = request.POST if request.method == "POST" else request.GET
    destination = _destination(actor, values)
    if request.method == "POST":
        reason = values.get("reason", "").strip()
        migration, operation = migrate_instance(
            actor=actor, instance_id=instance_id, destination=destination, reason=reason
        )
        messages.success(request, f"It is being moved to {migration.destination.name}, and runs meanwhile.")
        return redirect("console:operation", operation.id)
    check = check_migration(actor=actor, instance_id=instance_id, destination=destination)
    return render(request, "console/migrations/migrate.html", _context(actor, check, destination))


@require_http_methods(["GET", "HEAD", "POST"])
@for_operators
def move(request: HttpRequest, actor: Actor, instance_id: uuid.UUID) -> HttpResponse:
    """The same for what does not run, or may be stopped for it: `stop` is the tick that says so."""
    values = request.POST if request.method == "POST" else request.GET
    destination, stop = _destination(actor, values), "stop" in values
    if request.method == "POST":
        reason = values.get("reason", "").strip()
        migration, operation = move_instance(
            actor=actor, instance_id=instance_id, destination=destination, stop=stop, reason=reason
        )
        meanwhile = ", and does not run meanwhile" if migration.instance.desired_power == "running" else ""
        messages.success(request, f"It is being moved to {migration.destination.name}{meanwhile}.")
        return redirect("console:operation", operation.id)
    check = check_move(actor=actor, instance_id=instance_id, destination=destination, stop=stop)
    runs = check.instance.desired_power == "running"
    context = {**_context(actor, check, destination), "stop": stop, "runs": runs}
    return render(request, "console/migrations/move.html", context)


def _destination(actor: Actor, values: QueryDict) -> Host | None:
    named = values.get("destination", "")
    return get_host(actor=actor, reference=named) if named else None


def _context(actor: Actor, check: MigrationCheck, destination: Host | None) -> dict[str, Any]:
    hosts = [host for host in list_hosts(actor=actor, pool=check.instance.pool) if host != check.source]
    return {"check": check, "hosts": hosts, "named": destination}
