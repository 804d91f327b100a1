"""R1: an operation that is due gets its turn, whatever became of its doorbell.
R2: a host call whose lease ran out makes its operation due.
R3: a waiting call is rung for again."""

from __future__ import annotations

import uuid

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from compute import states
from compute.models import HostCall, Operation

BATCH = 200


def due_operations() -> list[uuid.UUID]:
    """Return ids of operations that could go on now, oldest first."""
    answered = HostCall.objects.filter(operation=OuterRef("pk"), state="answered", settled=False)
    rows = Operation.objects.filter(state__in=states.OPERATION_DUE).filter(
        Q(next_attempt_at__lte=Now()) | Exists(answered) | Q(deadline_at__lte=Now(), state="running")
    )
    return list(rows.order_by("next_attempt_at").values_list("id", flat=True)[:BATCH])


def waiting_calls() -> list[tuple[uuid.UUID, uuid.UUID]]:
    """Return (host id, call id) of the oldest waiting call of each host that is up: one ring a host is enough."""
    rows = (
        HostCall.objects.filter(state="waiting", host__observed_state__in=["up", "unknown", "suspect"])
        .filter(Q(not_before__isnull=True) | Q(not_before__lte=Now()))
        .order_by("host_id", "created_at")
        .distinct("host_id")
    )
    return list(rows.values_list("host_id", "id")[:BATCH])
