"""Writes the work order into the caller's transaction, and rings after commit.

`NOTIFY` inside the transaction is delivered by PostgreSQL at commit and dropped at rollback: no request ever talks to
the broker (a paused Redis would block it without bound), and nothing is published for work that does not exist.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from compute import states
from compute.errors import OperationInProgress
from compute.models import Host, HostCall, Instance, Operation
from tenants import prepared
from tenants.models.ids import new_id
from tenants.services.access import Actor

CHANNEL = "cenote_doorbell"

# Whose row carries the fencing token, by target type. Tenants have none: no host is told of them.
TARGETS = {"instance": Instance.unscoped, "host": Host.objects}


def ring(kind: str, *ids: object) -> None:
    """Ask the relay, at commit, to ring for an operation (`op`, id), a host (`host`, host id, call id), a `fence`, an
    `evacuation` or a `plan` (id), or a check (`books`)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, ":".join([kind, *map(str, ids)])])


def database_now() -> datetime:
    """Return the database's clock: leases and deadlines are never counted on a worker's own."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        now: datetime = cursor.fetchone()[0]
        return now


def submit(
    *,
    actor: Actor,
    kind: str,
    target_type: str,
    target_id: uuid.UUID,
    target_name: str,
    tenant_id: uuid.UUID | None,
    arguments: dict[str, Any] | None = None,
    request_key: uuid.UUID | None = None,
    queue_behind: bool = False,
    deadline_seconds: int | None = None,
    operation_id: uuid.UUID | None = None,
) -> Operation:
    """Insert a pending operation and ring for it at commit. The caller holds the target's row lock.

    `queue_behind` (deletes only): an open operation on the target is asked to cancel and this one waits for its end.
    Otherwise an open operation is an error. Raises OperationInProgress with `operation_id`.
    """
    open_now = list(
        Operation.objects.filter(
            target_type=target_type, target_id=target_id, state__in=states.OPERATION_OPEN
        ).values_list("id", "kind", "state")
    )
    if open_now and not queue_behind:
        raise OperationInProgress(
            f"Another operation ({open_now[0][1]}) is in progress on {target_name}. Wait for it, or cancel it.",
            operation_id=str(open_now[0][0]),
        )
    if open_now:
        for other_id, other_kind, other_state in open_now:
            if other_kind == kind:
                raise OperationInProgress(
                    f"{target_name} is already being deleted.", operation_id=str(other_id), state=other_state
                )
        Operation.objects.filter(id__in=[row[0] for row in open_now]).update(cancel_requested=True)
        for other_id, _, _ in open_now:
            ring("op", other_id)
    seconds = deadline_seconds or settings.OPERATION_DEADLINE_SECONDS
    try:
        with transaction.atomic():
            operation = Operation.objects.create(
                id=operation_id or new_id(),
                tenant_id=tenant_id,
                kind=kind,
                target_type=target_type,
                target_id=target_id,
                target_name=target_name,
                input=arguments or {},
                actor=actor.username,
                request_id=actor.request_id or "",
                request_key=request_key,
                next_attempt_at=Now(),
                deadline_at=Now() + timedelta(seconds=seconds),
            )
    except IntegrityError:
        # Two pending operations on one target: the partial unique index is the judge, whatever was read above.
        raise OperationInProgress(f"Another operation is waiting on {target_name}.") from None
    operation.next_attempt_at = timezone.now()
    operation.deadline_at = operation.next_attempt_at + timedelta(seconds=seconds)
    ring("op", operation.id)
    return operation


def submit_first(
    *,
    actor: Actor,
    kind: str,
    target_type: str,
    targets: Sequence[tuple[uuid.UUID, str]],
    tenant_id: uuid.UUID,
    request_key: uuid.UUID | None = None,
) -> list[Operation]:
    """`submit` for targets (id, name) that the caller's transaction has made: nobody else can have ordered anything yet."""
    seconds = settings.OPERATION_DEADLINE_SECONDS
    now = timezone.now()
    operations = [
        Operation(
            tenant_id=tenant_id,
            kind=kind,
            target_type=target_type,
            target_id=target_id,
            target_name=name,
            actor=actor.username,
            request_id=actor.request_id or "",
            request_key=request_key,
            next_attempt_at=now,
            deadline_at=now + timedelta(seconds=seconds),
        )
        for target_id, name in targets
    ]
    # Due on the database's clock; what is returned is for showing.
    prepared.insert(
        operations,
        next_attempt_at="statement_timestamp()",
        deadline_at=f"statement_timestamp() + make_interval(secs => {seconds:d})",
    )
    bells = [f"op:{operation.id}" for operation in operations]
    prepared.send("SELECT pg_notify(%s, bell) FROM unnest(%s::text[]) AS bell", [CHANNEL, bells])
    return operations


def write_call(
    *,
    host_id: uuid.UUID,
    method: str,
    target_type: str,
    target_id: uuid.UUID,
    arguments: dict[str, Any],
    deadline_seconds: float,
    purpose: str,
    operation: Operation | None = None,
) -> HostCall:
    """Insert a HostCall with the target's next fencing token, and ring the host's bell at commit.

    A `read` changes nothing and carries the newest token without raising it, so that it never fences off a step.
    """
    rows = TARGETS[target_type].filter(pk=target_id)
    if purpose != "read":
        rows.update(token=F("token") + 1)
    call = HostCall.objects.create(
        host_id=host_id,
        operation=operation,
        step=operation.step if operation else 0,
        purpose=purpose,
        method=method,
        target_id=target_id,
        token=rows.values_list("token", flat=True).get(),
        arguments=arguments,
        deadline_seconds=deadline_seconds,
    )
    ring("host", host_id, call.id)
    return call
