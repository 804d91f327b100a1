"""services/tenants.py: making, changing and ending tenants."""

from __future__ import annotations

import functools

import pytest
from django.db import transaction

from tenants.errors import (
    Conflict,
    InvalidInput,
    NameTaken,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    TenantDisabled,
    VersionMismatch,
)
from tenants.models import ApiToken, AuditEvent, Membership, Quota, Tenant
from tenants.services import members, quotas, tenants, tokens
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token, make_user, use

pytestmark = pytest.mark.django_db


def used(tenant, resource):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


def test_operator_makes_a_top_tenant_with_an_owner():
    owner = make_user()
    tenant = tenants.create_tenant(actor=make_actor(is_operator=True), name="acme", owner=owner)
    assert tenant.path == [tenant.id]
    assert Membership.unscoped.get(tenant=tenant).role == "owner"
    assert used(tenant, "members") == 1


def test_nobody_else_makes_a_top_tenant():
    with pytest.raises(PermissionDenied):
        tenants.create_tenant(actor=make_actor("owner", make_tenant()), name="mine")


def test_admin_makes_a_tenant_below_and_it_is_counted_in_the_parents_quota():
    root = make_tenant(limits={"tenants": 1})
    admin = make_actor("admin", root)
    child = tenants.create_tenant(actor=admin, name="dev", parent=root)
    assert child.path == [root.id, child.id]
    assert used(root, "tenants") == 1
    with pytest.raises(QuotaExceeded):
        tenants.create_tenant(actor=admin, name="test", parent=child)
    assert not Tenant.objects.filter(name="test").exists()
    with pytest.raises(PermissionDenied):
        tenants.create_tenant(actor=make_actor("operator", root), name="other", parent=root)


def test_sibling_names_are_unique_whatever_their_case_and_free_again_after_deletion():
    root = make_tenant("acme")
    with pytest.raises(NameTaken):
        make_tenant("ACME")
    child = make_tenant("dev", parent=root)
    with pytest.raises(NameTaken):
        make_tenant("Dev", parent=root)
    make_tenant("dev")
    tenants.delete_tenant(actor=SYSTEM, tenant=child)
    make_tenant("dev", parent=root)


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "-a", "a/b", "a\nb", "a\n", "</name>", "a" * 64, "naïve", "a\x00b", "\u202eabc", "<b>"]
)
def test_malformed_name_is_refused(name):
    with pytest.raises(InvalidInput) as caught:
        make_tenant(name) if name else tenants.create_tenant(actor=SYSTEM, name=name)
    assert caught.value.errors[0]["pointer"] == "/name"


def test_rename_counts_the_version_and_refuses_a_stale_one():
    tenant = make_tenant("old")
    renamed = tenants.rename_tenant(actor=SYSTEM, tenant=tenant, name="new", expected_version=1)
    assert (renamed.name, renamed.version) == ("new", 2)
    with pytest.raises(VersionMismatch):
        tenants.rename_tenant(actor=SYSTEM, tenant=tenant, name="newer", expected_version=1)
    make_tenant("taken")
    with pytest.raises(NameTaken):
        tenants.rename_tenant(actor=SYSTEM, tenant=tenant, name="taken")
    assert Tenant.objects.get(id=tenant.id).name == "new"


def test_rename_to_the_same_name_changes_nothing():
    tenant = make_tenant("same")
    assert tenants.rename_tenant(actor=SYSTEM, tenant=tenant, name="same").version == 1
    assert not AuditEvent.unscoped.filter(action="tenant.update").exists()


def test_disabling_is_decided_from_above():
    root = make_tenant()
    child = make_tenant(parent=root)
    with pytest.raises(PermissionDenied):
        tenants.set_tenant_state(actor=make_actor("owner", child), tenant=child, active=False)
    with pytest.raises(PermissionDenied):
        tenants.set_tenant_state(actor=make_actor("owner", root), tenant=root, active=False)
    tenants.set_tenant_state(actor=make_actor("admin", root), tenant=child, active=False)
    with pytest.raises(TenantDisabled):
        tenants.create_tenant(actor=SYSTEM, name="below", parent=child)
    tenants.set_tenant_state(actor=make_actor("admin", root), tenant=child, active=True)
    assert Tenant.objects.get(id=child.id).state == "active"


def test_tenant_with_tenants_below_is_not_deleted():
    root = make_tenant()
    child = make_tenant(parent=root)
    with pytest.raises(Conflict) as caught:
        tenants.delete_tenant(actor=SYSTEM, tenant=root)
    assert caught.value.data["reason"] == "has_children"
    tenants.delete_tenant(actor=SYSTEM, tenant=child)
    tenants.delete_tenant(actor=SYSTEM, tenant=root)


def test_tenant_in_use_is_not_deleted():
    tenant = make_tenant()
    use(tenant, vcpus=1)
    with pytest.raises(Conflict) as caught:
        tenants.delete_tenant(actor=SYSTEM, tenant=tenant)
    assert caught.value.data["used"] == {"vcpus": 1}


def test_delete_takes_members_and_tokens_along_and_gives_back_everything():
    root, owner = make_tenant(), make_user()
    child = make_tenant(parent=root, owner=owner)
    make_token(owner, child)
    tenants.delete_tenant(actor=make_actor("owner", root), tenant=child)
    assert not Membership.unscoped.filter(tenant=child).exists()
    assert not ApiToken.unscoped.filter(tenant=child, revoked_at=None).exists()
    assert [used(root, name) for name in ("tenants", "tokens", "members")] == [0, 0, 1]
    assert not Quota.unscoped.filter(tenant=child, used__gt=0).exists()
    with pytest.raises(NotFound):
        tenants.delete_tenant(actor=SYSTEM, tenant=child)


def test_delete_needs_an_owner():
    tenant = make_tenant()
    with pytest.raises(PermissionDenied):
        tenants.delete_tenant(actor=make_actor("admin", tenant), tenant=tenant)


def test_stranger_is_told_that_there_is_nothing():
    tenant, stranger = make_tenant(), make_actor()
    for call in (
        functools.partial(tenants.create_tenant, name="x1", parent=tenant),
        functools.partial(tenants.rename_tenant, tenant=tenant, name="x2"),
        functools.partial(tenants.set_tenant_state, tenant=tenant, active=False),
        functools.partial(tenants.delete_tenant, tenant=tenant),
        functools.partial(members.add_member, tenant=tenant, user=make_user(), role="viewer"),
        functools.partial(members.change_role, tenant=tenant, user=make_user(), role="viewer"),
        functools.partial(members.remove_member, tenant=tenant, user=make_user()),
        functools.partial(tokens.create_token, tenant=tenant, user=make_user(), name="t"),
        functools.partial(quotas.set_limit, tenant=tenant, resource="vcpus", limit=1),
    ):
        with pytest.raises(NotFound):
            call(actor=stranger)


@pytest.mark.django_db(transaction=True)
def test_charge_that_races_with_the_deletion_of_its_tenant_is_either_counted_or_refused(at_once):
    """Never both: a deleted tenant that uses something."""

    def charge(tenant):
        with transaction.atomic():
            quotas.charge(tenant=tenant, amounts={"instances": 1})
        return "charged"

    for _ in range(5):
        tenant = make_tenant()
        charged, deleted = at_once(
            functools.partial(charge, tenant), functools.partial(tenants.delete_tenant, actor=SYSTEM, tenant=tenant)
        )
        tenant.refresh_from_db()
        if charged == "charged":
            assert isinstance(deleted, Conflict)
            assert tenant.state == "active"
        else:
            assert isinstance(charged, QuotaExceeded)
            assert tenant.state == "deleted"


@pytest.mark.django_db(transaction=True)
def test_child_is_never_born_under_a_deleted_parent(at_once):
    for _ in range(5):
        parent = make_tenant()
        born, deleted = at_once(
            functools.partial(make_tenant, "child", parent=parent),
            functools.partial(tenants.delete_tenant, actor=SYSTEM, tenant=parent),
        )
        parent.refresh_from_db()
        if isinstance(born, Tenant):
            assert isinstance(deleted, Conflict)
            assert parent.state == "active"
        else:
            assert isinstance(born, NotFound)
            assert parent.state == "deleted"


def test_member_of_a_tenant_cannot_hide_in_a_deleted_one():
    tenant = make_tenant()
    tenants.delete_tenant(actor=SYSTEM, tenant=tenant)
    with pytest.raises(NotFound):
        make_member(tenant, "viewer")
