"""The audit trail's only writer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from django.db import connection, models

from tenants import prepared
from tenants.models import AuditEvent, Tenant
from tenants.services.access import Actor

Target = models.Model | tuple[str, UUID | None, str]

# No secret may end in a row that is kept for ever; a key that sounds like one is a defect of the caller.
_SECRET_WORDS: Final = ("password", "secret", "digest", "private_key", "token_text", "user_data")


def record(
    *,
    actor: Actor,
    action: str,
    target: Target,
    tenant: Tenant | UUID | None = None,
    operation_id: UUID | None = None,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> AuditEvent:
    """Write one event inside the caller's transaction, so that change and trail commit together or not at all.

    Its time is the database's and is not read back.

    `action` is `<noun>.<verb>`, as permissions are. `target` is a saved model instance, or (type, id, name).
    `before` and `after` hold the changed fields only, JSON-ready (UUIDs, times and Decimals are fine).
    Raises ValueError where a key sounds like a secret, RuntimeError outside a transaction.
    """
    if not connection.in_atomic_block:
        raise RuntimeError("an audit event belongs into the transaction of the change it tells of")
    for key in (*(before or ()), *(after or ())):
        if any(word in key.lower() for word in _SECRET_WORDS):
            raise ValueError(f"{key} may hold a secret and cannot be audited")
    if isinstance(target, tuple):
        target_type, target_id, target_name = target
    else:
        target_type, target_id = target._meta.model_name or "", target.pk
        target_name = str(getattr(target, "name", None) or target)
    event = AuditEvent(
        tenant_id=tenant.id if isinstance(tenant, Tenant) else tenant,
        actor_kind=actor.kind,
        actor_user_id=actor.user_id,
        actor_token_id=actor.token_id,
        actor_name=actor.username[:128],
        action=action,
        target_type=target_type,
        target_id=target_id,
        target_name=target_name[:255],
        operation_id=operation_id,
        request_id=actor.request_id[:64],
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
    )
    prepared.insert([event])
    return event
