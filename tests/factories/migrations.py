"""Migrations that are ordered without asking the scheduler where to."""

from __future__ import annotations

from django.db import transaction

from compute import outbox
from compute.models import Host, Instance, Migration, Operation
from compute.placement.claims import Seat, claim
from compute.scheduler.model import Resources
from compute.wire import MigrationJob
from tenants.services import audit
from tenants.services.access import system_actor


def order_migration(instance: Instance, destination: Host, **job: object) -> tuple[Migration, Operation]:
    """Hold room at the destination and write the order, as the service does."""
    actor = system_actor("tests")
    with transaction.atomic():
        migration = Migration(
            instance=instance, source=Host.objects.get(id=instance.host_id), destination=destination, actor="tests"
        )
        wanted = MigrationJob(str(migration.id), str(destination.address), **job)  # type: ignore[arg-type]
        migration.job = wanted.to_json()
        operation = outbox.submit(
            actor=actor,
            kind="instance_migrate",
            target_type="instance",
            target_id=instance.id,
            target_name=instance.name,
            tenant_id=instance.tenant_id,
            arguments={"migration": str(migration.id)},
        )
        migration.operation = operation
        migration.save(force_insert=True)
        size = Resources(instance.vcpus, instance.memory_mib, instance.disk_gib)
        claim(wanted={migration.id: Seat(destination.id, size, consumer_type="migration")})
        audit.record(
            actor=actor,
            action="instance.migrate",
            tenant=instance.tenant_id,
            target=instance,
            operation_id=operation.id,
        )
    return migration, operation
