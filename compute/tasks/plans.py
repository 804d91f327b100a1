"""The doorbell of a plan: one of its moves has ended, or it was applied."""

from __future__ import annotations

import uuid

from celery import shared_task

from compute.services.plan_turns import take_turn


@shared_task(name="compute.plan_turn")  # type: ignore[untyped-decorator]
def plan_turn(plan_id: str) -> None:
    """Begin the next steps of a plan. A forged or old id finds nothing."""
    take_turn(plan_id=uuid.UUID(str(plan_id)))
