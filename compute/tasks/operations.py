"""The doorbell of one operation."""

from __future__ import annotations

import uuid

from celery import shared_task

from compute.sagas.engine import take_turn


@shared_task(name="compute.operation_turn")  # type: ignore[untyped-decorator]
def operation_turn(operation_id: str) -> None:
    """Give an operation its turn. A forged or old id finds nothing due and does nothing."""
    try:
        parsed = uuid.UUID(str(operation_id))
    except ValueError:
        return
    take_turn(parsed)
