"""The smallest valid users, tenants and actors for tests; made by the services, so every row that belongs to them
exists.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from tenants.models import Membership, Tenant, User
from tenants.services import members, quotas, tokens
from tenants.services.access import Actor, actor_for_user, system_actor
from tenants.services.tenants import create_tenant

_numbers = itertools.count(1)
SYSTEM = system_actor("tests")
PASSWORD = "correct horse battery staple"


def make_user(username: str | None = None, *, is_operator: bool = False, password: str | None = None) -> User:
    """A user; with a usable password only if one is given (hashing is slow)."""
    user = User(username=username or f"user{next(_numbers)}", is_operator=is_operator)
    if password is None:
        user.set_unusable_password()
    else:
        user.set_password(password)
    user.save()
    return user


def make_tenant(
    name: str | None = None,
    *,
    parent: Tenant | None = None,
    owner: User | None = None,
    limits: Mapping[str, int | None] | None = None,
) -> Tenant:
    return create_tenant(
        actor=SYSTEM, name=name or f"tenant{next(_numbers)}", parent=parent, owner=owner, limits=limits
    )


def make_member(tenant: Tenant, role: str, user: User | None = None) -> Membership:
    return members.add_member(actor=SYSTEM, tenant=tenant, user=user or make_user(), role=role)


def make_actor(role: str | None = None, tenant: Tenant | None = None, *, is_operator: bool = False) -> Actor:
    """The actor of a fresh user with a role in the tenant (None: a stranger, or a cloud operator)."""
    user = make_user(is_operator=is_operator)
    if role is not None:
        assert tenant is not None
        make_member(tenant, role, user)
    return actor_for_user(user=user, tenant_id=None if tenant is None else tenant.id)


def make_token(user: User, tenant: Tenant | None, *, scope: str = "full") -> str:
    """The text of a fresh token."""
    return tokens.create_token(actor=SYSTEM, user=user, tenant=tenant, name="test", scope=scope)[1]


def use(tenant: Tenant, **amounts: int) -> None:
    """Charge quota; call inside a transaction."""
    quotas.charge(tenant=tenant, amounts=amounts)
