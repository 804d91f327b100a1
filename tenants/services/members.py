"""Who belongs to a tenant, as what. Nobody gives, changes or takes a role above their own; the last owner stays."""

from __future__ import annotations

from django.db import transaction

from tenants import roles
from tenants.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from tenants.models import Membership, Tenant, User
from tenants.services import audit, quotas
from tenants.services.access import Actor, authorize, standing


def add_member(*, actor: Actor, tenant: Tenant, user: User, role: str) -> Membership:
    """Give a user a role in a tenant and all below. Raises Conflict for a member, InvalidInput, PermissionDenied,
    NotFound, QuotaExceeded (resource "members").
    """
    authorize(actor, "member.create", tenant)
    _check_rank(actor, tenant, role)
    with transaction.atomic():
        _lock(tenant)
        if Membership.unscoped.filter(tenant=tenant, user=user).exists():
            raise Conflict(f"{user.username} is a member already; change the role instead.", reason="is_member")
        member = Membership.unscoped.create(tenant=tenant, user=user, role=role)
        audit.record(actor=actor, action="member.create", tenant=tenant, target=user, after=member.as_audit())
        quotas.charge(tenant=tenant, amounts={"members": 1}, actor=actor)
    return member


def change_role(*, actor: Actor, tenant: Tenant, user: User, role: str) -> Membership:
    """Give a member another role. Raises Conflict for the last owner, InvalidInput, PermissionDenied, NotFound."""
    authorize(actor, "member.update", tenant)
    _check_rank(actor, tenant, role)
    with transaction.atomic():
        _lock(tenant)
        member = _member(tenant, user)
        _check_rank(actor, tenant, member.role)
        if member.role == role:
            return member
        if member.role == roles.OWNER:
            _keep_an_owner(tenant, member)
        before = member.as_audit()
        member.role = role
        member.save(update_fields=["role", "updated_at"])
        audit.record(
            actor=actor, action="member.update", tenant=tenant, target=user, before=before, after=member.as_audit()
        )
    return member


def remove_member(*, actor: Actor, tenant: Tenant, user: User) -> None:
    """Take a user's role away. Everybody may leave; the user's tokens stay, and stop working here at once.

    Raises Conflict for the last owner, PermissionDenied, NotFound.
    """
    leaving = actor.user_id == user.id and actor.kind == "user"
    authorize(actor, "member.read" if leaving else "member.delete", tenant)
    with transaction.atomic():
        _lock(tenant)
        member = _member(tenant, user)
        if not leaving:
            _check_rank(actor, tenant, member.role)
        if member.role == roles.OWNER:
            _keep_an_owner(tenant, member)
        before = member.as_audit()
        member.delete()
        audit.record(actor=actor, action="member.delete", tenant=tenant, target=user, before=before)
        quotas.release(tenant=tenant, amounts={"members": 1})


def _lock(tenant: Tenant) -> None:
    """One change of members at a time: else two owners could remove each other at once and leave none."""
    held = Tenant.objects.select_for_update(no_key=True).filter(id=tenant.id).first()
    if held is None or held.state == Tenant.State.DELETED:
        raise NotFound


def _member(tenant: Tenant, user: User) -> Membership:
    member = Membership.unscoped.filter(tenant=tenant, user=user).first()
    if member is None:
        raise NotFound
    return member


def _check_rank(actor: Actor, tenant: Tenant, role: str) -> None:
    if role not in roles.ROLES:
        raise InvalidInput.field("/role", "unknown", "A role is one of " + ", ".join(reversed(roles.ROLES)) + ".")
    if roles.rank(role) > roles.rank(standing(actor=actor, tenant=tenant).role):
        raise PermissionDenied("This role is higher than your own.")


def _keep_an_owner(tenant: Tenant, leaving: Membership) -> None:
    """Tenants below the top have the owners above them, so only a top tenant can lose its last one."""
    owners = Membership.unscoped.filter(tenant_id__in=tenant.path, role=roles.OWNER, user__is_active=True)
    if not owners.exclude(id=leaving.id).exists():
        raise Conflict("A tenant keeps at least one active owner.", reason="last_owner")
