"""Deleting tenants: an empty one at once, one with all that it holds as an operation."""

from __future__ import annotations

from typing import Final

from django.db import transaction

from compute import outbox, states
from compute.errors import OperationInProgress
from compute.models import Group, Instance, Operation
from compute.selectors import tenant_contents
from compute.selectors.tenant_contents import Contents
from tenants.errors import Conflict
from tenants.models import Tenant
from tenants.models.ids import new_id
from tenants.services import tenants
from tenants.services.access import Actor, authorize, authorize_from_above

# Guests on a host that is away can keep it waiting; a day is long enough for somebody to look.
DEADLINE_SECONDS: Final = 86_400


def plan_tenant_delete(*, actor: Actor, tenant: Tenant) -> Contents:
    """What `delete_tenant_with_contents` would delete, with the fingerprint that it asks for. Raises as it does."""
    authorize_from_above(actor, "tenant.delete", tenant)
    return tenant_contents.contents_of(tenant)


def delete_empty_tenant(*, actor: Actor, tenant: Tenant, expected_version: int | None = None) -> None:
    """End a tenant that holds nothing, not even an instance that failed. Raises as `tenants.services.tenants` does."""
    authorize(actor, "tenant.delete", tenant)
    with transaction.atomic(durable=True):
        tenants.delete_tenant(actor=actor, tenant=tenant, expected_version=expected_version)
        failed = Instance.unscoped.filter(tenant=tenant).exclude(state="deleted").count()
        if failed:
            raise Conflict(
                f"The tenant still lists {failed} instances that failed. Delete these first, or ask for all of it to be "
                "deleted (cascade).",
                reason="in_use",
                used={"instances": failed},
            )
        Group.unscoped.filter(tenant=tenant).delete()


def delete_tenant_with_contents(
    *, actor: Actor, tenant: Tenant, fingerprint: str, expected_version: int | None = None
) -> Operation:
    """Close a tenant at once and order the deletion of everything in it: guests first, bottom up, then the tenants.

    `fingerprint`: of the plan that was agreed to (`plan_tenant_delete`); what came since then would go unseen. What is
    being created at this very moment goes too. Decided from above (see `tenants.services.tenants.begin_deletion`), where
    the operation can be watched and cancelled.
    Raises Conflict (reason "changed", "deleting"), OperationInProgress, PermissionDenied, NotFound, VersionMismatch.
    """
    authorize_from_above(actor, "tenant.delete", tenant)
    with transaction.atomic(durable=True):
        operation_id = new_id()
        _refuse_twice(tenant)
        held, before = tenants.begin_deletion(
            actor=actor, tenant=tenant, operation_id=operation_id, expected_version=expected_version
        )
        if tenant_contents.contents_of(held).fingerprint != fingerprint:
            raise Conflict(
                f"What {held.name} holds has changed since you looked. Look again (dry run), then delete what you see.",
                reason="changed",
            )
        return outbox.submit(
            operation_id=operation_id,
            actor=actor,
            kind="tenant_delete",
            target_type="tenant",
            target_id=held.id,
            target_name=held.name,
            tenant_id=held.parent_id,
            arguments={"state_before": before},
            deadline_seconds=DEADLINE_SECONDS,
        )


def _refuse_twice(tenant: Tenant) -> None:
    """Name the operation that does it already. Without a lock: `begin_deletion` is the judge."""
    rows = Operation.objects.filter(kind="tenant_delete", target_id=tenant.id, state__in=states.OPERATION_OPEN)
    found = rows.values_list("id", "state").first()
    if found is not None:
        raise OperationInProgress(
            f"{tenant.name} is already being deleted.", operation_id=str(found[0]), state=found[1]
        )
