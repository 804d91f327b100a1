"""Reading plans, for operators."""

from __future__ import annotations

import uuid

from django.db.models import Count, Prefetch, Q, QuerySet

from compute import states
from compute.models import Host, Plan, PlanStep
from tenants.errors import NotFound
from tenants.services.access import Actor, authorize


def list_plans(
    *, actor: Actor, host: Host | None = None, state: str | None = None, open_only: bool = False
) -> QuerySet[Plan]:
    """Return plans, newest first, annotated: `moves`, `done`, `in_the_way` (steps that failed or are blocked).

    Raises PermissionDenied.
    """
    authorize(actor, "migration.read", None)
    rows: QuerySet[Plan] = Plan.objects.select_related("pool", "host").annotate(
        moves=Count("steps", filter=~Q(steps__way="none") & ~Q(steps__state="skipped")),
        done=Count("steps", filter=Q(steps__state="done")),
        in_the_way=Count("steps", filter=Q(steps__state__in=["failed", "blocked"])),
    )
    if host is not None:
        rows = rows.filter(host=host)
    if state is not None:
        rows = rows.filter(state=state)
    if open_only:
        rows = rows.filter(state__in=states.PLAN_OPEN)
    return rows.order_by("-created_at", "-id")


def get_plan(*, actor: Actor, plan_id: uuid.UUID) -> Plan:
    """Return one plan with its steps joined, in a constant number of queries. Raises NotFound, PermissionDenied."""
    steps = PlanStep.objects.select_related("instance__tenant", "source", "destination", "migration__operation")
    rows = list_plans(actor=actor).prefetch_related(Prefetch("steps", queryset=steps.order_by("number")))
    plan: Plan | None = rows.filter(id=plan_id).first()
    if plan is None:
        raise NotFound
    return plan
