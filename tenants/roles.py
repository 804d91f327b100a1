"""Roles and permissions, as data. Pure: no Django, no I/O.

A permission is `<noun>.<verb>`. A role holds the permissions of the roles below it. Cloud operators
(`User.is_operator`) hold every permission everywhere; those in `CLOUD_ONLY` belong to no tenant role at all.
"""

from __future__ import annotations

from typing import Final

OWNER: Final = "owner"
ADMIN: Final = "admin"
OPERATOR: Final = "operator"
VIEWER: Final = "viewer"

# Lowest first; the index is the rank.
ROLES: Final[tuple[str, ...]] = (VIEWER, OPERATOR, ADMIN, OWNER)

SCOPE_FULL: Final = "full"
SCOPE_READ: Final = "read"
SCOPES: Final[tuple[str, ...]] = (SCOPE_FULL, SCOPE_READ)


def _permissions(text: str) -> frozenset[str]:
    """'instance.read,start tenant.read' -> {'instance.read', 'instance.start', 'tenant.read'}."""
    pairs = (word.split(".") for word in text.split())
    return frozenset(f"{noun}.{verb}" for noun, verbs in pairs for verb in verbs.split(","))


# What each role adds to the one below it.
_ADDED: Final[dict[str, frozenset[str]]] = {
    VIEWER: _permissions(
        "instance.read,console_log keypair.read member.read quota.read tenant.read flavor.read image.read pool.read price.read "
        "operation.read decision.read usage.read grant.read group.read token.read,create,delete"
    ),
    OPERATOR: _permissions(
        "instance.create,update,start,stop,reboot,resize,delete,console keypair.create,delete group.create,delete "
        "operation.cancel,retry"
    ),
    # token.manage: other members' tokens. quota.update: the limits of the tenants below, never one's own.
    ADMIN: _permissions(
        "member.create,update,delete token.manage tenant.create,update,move quota.update audit.read grant.create,update,delete"
    ),
    OWNER: _permissions("tenant.delete"),
}

# Held by the cloud's operators alone.
CLOUD_ONLY: Final[frozenset[str]] = _permissions(
    "alarm.read host.read,create,update,enable,disable,prove,drain,fence,delete pool.create,update,delete "
    "instance.migrate,prioritize migration.read "
    "flavor.create,update,delete image.create,update,delete user.read,create,update,delete price.update ledger.read cloud.read"
)

# Read by anybody who is logged in, whatever the tenant.
CATALOGUE: Final[frozenset[str]] = _permissions("flavor.read image.read pool.read price.read")

PERMISSIONS_BY_ROLE: Final[dict[str, frozenset[str]]] = {
    role: frozenset().union(*(_ADDED[lower] for lower in ROLES[: rank + 1])) for rank, role in enumerate(ROLES)
}

ALL_PERMISSIONS: Final[frozenset[str]] = PERMISSIONS_BY_ROLE[OWNER] | CLOUD_ONLY

# What a token of scope "read" may do.
READ_PERMISSIONS: Final[frozenset[str]] = frozenset(
    permission for permission in ALL_PERMISSIONS if permission.endswith(".read")
) | {"instance.console_log"}


def rank(role: str | None) -> int:
    """0 for viewer up to 3 for owner; -1 for no role."""
    return -1 if role is None else ROLES.index(role)


def highest(roles: list[str]) -> str | None:
    """The strongest of some roles, None of none."""
    return max(roles, key=rank, default=None)


def allows(role: str | None, permission: str) -> bool:
    """Whether a tenant role holds a permission."""
    return role is not None and permission in PERMISSIONS_BY_ROLE[role]


def roles_with(permission: str) -> tuple[str, ...]:
    """The tenant roles that hold a permission; empty for what only cloud operators may."""
    return tuple(role for role in ROLES if permission in PERMISSIONS_BY_ROLE[role])
