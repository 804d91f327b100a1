"""roles.py: the permission table."""

from __future__ import annotations

import itertools

import pytest

from tenants import roles


def test_each_role_holds_all_of_the_role_below_and_more():
    for lower, higher in itertools.pairwise(roles.ROLES):
        assert roles.PERMISSIONS_BY_ROLE[lower] < roles.PERMISSIONS_BY_ROLE[higher]


def test_no_tenant_role_holds_a_cloud_permission():
    assert not roles.CLOUD_ONLY & roles.PERMISSIONS_BY_ROLE[roles.OWNER]
    assert {"host.read", "host.disable", "pool.update", "user.create", "flavor.update"} <= roles.CLOUD_ONLY


@pytest.mark.parametrize(
    ("permission", "lowest"),
    [
        ("instance.read", "viewer"),
        ("instance.create", "operator"),
        ("instance.console", "operator"),
        ("keypair.create", "operator"),
        ("operation.retry", "operator"),
        ("member.create", "admin"),
        ("audit.read", "admin"),
        ("quota.update", "admin"),
        ("tenant.create", "admin"),
        ("tenant.delete", "owner"),
    ],
)
def test_permission_starts_at_its_role(permission, lowest):
    assert roles.roles_with(permission) == roles.ROLES[roles.ROLES.index(lowest) :]


def test_read_scope_changes_nothing():
    changing = {
        "create",
        "update",
        "delete",
        "start",
        "stop",
        "reboot",
        "resize",
        "manage",
        "cancel",
        "retry",
        "enable",
        "console",
    }
    assert not {name for name in roles.READ_PERMISSIONS if name.split(".")[1] in changing}
    assert "instance.read" in roles.READ_PERMISSIONS


def test_highest_of_no_roles_is_none():
    assert roles.highest([]) is None
    assert roles.highest(["viewer", "owner", "admin"]) == "owner"
