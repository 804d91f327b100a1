"""Reads about operations."""

from __future__ import annotations

import uuid

from django.db.models import QuerySet

from compute import states
from compute.models import Operation
from tenants.errors import NotFound
from tenants.scope import ALL
from tenants.services.access import Actor, authorize, visible_tenant_ids


def list_operations(
    *,
    actor: Actor,
    state: str | None = None,
    kind: str | None = None,
    target_id: uuid.UUID | None = None,
    tenant_id: uuid.UUID | None = None,
    open_only: bool = False,
) -> QuerySet[Operation]:
    """Return what the actor may read, newest first. Operations without a tenant (hosts) are for operators."""
    visible = visible_tenant_ids(actor, "operation.read")
    rows = Operation.objects.select_related("tenant")
    if visible is not ALL:
        rows = rows.filter(tenant_id__in=visible)
    for column, value in (("state", state), ("kind", kind), ("target_id", target_id), ("tenant_id", tenant_id)):
        if value is not None:
            rows = rows.filter(**{column: value})  # fixed names: nothing of the request reaches the lookup
    if open_only:
        rows = rows.filter(state__in=states.OPERATION_OPEN)
    return rows.order_by("-created_at", "-id")


def get_operation(*, actor: Actor, operation_id: uuid.UUID) -> Operation:
    """Return one operation. Raises NotFound, PermissionDenied."""
    operation = Operation.objects.select_related("tenant").filter(id=operation_id).first()
    if operation is None:
        raise NotFound
    authorize(actor, "operation.read" if operation.tenant_id else "host.read", operation.tenant_id)
    return operation


def progress_of(operation: Operation) -> int:
    """Return 0 to 100: the share of steps done, and of the one in hand where it says so; 100 only at the end.

    While unwinding it stays where it was.
    """
    if operation.state == "succeeded":
        return 100
    if not operation.steps:
        return 0
    done: float = sum(1 for step in operation.steps if step["state"] == "done")
    done += float(operation.scratch.get("share", 0))
    return min(99, int(100 * done / len(operation.steps)))
