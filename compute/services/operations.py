"""What people may do to an operation: cancel it, or have a stuck one tried again."""

from __future__ import annotations

import uuid

from django.db import transaction
from django.db.models.functions import Now

from compute import outbox, states
from compute.errors import InvalidState
from compute.models import Operation
from compute.models.operation import GOES_ON
from compute.transitions import move
from tenants.errors import NotFound
from tenants.services import audit
from tenants.services.access import Actor, authorize


def cancel_operation(*, actor: Actor, operation_id: uuid.UUID) -> Operation:
    """Ask an open operation to stop. It unwinds at its next step boundary where its kind can; others run to their end.

    Raises NotFound, PermissionDenied, InvalidState (it has ended).
    """
    with transaction.atomic(durable=True):
        operation = _find(actor, operation_id, "operation.cancel")
        # Without the row lock on purpose: a turn may hold it, and this flag is read again at each boundary.
        changed = Operation.objects.filter(id=operation_id, state__in=states.OPERATION_OPEN).update(
            cancel_requested=True
        )
        if not changed:
            raise InvalidState(f"The operation has ended: {operation.state}.", state=operation.state)
        outbox.ring("op", operation_id)
        audit.record(actor=actor, action="operation.cancel", tenant=operation.tenant_id, target=_target(operation))
        operation.cancel_requested = True
        return operation


def retry_operation(*, actor: Actor, operation_id: uuid.UUID) -> Operation:
    """Have a stuck operation try again, after somebody looked: to unwind, or what it was at where it may not unwind.

    Raises NotFound, PermissionDenied, InvalidState.
    """
    with transaction.atomic(durable=True):
        operation = _find(actor, operation_id, "operation.retry")
        if operation.state != "stuck":
            raise InvalidState(
                f"Only a stuck operation can be tried again; this one is {operation.state}.", state=operation.state
            )
        if operation.scratch.pop(GOES_ON, False):
            move(operation, "running", attempts=0, error=None, scratch=operation.scratch, next_attempt_at=Now())
        else:
            move(operation, "unwinding", attempts=0, next_attempt_at=Now())
        outbox.ring("op", operation_id)
        audit.record(actor=actor, action="operation.retry", tenant=operation.tenant_id, target=_target(operation))
        return operation


def _target(operation: Operation) -> tuple[str, uuid.UUID, str]:
    return ("operation", operation.id, f"{operation.kind} {operation.target_name}")


def _find(actor: Actor, operation_id: uuid.UUID, permission: str) -> Operation:
    operation = Operation.objects.filter(id=operation_id).first()
    if operation is None:
        raise NotFound
    authorize(actor, permission, operation.tenant_id)
    return operation
