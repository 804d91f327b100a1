"""Delete: queues behind the one running operation and asks it to stop."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import transaction

from compute import outbox
from compute.models import Instance, Operation
from compute.services.locking import lock_instance
from tenants.services import audit
from tenants.services.access import Actor


def delete_instance(
    *, actor: Actor, instance_id: uuid.UUID, if_version: int | None = None, request_key: uuid.UUID | None = None
) -> tuple[Instance, Operation]:
    """Order the deletion of an instance in any state. A create in progress is cancelled and unwound first.

    Room and quota go back when the host has shown that nothing is left. Raises NotFound, PermissionDenied,
    VersionMismatch, OperationInProgress (it is being deleted already; `operation_id`).
    """
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.delete", if_version=if_version
        )
        return instance, order_delete(actor=actor, instance=instance, request_key=request_key)


def order_delete(
    *,
    actor: Actor,
    instance: Instance,
    request_key: uuid.UUID | None = None,
    told: Mapping[str, Any] | None = None,
) -> Operation:
    """`delete_instance` once its row is locked and the actor is known to be allowed. `told`: why, for the audit trail."""
    operation = outbox.submit(
        actor=actor,
        kind="instance_delete",
        target_type="instance",
        target_id=instance.id,
        target_name=instance.name,
        tenant_id=instance.tenant_id,
        request_key=request_key,
        queue_behind=True,
    )
    audit.record(
        actor=actor,
        action="instance.delete",
        tenant=instance.tenant_id,
        target=instance,
        operation_id=operation.id,
        after=told,
    )
    return operation
