"""Disruption contracts: how the cloud may treat an instance when its host has to be emptied or relieved."""

from __future__ import annotations

import uuid
from typing import Final

from django.db import transaction
from django.db.models import F

from compute.models import Instance
from compute.services.locking import lock_instance
from tenants.errors import InvalidInput
from tenants.services import audit
from tenants.services.access import Actor

DISRUPTIONS: Final = ("live", "restart", "consent")
LONGEST_PAUSE_MS: Final = 60_000


def set_contract(
    *,
    actor: Actor,
    instance_id: uuid.UUID,
    disruption: str,
    pause_limit_ms: int | None = None,
    if_version: int | None = None,
) -> Instance:
    """Say how plans may move it: "live" while it runs, "restart" also by a restart, "consent" not without asking its tenant.

    `pause_limit_ms`: the longest pause of a live migration, 1 to LONGEST_PAUSE_MS; None: as plans like.
    Raises NotFound, PermissionDenied, VersionMismatch, InvalidInput.
    """
    if disruption not in DISRUPTIONS:
        raise InvalidInput.field("/disruption", "invalid_choice", f"It is one of {', '.join(DISRUPTIONS)}.")
    if pause_limit_ms is not None and not 1 <= pause_limit_ms <= LONGEST_PAUSE_MS:
        raise InvalidInput.field(
            "/pause_limit_ms", "out_of_range", f"A pause is 1 to {LONGEST_PAUSE_MS} ms; leave it out for no limit."
        )
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.update", if_version=if_version
        )
        before = {"disruption": instance.disruption, "pause_limit_ms": instance.pause_limit_ms}
        after = {"disruption": disruption, "pause_limit_ms": pause_limit_ms}
        if before != after:
            Instance.unscoped.filter(id=instance.id).update(**after, version=F("version") + 1)
            audit.record(
                actor=actor,
                action="instance.contract",
                tenant=instance.tenant_id,
                target=instance,
                before=before,
                after=after,
            )
        return instance
