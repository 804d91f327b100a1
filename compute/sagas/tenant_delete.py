"""Delete a tenant with all that it holds: guests first, from the deepest tenants up, then promises, keys and tenants.

The service has closed the tenant, so nothing new is accepted in it; what was accepted a moment before is found by looking
again until nothing is left. Guests are deleted by operations of their own, a few at a time: a cancel lets those under way
come to their end, orders no more, and opens the tenant again. What cannot be deleted ends it too, and is named.
"""

from __future__ import annotations

import uuid
from typing import Any, Final

from django.db import transaction
from django.db.models import QuerySet

from compute import outbox, states
from compute.errors import InvalidState, OperationInProgress
from compute.models import Grant, Group, Instance, Keypair, Operation
from compute.placement.grant_end import end_grant
from compute.placement.promises import lock_hosts
from compute.placement.reservations import lock_chain
from compute.sagas.step import Context, PollStep, Saga, StepFailed
from compute.selectors.tenant_contents import guests_below, living_below
from tenants.errors import Conflict
from tenants.models import Tenant
from tenants.services import audit, quotas, tree
from tenants.services.access import Actor, system_actor
from tenants.services.tenants import abandon_deletion, delete_tenant

AT_ONCE: Final = 16
_NAMED: Final = 5


def _actor(context: Context) -> Actor:
    """The product, in the name of whoever ordered it: the tenant is closed to everybody else."""
    return system_actor(context.operation.actor)


# -- guests -----------------------------------------------------------------------------------------------------------


def _guests(context: Context) -> bool:
    left = guests_below(context.target_id)
    count = left.count()
    total = max(context.scratch.get("guests", 0), count)
    context.scratch.update(guests=total, share=1 - count / total if total else 1)
    context.note(f"{total - count} of {total} instances deleted")
    if not count:
        return True
    free = AT_ONCE - _part_of(context).filter(state__in=states.OPERATION_OPEN).count()
    ordered = _part_of(context).values("target_id")
    waiting = left.exclude(id__in=ordered)
    # In one statement: an operation that ends between two would make its instance look like one that stays.
    stay = list(left.filter(id__in=ordered).exclude(id__in=_open_targets()).values_list("name", flat=True))
    if stay and free == AT_ONCE and not waiting.exists():
        more = f" and {len(stay) - _NAMED} more" if len(stay) > _NAMED else ""
        raise StepFailed(
            "instances_left",
            f"These instances could not be deleted; each says why: {', '.join(stay[:_NAMED])}{more}. "
            "Delete them, or this tenant, again later.",
        )
    for instance_id in list(waiting.values_list("id", flat=True)[: max(free, 0)]):
        _order(context, instance_id)
    return False


def _part_of(context: Context) -> QuerySet[Operation]:
    since = context.operation.created_at
    rows = Operation.objects.filter(tenant__in=living_below(context.target_id), created_at__gte=since)
    return rows.filter(kind="instance_delete", input__part_of=str(context.operation.id))


def _open_targets() -> Any:
    rows = Operation.objects.filter(target_type="instance", state__in=states.OPERATION_OPEN)
    return rows.values("target_id")


def _order(context: Context, instance_id: uuid.UUID) -> None:
    """Order one guest's deletion, unless its row is busy or it is being deleted by others: the next poll looks again."""
    rows = Instance.unscoped.select_for_update(of=("self",), no_key=True, skip_locked=True).exclude(state="deleted")
    instance: Instance | None = rows.filter(id=instance_id).first()
    if instance is None:
        return
    try:
        with transaction.atomic():
            operation = outbox.submit(
                actor=_actor(context),
                kind="instance_delete",
                target_type="instance",
                target_id=instance.id,
                target_name=instance.name,
                tenant_id=instance.tenant_id,
                arguments={"part_of": str(context.operation.id)},
                queue_behind=True,
            )
    except OperationInProgress:
        return
    audit.record(
        actor=_actor(context),
        action="instance.delete",
        tenant=instance.tenant_id,
        target=instance,
        operation_id=operation.id,
    )


# -- promises ---------------------------------------------------------------------------------------------------------


def _grants(context: Context) -> bool:
    """End the grants of one pool at a time: all its hosts are held meanwhile, and never those of two pools."""
    grants = Grant.unscoped.filter(tenant__in=living_below(context.target_id))
    pool_id = grants.order_by("pool_id").values_list("pool_id", flat=True).first()
    if pool_id is None:
        return True
    hosts = lock_hosts(pool_id=pool_id)
    # From the deepest up: one that draws beyond its own units holds on to the one above.
    for grant_id in list(grants.filter(pool_id=pool_id).order_by("-tenant__path__len", "id").values_list("id")):
        _end(context, grant_id[0], hosts)
    _look_again_at_once(context)
    return False


def _end(context: Context, grant_id: uuid.UUID, hosts: list[Any]) -> None:
    try:
        chain = lock_chain(grant_id)
    except Grant.DoesNotExist:
        return  # its holder, or the reconciler, was faster
    grant = chain[0]
    try:
        end_grant(grant=grant, hosts=hosts, chain=chain)
    except InvalidState as error:
        raise StepFailed("grant_in_use", f"The grant of {grant.tenant.name} in {grant.pool.name}: {error.detail}")
    audit.record(
        actor=_actor(context),
        action="grant.delete",
        tenant=grant.tenant_id,
        target=("grant", grant_id, str(grant)),
        before={"units": grant.units},
        operation_id=context.operation.id,
    )


# -- tenants ----------------------------------------------------------------------------------------------------------


def _tenants(context: Context) -> bool:
    if guests_below(context.target_id).exists():
        # Accepted a moment before the tenant was closed.
        _guests(context)
        return False
    tree.hold()
    before = living_below(context.target_id).count()
    # One in a turn: each gives back sums of other resources up to the root. A turn that went on with the next would have
    # some of the root's sums in hand and wait for others, against who locks them all in order, as another deletion does.
    # Who holds it may wait for the sums above: never wait here.
    for tenant in living_below(context.target_id).select_for_update(no_key=True, skip_locked=True)[:1]:
        if not _forget_groups(context, tenant):
            continue
        _forget_keypairs(context, tenant)
        try:
            delete_tenant(actor=_actor(context), tenant=tenant)
        except Conflict as error:
            if not _came_late(tenant):
                raise StepFailed("tenant_in_use", f"{tenant.name}: {error.detail}")
    left = living_below(context.target_id).count()
    total = max(context.scratch.get("tenants", 0), before)
    context.scratch.update(tenants=total, share=1 - left / total if total else 1)
    context.note(f"{total - left} of {total} tenants deleted")
    if 0 < left < before:
        _look_again_at_once(context)
    return left == 0


def _forget_groups(context: Context, tenant: Tenant) -> bool:
    """Return False while somebody holds one: a create that was let in, which waits for sums that this turn may hold."""
    for group in Group.unscoped.select_for_update(of=("self",), skip_locked=True).filter(tenant=tenant):
        audit.record(actor=_actor(context), action="group.delete", tenant=tenant, target=group)
        group.delete()
    return not Group.unscoped.filter(tenant=tenant).exists()


def _forget_keypairs(context: Context, tenant: Tenant) -> None:
    for keypair in Keypair.unscoped.select_for_update(of=("self",), skip_locked=True).filter(tenant=tenant):
        audit.record(actor=_actor(context), action="keypair.delete", tenant=tenant, target=keypair)
        keypair.delete()
        quotas.release(tenant=tenant, amounts={"keypairs": 1})


def _came_late(tenant: Tenant) -> bool:
    """Whether what is still in the tenant can be seen, so that looking again will take it away."""
    return (
        guests_below(tenant.id).exists()
        or Keypair.unscoped.filter(tenant=tenant).exists()
        or living_below(tenant.id).exclude(id=tenant.id).exists()
    )


def _look_again_at_once(context: Context) -> None:
    """Part of the work was done, in a transaction of its own that holds few rows for a short time."""
    outbox.ring("op", context.operation.id)


def _finish_failed(context: Context, error: dict[str, str]) -> None:
    tenant = Tenant.objects.get(id=context.target_id)
    abandon_deletion(actor=_actor(context), tenant=tenant, state=context.input["state_before"])


SAGA = Saga(
    kind="tenant_delete",
    target_type="tenant",
    # No step has an undo: what is deleted does not come back. A cancel opens the tenant again with what is left.
    steps=(
        PollStep("instances", poll=_guests),
        PollStep("grants", poll=_grants),
        PollStep("tenants", poll=_tenants),
    ),
    finish_failed=_finish_failed,
    cancellable=True,
)
