"""Reads. What belongs to tenants is read in a `tenant_scope`, opened with `access.visible_tenant_ids` by the door."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from django.db.models import Count, QuerySet

from tenants import prepared, roles
from tenants.errors import AmbiguousName, NotFound
from tenants.models import ApiToken, AuditEvent, Membership, Quota, Tenant, User
from tenants.scope import ALL, current_scope, narrow


def tenants() -> QuerySet[Tenant]:
    """The living tenants in scope, by name."""
    return narrow(Tenant.objects.exclude(state=Tenant.State.DELETED), "id").select_related("parent")


def get_tenant(reference: str | UUID) -> Tenant:
    """A tenant in scope by id, by name, or by path of names ("acme/dev"). Raises NotFound, AmbiguousName."""
    identifier = _as_id(reference)
    if identifier is not None:
        scope = current_scope()
        found = prepared.ask_rows(Tenant, "id = %s AND state <> 'deleted'", [identifier])()
        if not found or (scope is not ALL and identifier not in scope):
            raise NotFound
        return found[0]
    *above, name = str(reference).split("/")
    matches = list(tenants().filter(name__iexact=name))
    if above:
        names = tenant_paths(matches)
        matches = [tenant for tenant in matches if names[tenant.id].lower() == str(reference).lower()]
    if not matches:
        raise NotFound
    if len(matches) > 1:
        raise AmbiguousName(
            f"{reference} fits {len(matches)} tenants; use the id, or the path of names.",
            name=str(reference),
            ids=[str(tenant.id) for tenant in matches],
        )
    return matches[0]


def find_deleted_tenant(reference: str | UUID) -> Tenant | None:
    """A tenant that is deleted, by id alone, whatever the scope: the caller asks `access.authorize_past`."""
    identifier = _as_id(reference)
    if identifier is None:
        return None
    return Tenant.objects.filter(id=identifier, state=Tenant.State.DELETED).first()


def tenant_paths(found: list[Tenant]) -> dict[UUID, str]:
    """The path of names ("acme/dev") of each tenant, from the root down. One query."""
    ids = {identifier for tenant in found for identifier in tenant.path}
    names = dict(Tenant.objects.filter(id__in=ids).values_list("id", "name"))
    return {tenant.id: "/".join(names[identifier] for identifier in tenant.path) for tenant in found}


@dataclass(frozen=True, slots=True)
class Belonging:
    """A tenant that a user reaches, and the strongest role there, its own or inherited."""

    tenant: Tenant
    role: str
    inherited: bool


def belongings(user: User) -> list[Belonging]:
    """Every living tenant in which a user has a role, parents before children. Needs no scope."""
    own = dict(Membership.unscoped.filter(user=user).values_list("tenant_id", "role"))
    if not own:
        return []
    reached = Tenant.objects.filter(path__overlap=list(own)).exclude(state=Tenant.State.DELETED)
    result = []
    for tenant in sorted(reached, key=lambda tenant: (tenant.depth, tenant.name)):
        role = roles.highest([own[level] for level in tenant.path if level in own])
        if role is not None:
            result.append(Belonging(tenant=tenant, role=role, inherited=own.get(tenant.id) != role))
    return result


def members(tenant: Tenant) -> QuerySet[Membership]:
    """The tenant's own members, with their users."""
    return Membership.objects.filter(tenant=tenant).select_related("user").order_by("user__username")


def get_member(tenant: Tenant, reference: str | UUID) -> Membership:
    """A member by the membership's or the user's id, or by user name. Raises NotFound."""
    rows = members(tenant)
    identifier = _as_id(reference)
    if identifier is None:
        found = rows.filter(user__username__iexact=str(reference)).first()
    else:
        found = rows.filter(id=identifier).first() or rows.filter(user_id=identifier).first()
    if found is None:
        raise NotFound
    return found


def tokens(tenant: Tenant | None, *, user: User | UUID | None = None) -> QuerySet[ApiToken]:
    """The living tokens of a tenant (None: of the cloud's operators), or only one user's of them."""
    rows = ApiToken.objects.filter(tenant=tenant, revoked_at=None).select_related("user")
    if user is not None:
        rows = rows.filter(user_id=user.id if isinstance(user, User) else user)
    return rows


def get_token(tenant: Tenant | None, token_id: UUID) -> ApiToken:
    """A living token by id. Raises NotFound."""
    found = tokens(tenant).filter(id=token_id).first()
    if found is None:
        raise NotFound
    return found


def quotas(tenant: Tenant) -> QuerySet[Quota]:
    """The tenant's own quota rows, by resource."""
    return Quota.objects.filter(tenant=tenant).order_by("resource")


def audit_events() -> QuerySet[AuditEvent]:
    """Audit events in scope, newest first. The scope ALL has the cloud's own as well, which have no tenant."""
    return AuditEvent.objects.order_by("-id")


def users() -> QuerySet[User]:
    """All users, for operators."""
    return User.objects.order_by("username")


def get_user(reference: str | UUID) -> User:
    """A user by id or by name. Raises NotFound."""
    identifier = _as_id(reference)
    rows = (
        User.objects.filter(id=identifier)
        if identifier is not None
        else User.objects.filter(username__iexact=reference)
    )
    found = rows.first()
    if found is None:
        raise NotFound
    return found


@dataclass(frozen=True, slots=True)
class LedgerFault:
    """A quota row that does not say what it should."""

    tenant_id: UUID
    tenant_name: str
    resource: str
    used: int
    expected: int


def direct_use() -> dict[tuple[UUID, str], int]:
    """What each tenant holds itself of the things that live in this app: (tenant, resource) -> count."""
    use: dict[tuple[UUID, str], int] = {}
    for tenant_id, count in Membership.unscoped.values_list("tenant_id").annotate(n=Count("id")).order_by():
        use[tenant_id, "members"] = count
    live = ApiToken.unscoped.filter(revoked_at=None, tenant__isnull=False)
    for tenant_id, count in live.values_list("tenant_id").annotate(n=Count("id")).order_by():
        use[tenant_id, "tokens"] = count
    children = Tenant.objects.exclude(state=Tenant.State.DELETED).filter(parent__isnull=False)
    for tenant_id, count in children.values_list("parent_id").annotate(n=Count("id")).order_by():
        use[tenant_id, "tenants"] = count
    return use


def ledger_faults(others_use: Mapping[tuple[UUID, str], int]) -> list[LedgerFault]:
    """Every quota row whose `used` is not the sum of what the tenant and all tenants below it hold (invariant I3).

    `others_use`: (tenant, resource) -> amount held directly, counted by the apps above in the same snapshot: run it in
    a REPEATABLE READ transaction, or on a cloud at rest, else a charge between two reads shows as a fault.
    """
    tree = {tenant.id: tenant for tenant in Tenant.objects.all()}
    expected: dict[tuple[UUID, str], int] = {}
    for use in (direct_use(), others_use):
        for (tenant_id, resource), amount in use.items():
            for level in tree[tenant_id].path:
                expected[level, resource] = expected.get((level, resource), 0) + amount
    faults = [
        LedgerFault(row.tenant_id, tree[row.tenant_id].name, row.resource, row.used, right)
        for row in Quota.unscoped.order_by("tenant_id", "resource")
        if row.used != (right := expected.pop((row.tenant_id, row.resource), 0))
    ]
    # What is left was held without any row to count it.
    faults += [
        LedgerFault(tenant_id, tree[tenant_id].name, resource, 0, amount)
        for (tenant_id, resource), amount in sorted(expected.items(), key=str)
        if amount
    ]
    return faults


def _as_id(reference: str | UUID) -> UUID | None:
    if isinstance(reference, UUID):
        return reference
    try:
        return UUID(reference)
    except ValueError:
        return None
