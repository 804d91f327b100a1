"""services/access.py: who may do what."""

from __future__ import annotations

import uuid

import pytest

from tenants import roles
from tenants.errors import NotFound, PermissionDenied, TenantDisabled, TokenInvalid
from tenants.models import Membership, User
from tenants.scope import ALL
from tenants.services import members, tokens
from tenants.services.access import (
    Actor,
    actor_for_user,
    authorize,
    authorize_from_above,
    is_allowed,
    system_actor,
    visible_tenant_ids,
)
from tenants.services.tenants import delete_tenant, set_tenant_state
from tests.factories.tenants import SYSTEM, make_actor, make_member, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def tree():
    """root > middle > leaf, and a stranger's tenant."""
    root = make_tenant("root", owner=make_user())
    middle = make_tenant("middle", parent=root)
    leaf = make_tenant("leaf", parent=middle)
    return {"root": root, "middle": middle, "leaf": leaf, "foreign": make_tenant("foreign")}


def verdict(actor, permission, tenant):
    try:
        authorize(actor, permission, tenant)
    except Exception as error:
        return type(error)
    return None


@pytest.mark.parametrize("role", roles.ROLES)
def test_every_permission_for_every_role_in_its_own_a_lower_a_higher_and_a_foreign_tenant(tree, role):
    actor = make_actor(role, tree["middle"])
    for permission in sorted(roles.ALL_PERMISSIONS):
        expected = None if permission in roles.PERMISSIONS_BY_ROLE[role] else PermissionDenied
        assert verdict(actor, permission, tree["middle"]) is expected, permission
        assert verdict(actor, permission, tree["leaf"]) is expected, permission
        assert verdict(actor, permission, tree["root"]) is NotFound, permission
        assert verdict(actor, permission, tree["foreign"]) is NotFound, permission
        cloud = None if permission in roles.CATALOGUE else PermissionDenied
        assert verdict(actor, permission, None) is cloud, permission


def test_operator_of_the_cloud_may_everything_everywhere(tree):
    actor = make_actor(is_operator=True)
    for permission in roles.ALL_PERMISSIONS:
        for tenant in (*tree.values(), None):
            assert verdict(actor, permission, tenant) is None


def test_foreign_tenant_looks_exactly_like_an_absent_one(tree):
    actor = make_actor("owner", tree["leaf"])
    errors = []
    for tenant in (tree["foreign"], uuid.uuid4()):
        with pytest.raises(NotFound) as caught:
            authorize(actor, "instance.read", tenant)
        errors.append((caught.value.code, caught.value.detail, caught.value.data))
    assert errors[0] == errors[1]


def test_strongest_role_along_the_path_counts(tree):
    user = make_user()
    make_member(tree["root"], "viewer", user)
    make_member(tree["leaf"], "admin", user)
    actor = actor_for_user(user=user)
    assert verdict(actor, "member.create", tree["leaf"]) is None
    assert verdict(actor, "member.create", tree["middle"]) is PermissionDenied


def test_unknown_permission_is_a_defect_not_a_denial(tree):
    with pytest.raises(ValueError, match="no such permission"):
        authorize(make_actor(is_operator=True), "instance.fly", tree["root"])


def test_changes_take_effect_with_the_next_question(tree):
    user = make_user()
    make_member(tree["root"], "owner", user)
    actor = actor_for_user(user=user)
    assert verdict(actor, "instance.create", tree["root"]) is None
    Membership.unscoped.filter(user=user).update(role="viewer")
    assert verdict(actor, "instance.create", tree["root"]) is PermissionDenied
    Membership.unscoped.filter(user=user).delete()
    assert verdict(actor, "instance.read", tree["root"]) is NotFound
    User.objects.filter(id=user.id).update(is_active=False)
    assert verdict(actor, "instance.read", tree["root"]) is PermissionDenied


def test_disabled_user_and_former_operator_lose_everything_at_once(tree):
    actor = make_actor(is_operator=True)
    User.objects.filter(id=actor.user_id).update(is_operator=False)
    assert verdict(actor, "host.read", None) is PermissionDenied
    assert verdict(actor, "instance.read", tree["root"]) is NotFound
    assert visible_tenant_ids(actor) == frozenset()
    User.objects.filter(id=actor.user_id).update(is_operator=True, is_active=False)
    assert verdict(actor, "host.read", None) is PermissionDenied
    assert visible_tenant_ids(actor) == frozenset()


def test_disabling_a_tenant_stops_it_and_all_below_at_once(tree):
    actor = make_actor("owner", tree["root"])
    set_tenant_state(actor=SYSTEM, tenant=tree["middle"], active=False)
    assert verdict(actor, "instance.read", tree["root"]) is None
    for name in ("middle", "leaf"):
        assert verdict(actor, "instance.read", tree[name]) is TenantDisabled
    assert visible_tenant_ids(actor, "instance.read") == {tree["root"].id}
    operator = make_actor(is_operator=True)
    assert verdict(operator, "instance.create", tree["leaf"]) is TenantDisabled
    assert verdict(operator, "instance.delete", tree["leaf"]) is None
    set_tenant_state(actor=SYSTEM, tenant=tree["middle"], active=True)
    assert verdict(actor, "instance.create", tree["leaf"]) is None


def test_deleted_tenant_is_gone_for_everybody(tree):
    actor = make_actor("owner", tree["root"])
    delete_tenant(actor=SYSTEM, tenant=tree["leaf"])
    assert verdict(actor, "instance.read", tree["leaf"]) is NotFound
    assert verdict(make_actor(is_operator=True), "instance.read", tree["leaf"]) is NotFound
    assert tree["leaf"].id not in visible_tenant_ids(actor)


def test_read_token_reads_and_changes_nothing(tree):
    user = make_user()
    make_member(tree["root"], "owner", user)
    actor = tokens.authenticate_token(text=make_token(user, tree["root"], scope="read"))
    for permission in sorted(roles.PERMISSIONS_BY_ROLE["owner"]):
        expected = None if permission in roles.READ_PERMISSIONS else PermissionDenied
        assert verdict(actor, permission, tree["leaf"]) is expected, permission
    assert visible_tenant_ids(actor, "instance.create") == frozenset()


def test_token_is_bound_to_its_part_of_the_tree(tree):
    user = make_user()
    make_member(tree["root"], "owner", user)
    actor = tokens.authenticate_token(text=make_token(user, tree["middle"]))
    assert verdict(actor, "instance.create", tree["leaf"]) is None
    assert verdict(actor, "instance.create", tree["root"]) is NotFound
    assert visible_tenant_ids(actor) == {tree["middle"].id, tree["leaf"].id}


def test_operators_token_bound_to_a_tenant_holds_no_operators_powers(tree):
    user = make_user(is_operator=True)
    actor = tokens.authenticate_token(text=make_token(user, tree["middle"]))
    assert not actor.is_operator
    assert verdict(actor, "host.read", None) is PermissionDenied
    assert verdict(actor, "host.read", tree["middle"]) is PermissionDenied
    assert verdict(actor, "instance.create", tree["leaf"]) is None
    assert verdict(actor, "instance.create", tree["root"]) is NotFound
    assert visible_tenant_ids(actor) == {tree["middle"].id, tree["leaf"].id}


def test_revoked_token_fails_in_the_middle_of_its_requests(tree):
    user = make_user()
    make_member(tree["root"], "owner", user)
    token, text = tokens.create_token(actor=SYSTEM, user=user, tenant=tree["root"], name="t")
    actor = tokens.authenticate_token(text=text)
    tokens.revoke_token(actor=SYSTEM, token=token)
    assert verdict(actor, "instance.read", tree["root"]) is TokenInvalid


def test_actor_of_a_user_that_does_not_exist_is_denied(tree):
    ghost = Actor(username="ghost", user_id=uuid.uuid4(), is_operator=True)
    assert verdict(ghost, "instance.read", tree["root"]) is PermissionDenied
    assert visible_tenant_ids(ghost) == frozenset()
    assert verdict(Actor(username="nobody"), "instance.read", tree["root"]) is PermissionDenied
    assert visible_tenant_ids(Actor(username="nobody")) == frozenset()


def test_visible_tenants_are_those_with_a_role_and_all_below(tree):
    assert visible_tenant_ids(make_actor("viewer", tree["middle"])) == {tree["middle"].id, tree["leaf"].id}
    assert visible_tenant_ids(make_actor()) == frozenset()
    assert visible_tenant_ids(make_actor(is_operator=True)) is ALL
    assert visible_tenant_ids(system_actor("engine")) is ALL
    viewer = make_actor("viewer", tree["middle"])
    assert visible_tenant_ids(viewer, "instance.create") == frozenset()


def test_visible_with_a_permission_agrees_with_authorize(tree):
    user = make_user()
    make_member(tree["root"], "viewer", user)
    make_member(tree["leaf"], "operator", user)
    actor = actor_for_user(user=user)
    for permission in roles.ALL_PERMISSIONS:
        allowed = {tenant.id for tenant in tree.values() if is_allowed(actor, permission, tenant)}
        assert visible_tenant_ids(actor, permission) == allowed


def test_authorize_costs_one_query_at_any_depth(tree, django_assert_num_queries):
    deep = tree["leaf"]
    for level in range(20):
        deep = make_tenant(f"level{level}", parent=deep)
    actor = make_actor("operator", tree["root"])
    with django_assert_num_queries(1):
        authorize(actor, "instance.create", deep)


def test_what_is_decided_from_above_needs_the_role_in_the_parent(tree):
    owner_of_leaf, admin_above = make_actor("owner", tree["leaf"]), make_actor("admin", tree["middle"])
    with pytest.raises(PermissionDenied):
        authorize_from_above(owner_of_leaf, "quota.update", tree["leaf"])
    authorize_from_above(admin_above, "quota.update", tree["leaf"])
    with pytest.raises(PermissionDenied):
        authorize_from_above(make_actor("owner", tree["root"]), "quota.update", tree["root"])
    with pytest.raises(NotFound):
        authorize_from_above(make_actor(), "quota.update", tree["leaf"])
    authorize_from_above(make_actor(is_operator=True), "quota.update", tree["root"])


def test_member_removed_loses_access_though_the_session_lives(tree):
    user = make_user()
    make_member(tree["leaf"], "viewer", user)
    actor = actor_for_user(user=user)
    assert is_allowed(actor, "instance.read", tree["leaf"])
    members.remove_member(actor=SYSTEM, tenant=tree["leaf"], user=user)
    assert not is_allowed(actor, "instance.read", tree["leaf"])
