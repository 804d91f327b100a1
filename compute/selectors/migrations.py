"""Reading migrations: which guests are or were on their way, for operators."""

from __future__ import annotations

import uuid

from django.db.models import Q, QuerySet

from compute import states
from compute.models import Host, Migration
from tenants.errors import NotFound
from tenants.services.access import Actor, authorize


def list_migrations(
    *,
    actor: Actor,
    instance_id: uuid.UUID | None = None,
    host: Host | None = None,
    state: str | None = None,
    open_only: bool = False,
) -> QuerySet[Migration]:
    """Return migrations, newest first; `host` means either end. Raises PermissionDenied."""
    authorize(actor, "migration.read", None)
    rows = Migration.objects.select_related("instance", "source", "destination", "operation")
    if instance_id is not None:
        rows = rows.filter(instance_id=instance_id)
    if host is not None:
        rows = rows.filter(Q(source=host) | Q(destination=host))
    if state is not None:
        rows = rows.filter(state=state)
    if open_only:
        rows = rows.filter(state__in=states.MIGRATION_OPEN)
    return rows.order_by("-created_at", "-id")


def get_migration(*, actor: Actor, migration_id: uuid.UUID) -> Migration:
    """Return one migration. Raises NotFound, PermissionDenied."""
    row = list_migrations(actor=actor).filter(id=migration_id).first()
    if row is None:
        raise NotFound
    return row
