"""The console log: read from what the host sent last, freshened by a host call that the request does not wait for."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.db import transaction
from django.utils import timezone

from compute import outbox
from compute.models import ConsoleLog, HostCall, Instance
from tenants.errors import NotFound
from tenants.services.access import Actor, authorize

FRESH_SECONDS = 2.0
MAX_BYTES = 64 * 1024


def request_console_log(*, actor: Actor, instance_id: uuid.UUID) -> ConsoleLog | None:
    """Return what is known of the console, and order a newer copy unless it is fresh or one is on its way.

    None: nothing was read yet. Raises NotFound, PermissionDenied.
    """
    with transaction.atomic():
        instance: Instance | None = Instance.unscoped.filter(id=instance_id).exclude(state="deleted").first()
        if instance is None:
            raise NotFound
        authorize(actor, "instance.console_log", instance.tenant_id)
        known = ConsoleLog.objects.filter(instance=instance).first()
        fresh = known is not None and known.fetched_at > timezone.now() - timedelta(seconds=FRESH_SECONDS)
        asked = HostCall.objects.filter(
            target_id=instance.id,
            purpose="read",
            state__in=["waiting", "taken"],
            created_at__gt=timezone.now() - timedelta(seconds=30),
        ).exists()
        if not fresh and not asked and instance.host_id is not None:
            outbox.write_call(
                host_id=instance.host_id,
                method="instance.console_log",
                target_type="instance",
                target_id=instance.id,
                arguments={"max_bytes": MAX_BYTES},
                deadline_seconds=10.0,
                purpose="read",
            )
    return known
