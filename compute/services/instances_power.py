"""Start, stop and reboot: the tenant's wish and the work order, in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import F

from compute import outbox
from compute.errors import InvalidState
from compute.models import Instance, Operation
from compute.services.lease_terms import check_lease_runs
from compute.services.locking import lock_instance
from tenants.services import audit
from tenants.services.access import Actor, authorize

_WISH = {"instance_start": "running", "instance_stop": "stopped", "instance_reboot": "running"}


def start_instance(
    *, actor: Actor, instance_id: uuid.UUID, if_version: int | None = None, request_key: uuid.UUID | None = None
) -> tuple[Instance, Operation]:
    """Order a start. Raises NotFound, PermissionDenied, VersionMismatch, OperationInProgress, InvalidState (it is neither
    active nor in error, or its lease has ended)."""
    return _order(actor, instance_id, "instance_start", "instance.start", {}, if_version, request_key)


def stop_instance(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    force: bool = False,
    if_version: int | None = None,
    request_key: uuid.UUID | None = None,
) -> tuple[Instance, Operation]:
    """Order a stop: the guest is asked first, for 20 seconds; `force` cuts its power at once. Raises as `start_instance`."""
    return _order(actor, instance_id, "instance_stop", "instance.stop", {"force": force}, if_version, request_key)


def reboot_instance(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    force: bool = False,
    if_version: int | None = None,
    request_key: uuid.UUID | None = None,
) -> tuple[Instance, Operation]:
    """Order a restart, from the definition as it stands now. Raises as `start_instance`."""
    return _order(actor, instance_id, "instance_reboot", "instance.reboot", {"force": force}, if_version, request_key)


def _order(
    actor: Actor,
    instance_id: uuid.UUID,
    kind: str,
    permission: str,
    arguments: dict[str, bool],
    if_version: int | None,
    request_key: uuid.UUID | None,
) -> tuple[Instance, Operation]:
    with transaction.atomic(durable=True):
        instance = lock_instance(actor=actor, instance_id=instance_id, permission=permission, if_version=if_version)
        if instance.state not in ("active", "error"):
            raise InvalidState(
                f"{instance.name} is {instance.state}: it cannot do this.", state=instance.state, allowed=["active"]
            )
        if _WISH[kind] == "running":
            check_lease_runs(instance)
        operation = order_power(actor=actor, instance=instance, kind=kind, arguments=arguments, request_key=request_key)
        return instance, operation


def order_power(
    *,
    actor: Actor,
    instance: Instance,
    kind: str,
    arguments: dict[str, bool],
    request_key: uuid.UUID | None = None,
    told: Mapping[str, Any] | None = None,
) -> Operation:
    """`submit_power`, with its line in the audit trail. `told`: why, for that line."""
    operation = submit_power(actor=actor, instance=instance, kind=kind, arguments=arguments, request_key=request_key)
    audit.record(
        actor=actor,
        action=kind.replace("_", "."),
        tenant=instance.tenant_id,
        target=instance,
        operation_id=operation.id,
        after={**arguments, **(told or {})},
    )
    return operation


def submit_power(
    *, actor: Actor, instance: Instance, kind: str, arguments: dict[str, bool], request_key: uuid.UUID | None = None
) -> Operation:
    """Write wish and order for an instance whose row the caller has locked. Raises OperationInProgress."""
    authorize(actor, kind.replace("_", "."), instance.tenant_id)
    operation = outbox.submit(
        actor=actor,
        kind=kind,
        target_type="instance",
        target_id=instance.id,
        target_name=instance.name,
        tenant_id=instance.tenant_id,
        arguments=arguments,
        request_key=request_key,
    )
    Instance.unscoped.filter(id=instance.id).update(desired_power=_WISH[kind], version=F("version") + 1)
    instance.desired_power = _WISH[kind]
    instance.version += 1
    return operation
