"""R1: an instance whose lease has ended is stopped or deleted, as its lease says, in a transaction of its own.
R2: with an operation open on it that waits; whoever is stopped already, or being deleted, is left alone.
R3: a deletion that failed (its host is down, say) is ordered again after a pause, until it is done or the lease is
renewed. A stop that failed left the wish, and is `reconcilers.instances`' to repeat."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Final

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from compute import states
from compute.models import Instance, Operation
from compute.models.instance import LEASE_HAS_WORK
from compute.services.leases import end_lease

log = logging.getLogger(__name__)
PAUSE_SECONDS: Final = 30
_A_ROUND: Final = 500


def run() -> int:
    """Return how many stops and deletions were ordered."""
    return sum(_end(instance_id) for instance_id in due_leases())


def due_leases() -> list[uuid.UUID]:
    """Return the instances whose leases have ended by the database's clock and wait for nothing, oldest end first."""
    on_it = Operation.objects.filter(target_type="instance", target_id=OuterRef("pk"))
    busy = Q(state__in=states.OPERATION_OPEN) | Q(
        state="failed", finished_at__gt=Now() - timedelta(seconds=PAUSE_SECONDS)
    )
    ended = Instance.unscoped.filter(LEASE_HAS_WORK, lease_ends_at__lte=Now())
    return list(
        ended.filter(~Exists(on_it.filter(busy)))
        .order_by("lease_ends_at", "id")
        .values_list("id", flat=True)[:_A_ROUND]
    )


def _end(instance_id: uuid.UUID) -> bool:
    try:
        return end_lease(instance_id=instance_id)
    except Exception:  # one that fails must not keep the others' leases from ending
        log.exception("the lease of instance %s has ended and could not be acted on", instance_id)
        return False
