"""selectors.py: reads within a scope."""

from __future__ import annotations

import uuid

import pytest

from tenants import selectors
from tenants.errors import AmbiguousName, NotFound
from tenants.models import AuditEvent, Membership, Quota
from tenants.scope import ALL, ScopeError, tenant_scope
from tenants.services import audit, tenants, tokens
from tests.factories.tenants import SYSTEM, make_member, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def tree():
    acme, other = make_tenant("acme"), make_tenant("other")
    return {
        "acme": acme,
        "dev": make_tenant("dev", parent=acme),
        "other": other,
        "other/dev": make_tenant("dev", parent=other),
    }


def test_nothing_is_read_outside_a_scope(tree):
    for read in (
        selectors.tenants,
        lambda: selectors.get_tenant("acme"),
        lambda: selectors.members(tree["acme"]),
        lambda: selectors.tokens(tree["acme"]),
        lambda: selectors.quotas(tree["acme"]),
        selectors.audit_events,
    ):
        with pytest.raises(ScopeError):
            read()


def test_tenant_is_found_by_id_name_or_path(tree):
    with tenant_scope(ALL):
        for reference in (tree["dev"].id, str(tree["dev"].id), "acme/dev", "ACME/Dev"):
            assert selectors.get_tenant(reference) == tree["dev"]
        assert selectors.get_tenant("other") == tree["other"]


def test_ambiguous_name_is_refused_unless_the_scope_settles_it(tree):
    with tenant_scope(ALL), pytest.raises(AmbiguousName) as caught:
        selectors.get_tenant("dev")
    assert set(caught.value.data["ids"]) == {str(tree["dev"].id), str(tree["other/dev"].id)}
    with tenant_scope({tree["dev"].id}):
        assert selectors.get_tenant("dev") == tree["dev"]


def test_foreign_deleted_and_absent_tenants_are_all_not_found(tree):
    tenants.delete_tenant(actor=SYSTEM, tenant=tree["dev"])
    with tenant_scope({tree["acme"].id, tree["dev"].id}):
        for reference in (
            tree["other"].id,
            "other",
            "other/dev",
            tree["dev"].id,
            "dev",
            uuid.uuid4(),
            "",
            "/",
            "acme/",
        ):
            with pytest.raises(NotFound):
                selectors.get_tenant(reference)


def test_belongings_show_the_strongest_role_along_the_path(tree):
    user = make_user()
    make_member(tree["acme"], "operator", user)
    make_member(tree["dev"], "viewer", user)
    make_member(tree["other/dev"], "owner", user)
    found = [(entry.tenant.id, entry.role, entry.inherited) for entry in selectors.belongings(user)]
    assert found == [
        (tree["acme"].id, "operator", False),
        (tree["dev"].id, "operator", True),
        (tree["other/dev"].id, "owner", False),
    ]
    assert selectors.belongings(make_user()) == []


def test_members_and_tokens_are_those_of_one_tenant(tree):
    user = make_user("zoe")
    member = make_member(tree["acme"], "viewer", user)
    make_member(tree["other"], "viewer", user)
    make_token(user, tree["acme"])
    make_token(user, tree["other"])
    with tenant_scope({tree["acme"].id}):
        assert list(selectors.members(tree["acme"])) == [member]
        assert not selectors.members(tree["other"]).exists()
        token = selectors.tokens(tree["acme"]).get()
        assert not selectors.tokens(tree["other"]).exists()
        for reference in (member.id, user.id, str(user.id), "ZOE"):
            assert selectors.get_member(tree["acme"], reference) == member
        with pytest.raises(NotFound):
            selectors.get_member(tree["acme"], "nobody")
        assert selectors.get_token(tree["acme"], token.id) == token
        assert not selectors.tokens(tree["acme"], user=make_user()).exists()
        tokens.revoke_token(actor=SYSTEM, token=token)
        with pytest.raises(NotFound):
            selectors.get_token(tree["acme"], token.id)


def test_the_clouds_own_events_are_for_operators(tree):
    audit.record(actor=SYSTEM, action="pool.update", target=("pool", None, "p"))
    with tenant_scope({tree["acme"].id}):
        assert {event.tenant_id for event in selectors.audit_events()} == {tree["acme"].id}
    with tenant_scope(ALL):
        newest = selectors.audit_events().first()
        assert newest.action == "pool.update"
        assert selectors.audit_events().count() == AuditEvent.unscoped.count()


def test_quotas_of_one_tenant(tree):
    with tenant_scope(ALL):
        assert {row.tenant_id for row in selectors.quotas(tree["dev"])} == {tree["dev"].id}


def test_users_are_found_by_id_or_name():
    user = make_user("Zoe")
    for reference in (user.id, str(user.id), "zoe"):
        assert selectors.get_user(reference) == user
    for reference in (uuid.uuid4(), "nobody", ""):
        with pytest.raises(NotFound):
            selectors.get_user(reference)


def test_ledger_of_members_tokens_and_tenants_is_true_and_a_lie_is_found(tree):
    user = make_user()
    make_member(tree["dev"], "viewer", user)
    make_token(user, tree["dev"])
    assert selectors.ledger_faults({}) == []
    assert {
        (fault.tenant_name, fault.expected) for fault in selectors.ledger_faults({(tree["dev"].id, "vcpus"): 3})
    } == {
        ("acme", 3),
        ("dev", 3),
    }
    Membership.unscoped.filter(user=user).delete()
    faults = selectors.ledger_faults({})
    assert {(fault.tenant_name, fault.resource, fault.used, fault.expected) for fault in faults} == {
        ("acme", "members", 1, 0),
        ("dev", "members", 1, 0),
    }
    Quota.unscoped.filter(tenant=tree["other"], resource="tenants").delete()
    assert ("other", "tenants", 0, 1) in {
        (fault.tenant_name, fault.resource, fault.used, fault.expected) for fault in selectors.ledger_faults({})
    }
