"""Making, changing and ending tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from tenants import roles
from tenants.errors import Conflict, InvalidInput, NameTaken, NotFound, TenantDisabled, VersionMismatch
from tenants.models import ApiToken, Membership, Quota, Tenant, User, new_id
from tenants.models.tree import TENANT_NAME
from tenants.services import audit, quotas, tree
from tenants.services.access import Actor, authorize, authorize_from_above

# What a top tenant may have before an operator says otherwise: of things that cost rows, not hardware. The rest starts
# at 0 use and no limit here; pools bound it.
DEFAULT_ROOT_LIMITS: Final[Mapping[str, int | None]] = {
    "tenants": 100,
    "members": 1000,
    "tokens": 1000,
    "keypairs": 1000,
}

# Goes with the tenant; anything else in use keeps it alive.
_GOES_WITH_TENANT: Final = ("members", "tokens")


def create_tenant(
    *,
    actor: Actor,
    name: str,
    parent: Tenant | None = None,
    owner: User | None = None,
    limits: Mapping[str, int | None] | None = None,
) -> Tenant:
    """Make a tenant with its quota rows, an owner if one is given, and its first limits.

    A top tenant (no parent) is made by cloud operators; one below by those who hold tenant.create in the parent.
    Raises InvalidInput, NameTaken, QuotaExceeded (resource "tenants", or "members" for the owner), PermissionDenied,
    NotFound.
    """
    authorize(actor, "tenant.create", parent)
    _check_name(name)
    with transaction.atomic():
        tree.hold()
        path = []
        held = None
        if parent is not None:
            # In conflict with delete_tenant's lock: no child appears under a tenant that goes.
            held = Tenant.objects.select_for_update(no_key=True).get(id=parent.id)
            if held.state == Tenant.State.DELETED:
                raise NotFound
            if held.state != Tenant.State.ACTIVE:
                raise TenantDisabled
            path = list(held.path)
        tenant_id = new_id()
        tenant = Tenant(id=tenant_id, name=name, parent=parent, path=[*path, tenant_id])
        try:
            with transaction.atomic():
                tenant.save(force_insert=True)
        except IntegrityError as error:
            raise _name_taken(error, name)
        quotas.ensure_rows(tenant=tenant)
        audit.record(
            actor=actor,
            action="tenant.create",
            tenant=tenant,
            target=tenant,
            after={"name": name, "parent": None if parent is None else str(parent.id)},
        )
        first = {**(DEFAULT_ROOT_LIMITS if parent is None else {}), **(limits or {})}
        if first:
            quotas.apply_limits(actor=actor, tenant=tenant, limits=first)
        if owner is not None:
            member = Membership.unscoped.create(tenant=tenant, user=owner, role=roles.OWNER)
            audit.record(actor=actor, action="member.create", tenant=tenant, target=owner, after=member.as_audit())
        charges = [(tenant, {"members": 0 if owner is None else 1})]
        if held is not None:
            charges.append((held, {"tenants": 1}))
        quotas.charge_many(items=charges, actor=actor)
    return tenant


def rename_tenant(*, actor: Actor, tenant: Tenant, name: str, expected_version: int | None = None) -> Tenant:
    """Give a tenant another name. Raises InvalidInput, NameTaken, VersionMismatch, PermissionDenied, NotFound."""
    authorize(actor, "tenant.update", tenant)
    _check_name(name)
    with transaction.atomic():
        held = _lock(tenant, expected_version)
        if held.name == name:
            return held
        before, held.name = held.name, name
        try:
            with transaction.atomic():
                _save(held, "name")
        except IntegrityError as error:
            raise _name_taken(error, name)
        audit.record(
            actor=actor, action="tenant.update", tenant=held, target=held, before={"name": before}, after={"name": name}
        )
    return held


def set_tenant_state(*, actor: Actor, tenant: Tenant, active: bool, expected_version: int | None = None) -> Tenant:
    """Disable a tenant and all below, or enable it again. What runs goes on running; requests are refused at once.

    A tenant is switched by those who hold tenant.update in its parent; a top tenant by cloud operators. Nobody switches
    off, or on again, the tenant that gives them their role.
    Raises PermissionDenied, NotFound, VersionMismatch.
    """
    authorize_from_above(actor, "tenant.update", tenant)
    state = Tenant.State.ACTIVE if active else Tenant.State.DISABLED
    with transaction.atomic():
        held = _lock(tenant, expected_version)
        if held.state == state:
            return held
        if held.state == Tenant.State.DELETING:
            raise Conflict("This tenant is being deleted; cancel that operation first.", reason="deleting")
        _set_state(actor, held, state)
    return held


def delete_tenant(*, actor: Actor, tenant: Tenant, expected_version: int | None = None) -> None:
    """End a tenant: its members and tokens go, the row stays for the audit trail, the name becomes free.

    Raises Conflict while tenants are below it or anything is in use (data: reason, used, goes_with: resource -> count);
    VersionMismatch, PermissionDenied, NotFound.
    """
    authorize(actor, "tenant.delete", tenant)
    with transaction.atomic():
        tree.hold()
        held = _lock(tenant, expected_version)
        tokens = _revoke_tokens(held)
        rows = list(Quota.unscoped.filter(tenant=held).order_by("resource").select_for_update())
        # Once more: one that was made before these rows were locked. One that is being made waits for them, and fails.
        tokens += _revoke_tokens(held)
        used = {row.resource: row.used for row in rows if row.used}
        if any(resource not in _GOES_WITH_TENANT for resource in used):
            raise _not_empty(used)
        _, deleted = Membership.unscoped.filter(tenant=held).delete()
        releases = [(held, {"tokens": tokens, "members": deleted.get("tenants.Membership", 0)})]
        if held.parent is not None:
            releases.append((held.parent, {"tenants": 1}))
        quotas.release_many(items=releases)
        # A charge that was waiting for these rows finds no room: nothing can come to life in a tenant that is gone.
        Quota.unscoped.filter(tenant=held).update(limit=0, ceiling=0)
        held.state = Tenant.State.DELETED
        _save(held, "state")
        audit.record(actor=actor, action="tenant.delete", tenant=held, target=held, before={"name": held.name})


def begin_deletion(
    *, actor: Actor, tenant: Tenant, operation_id: UUID, expected_version: int | None = None
) -> tuple[Tenant, str]:
    """Close a tenant, and with it all below, while what it holds is deleted. Returns it, and the state it was in.

    Decided from above, as switching it off is, by those who hold tenant.delete there; a top tenant's by cloud
    operators. Raises Conflict where it is being deleted already, PermissionDenied, NotFound, VersionMismatch.
    """
    authorize_from_above(actor, "tenant.delete", tenant)
    with transaction.atomic():
        tree.hold()
        held = _lock(tenant, expected_version)
        if held.state == Tenant.State.DELETING:
            raise Conflict("This tenant is being deleted already.", reason="deleting")
        before = held.state
        _set_state(actor, held, Tenant.State.DELETING, operation_id=operation_id)
    return held, before


def abandon_deletion(*, actor: Actor, tenant: Tenant, state: str) -> None:
    """Open a tenant again whose deletion was cancelled or failed: `state` is the one it was in before."""
    with transaction.atomic():
        held = Tenant.objects.select_for_update(no_key=True).get(id=tenant.id)
        if held.state == Tenant.State.DELETING:
            _set_state(actor, held, Tenant.State(state))


def _set_state(actor: Actor, held: Tenant, state: Tenant.State, *, operation_id: UUID | None = None) -> None:
    before, held.state = held.state, state
    _save(held, "state")
    audit.record(
        actor=actor,
        action="tenant.update",
        tenant=held,
        target=held,
        operation_id=operation_id,
        before={"state": str(before)},
        after={"state": str(state)},
    )


def _revoke_tokens(tenant: Tenant) -> int:
    return ApiToken.unscoped.filter(tenant=tenant, revoked_at=None).update(revoked_at=timezone.now())


def _not_empty(used: Mapping[str, int]) -> Conflict:
    """Why a tenant is not deleted, in counts. What instances are made of is told only where no instance tells it."""
    told = [name for name in ("instances", "keypairs", "tenants") if name in used]
    told = told or sorted(set(used) - set(_GOES_WITH_TENANT))
    holds = ", ".join(_counted(name, used[name]) for name in told)
    goes = " and ".join(_counted(name, used.get(name, 0)) for name in _GOES_WITH_TENANT)
    return Conflict(
        f"The tenant still holds {holds}. Delete these first, or ask for all of it to be deleted (cascade). "
        f"{goes} would go with it.",
        reason="has_children" if "tenants" in used else "in_use",
        used={name: amount for name, amount in used.items() if name not in _GOES_WITH_TENANT},
        goes_with={name: used.get(name, 0) for name in _GOES_WITH_TENANT},
    )


def _counted(resource: str, amount: int) -> str:
    """ "1 keypair", "2 tenants below it"."""
    noun = resource.removesuffix("s") if amount == 1 and resource.endswith("s") else resource
    return f"{amount} {noun} below it" if resource == "tenants" else f"{amount} {noun}"


def _lock(tenant: Tenant, expected_version: int | None) -> Tenant:
    held = Tenant.objects.select_for_update(no_key=True).filter(id=tenant.id).first()
    if held is None or held.state == Tenant.State.DELETED:
        raise NotFound
    if expected_version is not None and held.version != expected_version:
        raise VersionMismatch(version=held.version)
    return held


def _save(tenant: Tenant, field: str) -> None:
    """Write one changed field of a locked tenant and count its version up."""
    tenant.version += 1
    tenant.save(update_fields=[field, "version", "updated_at"])


def _check_name(name: str) -> None:
    if not TENANT_NAME.fullmatch(name):
        raise InvalidInput.field(
            "/name",
            "malformed",
            "A tenant's name has 1 to 63 letters, digits, spaces, dots, dashes or underscores, "
            "and begins and ends with a letter or digit.",
        )


def _name_taken(error: IntegrityError, name: str) -> Exception:
    if "tenant_name_unique_among_siblings" in str(error):
        return NameTaken(f"There is a tenant {name} here already.", name=name)
    return error
