"""Leases: an instance that has one is stopped or deleted when it ends.

Whether one has ended is the database's clock to say, under the instance's row lock: who renews it in the same moment
either comes first, and nothing happens, or is told that the deletion is ordered.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from django.db import transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Now

from compute import states
from compute.errors import InvalidState
from compute.models import Instance, Operation
from compute.models.instance import LEASE_HAS_WORK
from compute.services.instances_delete import order_delete
from compute.services.instances_power import order_power
from compute.services.lease_terms import Lease, LeaseAsk, take_lease
from compute.services.locking import lock_instance
from tenants.services import audit
from tenants.services.access import Actor, system_actor

ACTOR: Final = system_actor("lease")


def change_lease(
    *, actor: Actor, instance_id: uuid.UUID, lease: LeaseAsk | None, if_version: int | None = None
) -> Instance:
    """Give an instance another lease, or with None one for ever.

    Raises NotFound, PermissionDenied (also where the actor may not do itself what the lease is to do), VersionMismatch,
    InvalidInput, InvalidState (it is being deleted).
    """
    with transaction.atomic(durable=True):
        instance = lock_instance(
            actor=actor, instance_id=instance_id, permission="instance.update", if_version=if_version
        )
        going = _open_operations(instance).filter(kind="instance_delete").exists()
        if going or instance.state == "deleting":
            raise InvalidState(f"{instance.name} is being deleted: no lease keeps it.", state="deleting")
        before = Lease.of(instance)
        after = take_lease(actor=actor, tenant=instance.tenant_id, asked=lease, present=before)
        if before == after:
            return instance
        values: dict[str, Any] = {"lease_ends_at": after.ends_at, "lease_action": after.action}
        Instance.unscoped.filter(id=instance.id).update(**values, version=F("version") + 1)
        audit.record(
            actor=actor,
            action="instance.lease",
            tenant=instance.tenant_id,
            target=instance,
            before={"lease": before.told()},
            after={"lease": after.told()},
        )
        return instance


def end_lease(*, instance_id: uuid.UUID) -> bool:
    """Order what an ended lease says. False where that is not called for: renewed, done already, or at work on it.

    May be run any number of times at once, and late.
    """
    with transaction.atomic(durable=True):
        instance = _locked(instance_id)
        # Asked once the row is held: the time is of now, and a renewal that came first is seen.
        due = Instance.unscoped.filter(LEASE_HAS_WORK, id=instance_id, lease_ends_at__lte=Now())
        if instance is None or not due.exists() or _open_operations(instance).exists():
            return False
        told = {"lease": Lease.of(instance).told()}
        if instance.lease_action == "delete":
            order_delete(actor=ACTOR, instance=instance, told=told)
        else:
            order_power(actor=ACTOR, instance=instance, kind="instance_stop", arguments={"force": False}, told=told)
        return True


def _locked(instance_id: uuid.UUID) -> Instance | None:
    return Instance.unscoped.select_for_update(of=("self",), no_key=True).filter(id=instance_id).first()


def _open_operations(instance: Instance) -> QuerySet[Operation]:
    return Operation.objects.filter(target_type="instance", target_id=instance.id, state__in=states.OPERATION_OPEN)
