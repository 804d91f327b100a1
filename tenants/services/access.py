"""Who may do what. Default deny; every question is one query against the rows as they are now, so a disabled user,
a lowered role, a revoked token and a disabled tenant take effect with the next request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from tenants import prepared, roles
from tenants.errors import DomainError, NotFound, PermissionDenied, TenantDisabled, TokenInvalid
from tenants.models import ApiToken, Tenant, User
from tenants.scope import ALL, Scope

Kind = Literal["user", "token", "system"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts. `tenant_id`: the tenant a token is bound to, or the one that a person has chosen in the portal.

    `is_operator`: acts with a cloud operator's powers (a tenant-bound token never does, whoever owns it).
    `scope`: "full" or "read". `kind` "system" is the product itself; it has no user and may do everything.
    """

    username: str
    user_id: UUID | None = None
    tenant_id: UUID | None = None
    is_operator: bool = False
    token_id: UUID | None = None
    scope: str = roles.SCOPE_FULL
    request_id: str = ""
    kind: Kind = "user"


@dataclass(frozen=True, slots=True)
class Standing:
    """What an actor is in one tenant. `role`: own or inherited, None = stranger. `active`: the whole path is."""

    role: str | None
    as_operator: bool
    active: bool


def system_actor(name: str, *, request_id: str = "") -> Actor:
    """The product itself: reconcilers, the engine, set-up. `name` says which part, for the audit trail."""
    return Actor(username=name, kind="system", is_operator=True, request_id=request_id)


def actor_for_user(*, user: User, tenant_id: UUID | None = None, request_id: str = "") -> Actor:
    """The actor of a logged-in person."""
    return Actor(
        username=user.username,
        user_id=user.id,
        tenant_id=tenant_id,
        is_operator=user.is_operator,
        request_id=request_id,
    )


def actor_for_token(*, token: ApiToken, request_id: str = "") -> Actor:
    """The actor of a token that has been authenticated. A token bound to a tenant holds no operator's powers."""
    return Actor(
        username=token.user.username,
        user_id=token.user_id,
        tenant_id=token.tenant_id,
        is_operator=token.user.is_operator and token.tenant_id is None,
        token_id=token.id,
        scope=token.scope,
        request_id=request_id,
        kind="token",
    )


# The actor's user and token as they are now, and the tenant's path with the user's roles along it: one row, always.
_STANDING: Final = """
SELECT u.is_operator,
       %(token)s::uuid IS NULL OR EXISTS (
           SELECT FROM tenants_apitoken k
           WHERE k.id = %(token)s AND k.user_id = u.id AND k.revoked_at IS NULL
             AND (k.expires_at IS NULL OR k.expires_at > clock_timestamp())),
       t.id IS NOT NULL AND t.state <> 'deleted' AND (%(root)s::uuid IS NULL OR %(root)s = ANY(t.path)),
       NOT EXISTS (SELECT FROM tenants_tenant a WHERE a.id = ANY(t.path) AND a.state <> 'active'),
       ARRAY(SELECT m.role FROM tenants_membership m WHERE m.user_id = u.id AND m.tenant_id = ANY(t.path))
FROM tenants_user u LEFT JOIN tenants_tenant t ON t.id = %(tenant)s
WHERE u.id = %(user)s AND u.is_active
"""


def standing(*, actor: Actor, tenant: Tenant | UUID | None) -> Standing:
    """What the actor is in a tenant (None: in the cloud as a whole).

    Raises PermissionDenied for a disabled user, TokenInvalid for a dead token, NotFound for a tenant that is absent,
    deleted, or outside the token's part of the tree.
    """
    tenant_id = tenant.id if isinstance(tenant, Tenant) else tenant
    if actor.kind == "system":
        return Standing(role=roles.OWNER, as_operator=True, active=True)
    rows = prepared.run(
        _STANDING,
        {
            "user": actor.user_id,
            "token": actor.token_id,
            "tenant": tenant_id,
            "root": actor.tenant_id if actor.kind == "token" else None,
        },
    )
    if not rows:
        raise PermissionDenied("This user is disabled.")
    is_operator, token_alive, there, active, held = rows[0]
    if not token_alive:
        raise TokenInvalid
    if tenant_id is not None and not there:
        raise NotFound
    # An operator's token that is bound to a tenant is an owner's key to that part of the tree, no more.
    return Standing(
        role=roles.OWNER if is_operator else roles.highest(held),
        as_operator=is_operator and actor.is_operator,
        active=active,
    )


def authorize(actor: Actor, permission: str, tenant: Tenant | UUID | None) -> None:
    """Return if the actor may; raise otherwise. `tenant` None: something of the whole cloud (hosts, users, catalogue).

    Raises NotFound where the actor has no role in the tenant or above it (a foreign tenant looks like none at all);
    PermissionDenied where the role or the token's scope lacks the permission, or the user is disabled; TenantDisabled;
    TokenInvalid; ValueError for a permission that does not exist.
    """
    if permission not in roles.ALL_PERMISSIONS:
        raise ValueError(f"no such permission: {permission}")
    if actor.kind == "system":
        return
    here = standing(actor=actor, tenant=tenant)
    if tenant is not None and here.role is None:
        raise NotFound
    if actor.scope != roles.SCOPE_FULL and permission not in roles.READ_PERMISSIONS:
        raise PermissionDenied("This token may only read.")
    if here.as_operator:
        # Operators tidy up in disabled tenants; nobody adds to them.
        if tenant is not None and not here.active and permission.endswith(".create"):
            raise TenantDisabled
        return
    if tenant is None:
        if permission not in roles.CATALOGUE:
            raise PermissionDenied
        return
    if not roles.allows(here.role, permission):
        raise PermissionDenied
    if not here.active:
        raise TenantDisabled


def authorize_from_above(actor: Actor, permission: str, tenant: Tenant) -> None:
    """For what is decided about a tenant, not in it (its limits, switching it off): the role in the *parent* counts.

    A top tenant's is decided by the cloud's operators. Raises as `authorize` does; whoever belongs to the tenant but
    not to its parent is told PermissionDenied, a stranger NotFound.
    """
    if actor.kind == "system":
        return
    here = standing(actor=actor, tenant=tenant)
    if here.role is None:
        raise NotFound
    if tenant.parent_id is not None:
        try:
            authorize(actor, permission, tenant.parent_id)
        except NotFound:
            raise PermissionDenied("This is decided by the tenant above.")
        return
    if not here.as_operator:
        raise PermissionDenied("This is decided by the operators of the cloud.")
    authorize(actor, permission, tenant)


def authorize_past(actor: Actor, permission: str, tenant: Tenant | None) -> None:
    """`authorize` for what is kept of a tenant that may be closed or deleted: the nearest one above that is not decides.

    What it used is part of the figures above it all the same. Of a tree that is wholly gone only the cloud's operators
    are told. Raises as `authorize` does.
    """
    gone = tenant is not None and tenant.state == Tenant.State.DELETED
    refusal: DomainError = NotFound()
    if not gone:
        try:
            authorize(actor, permission, tenant)
        except TenantDisabled as error:
            refusal = error
        else:
            return
    assert tenant is not None
    above = None
    for level in tenant.ancestors():
        if level.state != Tenant.State.ACTIVE:
            break
        above = level
    if above is None and not actor.is_operator:
        raise refusal
    try:
        authorize(actor, permission, above)
    except NotFound:
        raise refusal from None


def is_allowed(actor: Actor, permission: str, tenant: Tenant | UUID | None) -> bool:
    """`authorize` as a question, for pages that show or hide a button. Never a substitute for it."""
    try:
        authorize(actor, permission, tenant)
    except (PermissionDenied, NotFound, TokenInvalid):
        return False
    return True


_VISIBLE: Final = """
SELECT t.id FROM tenants_tenant t
WHERE t.state <> 'deleted'
  AND (%(root)s::uuid IS NULL OR %(root)s = ANY(t.path))
  AND (%(everywhere)s OR t.path && ARRAY(
        SELECT m.tenant_id FROM tenants_membership m
        WHERE m.user_id = %(user)s AND m.role = ANY(%(roles)s)))
  AND (NOT %(active)s OR NOT EXISTS (
        SELECT FROM tenants_tenant a WHERE a.id = ANY(t.path) AND a.state <> 'active'))
  AND EXISTS (SELECT FROM tenants_user u WHERE u.id = %(user)s AND u.is_active
              AND (NOT %(everywhere)s OR u.is_operator))
"""


def visible_tenant_ids(actor: Actor, permission: str | None = None) -> Scope:
    """The tenants that the actor sees: ALL for operators and the product itself, else where it has a role, and below.

    With a permission: only those where it holds that permission and that are active. Ready for `tenant_scope`.
    """
    if actor.kind == "system":
        return ALL
    bound = actor.tenant_id if actor.kind == "token" else None
    operator_user = False
    if actor.user_id is not None and (actor.is_operator or bound is not None):
        operator_user = User.objects.filter(id=actor.user_id, is_active=True, is_operator=True).exists()
    if actor.is_operator and operator_user:
        return ALL
    if actor.scope != roles.SCOPE_FULL and permission is not None and permission not in roles.READ_PERMISSIONS:
        return frozenset()
    found = prepared.run(
        _VISIBLE,
        {
            "user": actor.user_id,
            "root": bound,
            "everywhere": operator_user,
            "roles": list(roles.ROLES if permission is None else roles.roles_with(permission)),
            "active": permission is not None,
        },
    )
    return frozenset(row[0] for row in found)
