"""The first lock of every change to an instance, with the checks that belong under it."""

from __future__ import annotations

import uuid

from compute.models import Instance
from tenants.errors import NotFound, VersionMismatch
from tenants.services.access import Actor, authorize


def lock_instance(*, actor: Actor, instance_id: uuid.UUID, permission: str, if_version: int | None = None) -> Instance:
    """Return the instance with its row locked FOR NO KEY UPDATE, access and version checked under the lock.

    Raises NotFound (absent, deleted, or another tenant's), PermissionDenied, VersionMismatch.
    """
    rows = Instance.unscoped.select_for_update(of=("self",), no_key=True).select_related(
        "tenant", "host", "pool", "flavor", "image"
    )
    instance: Instance | None = rows.filter(id=instance_id).exclude(state="deleted").first()
    if instance is None:
        raise NotFound
    authorize(actor, permission, instance.tenant_id)
    if if_version is not None and instance.version != if_version:
        raise VersionMismatch(version=instance.version)
    return instance
