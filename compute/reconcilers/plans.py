"""R1: a plan that is being carried out has its turn, whatever died meanwhile: how its moves ended is written down, the next begin.
R2: a proposal that nobody applied in time is expired."""

from __future__ import annotations

from django.db.models import Exists, OuterRef, Q

from compute import states
from compute.models import Plan, PlanStep
from compute.services.plan_turns import take_turn
from compute.services.plans import expire_plans


def run() -> int:
    """Return how many steps were begun and proposals ended."""
    moving = PlanStep.objects.filter(plan=OuterRef("pk"), state="running")
    found = Plan.objects.filter(Q(state__in=states.PLAN_OPEN) | Exists(moving), applied_at__isnull=False)
    ids = list(found.order_by("applied_at").values_list("id", flat=True))
    return sum(take_turn(plan_id=plan_id) for plan_id in ids) + expire_plans()
