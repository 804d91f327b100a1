"""The doorbells of a fence and of an evacuation. The only place where a fence driver is run: it may take minutes."""

from __future__ import annotations

import logging
import uuid

from celery import shared_task
from django.conf import settings

from compute.fencing.base import FenceFailed
from compute.fencing.registry import open_fence
from compute.services import evacuations, fences

log = logging.getLogger(__name__)


@shared_task(name="compute.fence_try")  # type: ignore[untyped-decorator]
def fence_try(fence_id: str) -> None:
    """Switch a host off and look, once. Only what the driver saw is a proof; a worker that dies here proved nothing."""
    parsed = uuid.UUID(str(fence_id))
    target = fences.begin_try(fence_id=parsed)
    if target is None:
        return
    try:
        evidence = open_fence(settings.FENCING_FILE, target.name).power_off(target)
    except FenceFailed as error:
        fences.record_failure(fence_id=parsed, error=str(error))
    except Exception as error:
        # A library's surprise. Its text may hold what was sent to the controller: its kind has to do.
        fences.record_failure(fence_id=parsed, error=f"the driver failed: {type(error).__name__}")
    else:
        fences.record_proof(fence_id=parsed, evidence=evidence)


@shared_task(name="compute.evacuation_turn")  # type: ignore[untyped-decorator]
def evacuation_turn(evacuation_id: str) -> None:
    """Start the next guests of an evacuation. A forged or old id finds nothing."""
    evacuations.take_turn(evacuation_id=uuid.UUID(str(evacuation_id)), blocked_too=False)
