"""services/members.py: roles are given, changed and taken by those who may, and an owner stays."""

from __future__ import annotations

import functools

import pytest

from tenants import roles
from tenants.errors import Conflict, InvalidInput, NotFound, PermissionDenied, QuotaExceeded
from tenants.models import ApiToken, Membership, Quota
from tenants.services import members
from tenants.services.access import actor_for_user
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


def used(tenant, resource):
    return Quota.unscoped.get(tenant=tenant, resource=resource).used


@pytest.fixture
def tenant():
    return make_tenant(owner=make_user("boss"))


@pytest.mark.parametrize("own", ["admin", "owner"])
@pytest.mark.parametrize("given", roles.ROLES)
def test_no_role_above_ones_own_is_given_changed_or_taken(tenant, own, given):
    actor = make_actor(own, tenant)
    allowed = roles.rank(given) <= roles.rank(own)
    newcomer, present = make_user(), make_user()
    make_member(tenant, given, present)
    lifted = make_user()
    make_member(tenant, "viewer", lifted)
    for call in (
        functools.partial(members.add_member, user=newcomer, role=given),
        functools.partial(members.change_role, user=lifted, role=given),
        functools.partial(members.change_role, user=present, role="viewer"),
        functools.partial(members.remove_member, user=present),
    ):
        if allowed:
            call(actor=actor, tenant=tenant)
        else:
            with pytest.raises(PermissionDenied):
                call(actor=actor, tenant=tenant)
    if not allowed:
        assert Membership.unscoped.get(tenant=tenant, user=present).role == given
        assert Membership.unscoped.get(tenant=tenant, user=lifted).role == "viewer"


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_lower_roles_change_no_members(tenant, role):
    actor, user = make_actor(role, tenant), make_user()
    with pytest.raises(PermissionDenied):
        members.add_member(actor=actor, tenant=tenant, user=user, role="viewer")


def test_nobody_lifts_themselves(tenant):
    user = make_user()
    make_member(tenant, "admin", user)
    with pytest.raises(PermissionDenied):
        members.change_role(actor=actor_for_user(user=user), tenant=tenant, user=user, role="owner")


def test_role_from_above_counts_when_members_of_a_lower_tenant_are_changed(tenant):
    child = make_tenant(parent=tenant)
    boss = Membership.unscoped.get(tenant=tenant).user
    members.add_member(actor=actor_for_user(user=boss), tenant=child, user=make_user(), role="owner")


def test_second_membership_is_refused_and_unknown_role(tenant):
    user = make_user()
    make_member(tenant, "viewer", user)
    with pytest.raises(Conflict):
        members.add_member(actor=SYSTEM, tenant=tenant, user=user, role="admin")
    with pytest.raises(InvalidInput):
        members.add_member(actor=SYSTEM, tenant=tenant, user=make_user(), role="god")
    with pytest.raises(NotFound):
        members.change_role(actor=SYSTEM, tenant=tenant, user=make_user(), role="viewer")


def test_last_active_owner_of_a_top_tenant_stays(tenant):
    boss = Membership.unscoped.get(tenant=tenant).user
    sleeping = make_user()
    make_member(tenant, "owner", sleeping)
    sleeping.is_active = False
    sleeping.save()
    for call in (
        functools.partial(members.remove_member, actor=SYSTEM),
        functools.partial(members.remove_member, actor=actor_for_user(user=boss)),
        functools.partial(members.change_role, actor=SYSTEM, role="admin"),
    ):
        with pytest.raises(Conflict) as caught:
            call(tenant=tenant, user=boss)
        assert caught.value.data["reason"] == "last_owner"
    make_member(tenant, "owner")
    members.remove_member(actor=SYSTEM, tenant=tenant, user=boss)


def test_lower_tenant_may_lose_its_own_owner_for_it_has_those_above(tenant):
    child = make_tenant(parent=tenant, owner=make_user("junior"))
    junior = Membership.unscoped.get(tenant=child).user
    members.remove_member(actor=SYSTEM, tenant=child, user=junior)


def test_members_are_counted(tenant):
    limited = make_tenant(limits={"members": 1})
    user = make_user()
    make_member(limited, "viewer", user)
    with pytest.raises(QuotaExceeded):
        make_member(limited, "viewer")
    members.remove_member(actor=SYSTEM, tenant=limited, user=user)
    assert used(limited, "members") == 0


def test_everybody_may_leave(tenant):
    user = make_user()
    make_member(tenant, "viewer", user)
    members.remove_member(actor=actor_for_user(user=user), tenant=tenant, user=user)
    assert not Membership.unscoped.filter(user=user).exists()


def test_tokens_go_with_the_last_role_that_carried_them(tenant):
    child = make_tenant(parent=tenant)
    user = make_user()
    make_member(tenant, "admin", user)
    make_member(child, "viewer", user)
    make_token(user, tenant)
    make_token(user, child)
    members.remove_member(actor=SYSTEM, tenant=tenant, user=user)
    assert ApiToken.unscoped.get(user=user, revoked_at=None).tenant_id == child.id
    assert (used(tenant, "tokens"), used(child, "tokens")) == (1, 1)
    user.is_active = False
    user.save()
    members.remove_member(actor=SYSTEM, tenant=child, user=user)
    assert not ApiToken.unscoped.filter(user=user, revoked_at=None).exists()
    assert used(tenant, "tokens") == 0


def remove_each_other(at_once):
    one, two = make_user(), make_user()
    tenant = make_tenant(owner=one)
    make_member(tenant, "owner", two)
    at_once(
        functools.partial(members.remove_member, actor=actor_for_user(user=one), tenant=tenant, user=two),
        functools.partial(members.remove_member, actor=actor_for_user(user=two), tenant=tenant, user=one),
    )
    return Membership.unscoped.filter(tenant=tenant, role="owner").count()


@pytest.mark.django_db(transaction=True)
def test_control_two_owners_remove_each_other_without_the_lock(at_once, monkeypatch):
    """Shows that the race is real: with the tenant's row unlocked a tenant ends without any owner."""
    monkeypatch.setattr(members, "_lock", lambda tenant: None)
    assert 0 in [remove_each_other(at_once) for _ in range(25)]


@pytest.mark.django_db(transaction=True)
def test_two_owners_cannot_remove_each_other_at_once(at_once):
    assert {remove_each_other(at_once) for _ in range(10)} == {1}
