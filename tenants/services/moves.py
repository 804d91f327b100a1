"""Moving a tenant, with all below it, to another place in the tree.

Its use leaves the levels that it leaves and enters those that it enters, in the transaction that rewrites the paths:
whatever is charged meanwhile is either part of the sum that moves, or goes up the new path (`tree.hold_alone`).
Roles are inherited along the path, so they change with the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from tenants import roles
from tenants.errors import (
    Conflict,
    NameTaken,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    TenantDisabled,
    VersionMismatch,
)
from tenants.models import ApiToken, Membership, Quota, Tenant
from tenants.scope import ALL
from tenants.services import audit, metering, quotas, tree
from tenants.services.access import Actor, authorize, authorize_from_above, standing, visible_tenant_ids
from tenants.services.quota_forecast import QuotaEffect, forecast_at, shown_lines

# The old path's part above the tenant is cut off, the new parent's path put in its place.
_REWRITE: Final = """
UPDATE tenants_tenant
SET path = %(above)s::uuid[] || path[array_position(path, %(tenant)s):],
    parent_id = CASE WHEN id = %(tenant)s THEN %(parent)s ELSE parent_id END,
    version = version + CASE WHEN id = %(tenant)s THEN 1 ELSE 0 END,
    updated_at = CASE WHEN id = %(tenant)s THEN now() ELSE updated_at END
WHERE path @> ARRAY[%(tenant)s::uuid]
"""
# Tokens in the subtree whose user has no role along the new path.
_WITHOUT_FOOTING: Final = """
SELECT k.id, k.tenant_id
FROM tenants_apitoken k
JOIN tenants_tenant b ON b.id = k.tenant_id
JOIN tenants_user u ON u.id = k.user_id
WHERE b.path @> ARRAY[%(tenant)s::uuid] AND k.revoked_at IS NULL AND NOT u.is_operator
  AND NOT EXISTS (
      SELECT FROM tenants_membership m
      WHERE m.user_id = k.user_id
        AND m.tenant_id = ANY(%(above)s::uuid[] || b.path[array_position(b.path, %(tenant)s):]))
"""


@dataclass(frozen=True, slots=True)
class AccessChange:
    """A user whose strongest role in the moved tenant changes; None = no role."""

    username: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Move:
    """What a move does, or would do.

    `tenants`: how many living ones move, with the tenant itself. `amounts`: what leaves the levels above the old place
    and enters those above the new one, by resource; levels above both keep theirs. `shortages`: levels of the new place
    without room for it. `access`: whose role in the tenant changes, as far as the actor may see the members concerned;
    `hidden_gains` and `hidden_losses` count the others. `tokens`: how many lose their footing and are revoked.
    """

    tenant: Tenant
    parent: Tenant | None
    tenants: int
    amounts: dict[str, int]
    shortages: list[QuotaEffect]
    access: list[AccessChange]
    hidden_gains: int
    hidden_losses: int
    tokens: int


@dataclass(frozen=True, slots=True)
class _Way:
    """Ancestors, from the top down: those at both places, those at the old one only, those at the new one only."""

    above: tuple[UUID, ...]  # the new parent's path
    leaving: tuple[UUID, ...]
    entering: tuple[UUID, ...]

    @classmethod
    def of(cls, tenant: Tenant, parent: Tenant | None) -> _Way:
        old = tuple(tenant.path[:-1])
        new = () if parent is None else tuple(parent.path)
        common = 0
        while common < min(len(old), len(new)) and old[common] == new[common]:
            common += 1
        return cls(above=new, leaving=old[common:], entering=new[common:])


@dataclass(slots=True)
class _Roles:
    """One user's memberships that count for the moved tenant, before and after."""

    username: str
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    visible: bool = True


def plan_move(*, actor: Actor, tenant: Tenant, parent: Tenant | None, expected_version: int | None = None) -> Move:
    """What `move_tenant` would do as things are now; shortages are listed instead of raised. Changes nothing."""
    _authorize(actor, tenant, parent)
    with transaction.atomic():
        tree.hold()
        held, new_parent = _look(tenant, parent, expected_version, lock=False)
        return _examine(actor, held, new_parent)


def move_tenant(*, actor: Actor, tenant: Tenant, parent: Tenant | None, expected_version: int | None = None) -> Move:
    """Give a tenant another parent (None: make it a top tenant), with all below it.

    Needs tenant.move at the old parent and at the new one; what stands at the top is decided by cloud operators. A move
    that gives or takes a role above the actor's own is refused. Tokens whose user has no role at the new place are
    revoked. Moving it to where it is changes nothing.
    Raises QuotaExceeded for the nearest level without room (data also: `shortages`, all of them), Conflict (reason
    "cycle", "no_owner"), NameTaken, TenantDisabled, VersionMismatch, PermissionDenied, NotFound.
    """
    _authorize(actor, tenant, parent)
    with transaction.atomic():
        tree.hold_alone()
        # Again, now that nothing moves: the place of either may have been another one a moment ago.
        _authorize(actor, tenant, parent)
        held, new_parent = _look(tenant, parent, expected_version, lock=True)
        if held.parent_id == (None if new_parent is None else new_parent.id):
            return _examine(actor, held, new_parent)
        way = _Way.of(held, new_parent)
        levels = [*way.leaving, *way.entering, held.id]
        list(
            Quota.unscoped.filter(tenant_id__in=levels)
            .order_by("-tenant__path__len", "tenant_id", "resource")
            .select_for_update(of=("self",))
        )
        move = _examine(actor, held, new_parent)
        if move.shortages:
            raise _no_room(move.shortages)
        _revoke(_tokens_without_footing(held, way))
        quotas.transfer(amounts=move.amounts, leaving=way.leaving, entering=way.entering, actor=actor)
        before = held.parent_id
        _rewrite(held, new_parent, way)
        metering.follow_move(tenant_ids=list(held.descendants(include_self=True).values_list("id", flat=True)))
        for place in {held.id, before} - {None}:
            # In the trail of the old parent too: those who look there do not see the tenant any more.
            audit.record(
                actor=actor,
                action="tenant.move",
                tenant=place,
                target=held,
                before={"parent": before},
                after={"parent": None if new_parent is None else new_parent.id, "tenants": move.tenants},
            )
        return move


def _authorize(actor: Actor, tenant: Tenant, parent: Tenant | None) -> None:
    fresh = Tenant.objects.filter(id=tenant.id).first()
    if fresh is None:
        raise NotFound
    authorize_from_above(actor, "tenant.move", fresh)
    authorize(actor, "tenant.move", parent)


def _look(
    tenant: Tenant, parent: Tenant | None, expected_version: int | None, *, lock: bool
) -> tuple[Tenant, Tenant | None]:
    """Both tenants as they are now, locked if asked, and everything that forbids the move whatever the amounts."""
    rows = Tenant.objects.filter(id__in=[tenant.id, *([] if parent is None else [parent.id])])
    if lock:
        # In conflict with deletion and with a new child of the same name.
        rows = rows.order_by("-path__len", "id").select_for_update(no_key=True)
    found = {row.id: row for row in rows}
    held = found.get(tenant.id)
    new_parent = None if parent is None else found.get(parent.id)
    if held is None or held.state == Tenant.State.DELETED:
        raise NotFound
    if expected_version is not None and held.version != expected_version:
        raise VersionMismatch(version=held.version)
    if Tenant.objects.filter(id__in=held.path, state=Tenant.State.DELETING).exists():
        raise Conflict(
            "This tenant, or one above it, is being deleted; cancel that operation first.", reason="deleting"
        )
    if parent is None:
        _check_owner(held)
    else:
        if new_parent is None or new_parent.state == Tenant.State.DELETED:
            raise NotFound
        if held.id in new_parent.path:
            raise Conflict("A tenant cannot stand below itself.", reason="cycle")
        if Tenant.objects.filter(id__in=new_parent.path).exclude(state=Tenant.State.ACTIVE).exists():
            raise TenantDisabled("The new place is disabled, by itself or from above.")
    namesakes = Tenant.objects.filter(parent=new_parent, name__iexact=held.name)
    if namesakes.exclude(id=held.id).exclude(state=Tenant.State.DELETED).exists():
        raise _name_taken(held)
    return held, new_parent


def _check_owner(tenant: Tenant) -> None:
    """A top tenant keeps an active owner; below the top those above can be enough."""
    owners = Membership.unscoped.filter(tenant=tenant, role=roles.OWNER, user__is_active=True)
    if tenant.parent_id is not None and not owners.exists():
        raise Conflict("At the top a tenant needs an active owner of its own; give it one first.", reason="no_owner")


def _name_taken(tenant: Tenant) -> NameTaken:
    return NameTaken(f"There is a tenant {tenant.name} at the new place already.", name=tenant.name)


def _examine(actor: Actor, tenant: Tenant, parent: Tenant | None) -> Move:
    """Work out what the move does. Raises PermissionDenied for roles above the actor's own."""
    way = _Way.of(tenant, parent)
    there = tenant.parent_id == (None if parent is None else parent.id)
    amounts = {} if there else _amounts(tenant)
    tokens = [] if there else _tokens_without_footing(tenant, way)
    if tokens:
        amounts["tokens"] -= len(tokens)
    changes = _role_changes(actor, tenant, way)
    _check_rank(actor, tenant, parent, [change for change, _ in changes])
    hidden = [change for change, visible in changes if not visible]
    gains = sum(roles.rank(change.after) > roles.rank(change.before) for change in hidden)
    return Move(
        tenant=tenant,
        parent=parent,
        tenants=tenant.descendants(include_self=True).exclude(state=Tenant.State.DELETED).count(),
        amounts={resource: amount for resource, amount in amounts.items() if amount},
        shortages=[line for line in forecast_at(levels=way.entering, amounts=amounts, actor=actor) if line.missing],
        access=[change for change, visible in changes if visible],
        hidden_gains=gains,
        hidden_losses=len(hidden) - gains,
        tokens=len(tokens),
    )


def _no_room(shortages: Sequence[QuotaEffect]) -> QuotaExceeded:
    first = shortages[0]
    error = quotas.exceeded(
        tenant_id=first.tenant_id,
        name=first.tenant,
        resource=first.resource,
        limit=first.limit,
        used=first.used,
        asked=first.asked,
    )
    error.data["shortages"] = shown_lines(shortages)
    return error


def _amounts(tenant: Tenant) -> dict[str, int]:
    """What the tenant and all below it hold, as those above count it: the tenant itself is one of their tenants."""
    amounts = dict(Quota.unscoped.filter(tenant=tenant).values_list("resource", "used"))
    amounts["tenants"] += 1
    return amounts


def _role_changes(actor: Actor, tenant: Tenant, way: _Way) -> list[tuple[AccessChange, bool]]:
    """Each user whose strongest role in the tenant changes, by name, and whether the actor may know of it.

    Whoever's role changes further down has one that changes here: a role below that hides the change stays hidden here.
    """
    visible = visible_tenant_ids(actor, "member.read")
    rows = Membership.unscoped.filter(
        tenant_id__in=[*tenant.path, *way.entering], user__is_active=True, user__is_operator=False
    ).select_related("user")
    users: dict[UUID, _Roles] = {}
    for row in rows:
        user = users.setdefault(row.user_id, _Roles(row.user.username))
        if row.tenant_id in tenant.path:
            user.before.append(row.role)
        if row.tenant_id not in way.leaving:
            user.after.append(row.role)
        user.visible = user.visible and (visible is ALL or row.tenant_id in visible)
    changes = [
        (AccessChange(user.username, roles.highest(user.before), roles.highest(user.after)), user.visible)
        for user in sorted(users.values(), key=lambda user: user.username)
    ]
    return [(change, shown) for change, shown in changes if change.before != change.after]


def _check_rank(actor: Actor, tenant: Tenant, parent: Tenant | None, changes: Sequence[AccessChange]) -> None:
    """Nobody gives or takes a role above their own, by a move neither."""
    places = [standing(actor=actor, tenant=place) for place in (tenant.parent_id, parent) if place is not None]
    if not places or any(place.as_operator for place in places):
        return
    own = min(roles.rank(place.role) for place in places)
    if any(max(roles.rank(change.before), roles.rank(change.after)) > own for change in changes):
        raise PermissionDenied("This move would give or take a role that is higher than your own at both places.")


def _tokens_without_footing(tenant: Tenant, way: _Way) -> list[tuple[UUID, UUID]]:
    """(token, tenant it is bound to) of those that must not outlive the move."""
    with connection.cursor() as cursor:
        cursor.execute(_WITHOUT_FOOTING, {"tenant": tenant.id, "above": [str(level) for level in way.above]})
        return [(token_id, bound) for token_id, bound in cursor.fetchall()]


def _revoke(tokens: Sequence[tuple[UUID, UUID]]) -> None:
    """Revoke them and give their quota back at the old place, before the rest moves."""
    ApiToken.unscoped.filter(id__in=[token_id for token_id, _ in tokens]).update(revoked_at=timezone.now())
    bound = Tenant.objects.in_bulk({tenant_id for _, tenant_id in tokens})
    quotas.release_many(items=[(bound[tenant_id], {"tokens": 1}) for _, tenant_id in tokens])


def _rewrite(tenant: Tenant, parent: Tenant | None, way: _Way) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                _REWRITE,
                {
                    "tenant": tenant.id,
                    "parent": None if parent is None else parent.id,
                    "above": [str(level) for level in way.above],
                },
            )
    except IntegrityError as error:
        if "tenant_name_unique_among_siblings" in str(error):
            raise _name_taken(tenant)
        raise
    tenant.refresh_from_db()
