"""Who belongs to a tenant, as what. Nobody gives, changes or takes a role above their own; the last owner stays."""

from __future__ import annotations

from django.db import transaction
from django.utils import timezone

from tenants import roles
from tenants.errors import Conflict, InvalidInput, NotFound, PermissionDenied
from tenants.models import ApiToken, Membership, Tenant, User
from tenants.services import audit, quotas, tree
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
    """Take a user's role away. Everybody may leave.

    The tokens that lose their footing by it, here and below, are revoked: they must not wake up if the user comes back.
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
        quotas.release_many(items=[(tenant, {"members": 1}), *_revoke_tokens_without_role(tenant, user)])


def _revoke_tokens_without_role(tenant: Tenant, user: User) -> list[tuple[Tenant, dict[str, int]]]:
    """Revoke the user's tokens at and below a tenant where no role is left; returns what that gives back."""
    live = ApiToken.unscoped.filter(user=user, revoked_at=None)
    releases = []
    for bound in Tenant.objects.filter(path__contains=[tenant.id], id__in=live.values("tenant_id")).order_by("id"):
        if not user.is_operator and not Membership.unscoped.filter(user=user, tenant_id__in=bound.path).exists():
            count = live.filter(tenant=bound).update(revoked_at=timezone.now())
            releases.append((bound, {"tokens": count}))
    return releases


def _lock(tenant: Tenant) -> None:
    """One change of members at a time: else two owners could remove each other at once and leave none."""
    tree.hold()
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
