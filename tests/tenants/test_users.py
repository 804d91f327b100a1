"""services/users.py and services/passwords.py: people, and how they prove to be themselves."""

from __future__ import annotations

import functools

import pytest
from django.contrib.auth.backends import ModelBackend

from tenants.errors import Conflict, InvalidInput, NameTaken, PermissionDenied
from tenants.models import AuditEvent, User
from tenants.services import passwords, tokens, users
from tenants.services.access import actor_for_user
from tests.factories.tenants import PASSWORD, SYSTEM, make_actor, make_tenant, make_token, make_user

pytestmark = pytest.mark.django_db


def test_user_with_a_password_can_log_in_whatever_the_case_of_the_name():
    users.create_user(actor=SYSTEM, username="Ada", password=PASSWORD, email="ada@example.org")
    user = User.objects.get_by_natural_key("aDA")
    assert user.check_password(PASSWORD)
    assert not user.check_password(PASSWORD.upper())
    assert PASSWORD not in user.password


def test_user_without_a_password_cannot_log_in():
    user = users.create_user(actor=SYSTEM, username="robot")
    assert not user.has_usable_password()
    assert ModelBackend().authenticate(None, username="robot", password="") is None


def test_names_are_unique_whatever_their_case():
    users.create_user(actor=SYSTEM, username="ada")
    with pytest.raises(NameTaken):
        users.create_user(actor=SYSTEM, username="ADA")


@pytest.mark.parametrize("username", ["", " ada", "a b", "a\n", "<b>", "a" * 65, "-ada", "ädä"])
def test_malformed_name_is_refused(username):
    with pytest.raises(InvalidInput) as caught:
        users.create_user(actor=SYSTEM, username=username)
    assert caught.value.errors[0]["pointer"] == "/username"


def test_weak_password_and_wrong_address_are_refused():
    with pytest.raises(InvalidInput) as caught:
        users.create_user(actor=SYSTEM, username="ada", password="password")
    assert {error["code"] for error in caught.value.errors} >= {"password_too_short", "password_too_common"}
    with pytest.raises(InvalidInput):
        users.create_user(actor=SYSTEM, username="ada", password="x" * 100_000)
    with pytest.raises(InvalidInput):
        users.create_user(actor=SYSTEM, username="ada", email="nowhere")
    assert not User.objects.filter(username="ada").exists()


@pytest.mark.parametrize("role", ["viewer", "owner"])
def test_only_operators_of_the_cloud_keep_users(role):
    actor, user = make_actor(role, make_tenant()), make_user()
    for call in (
        functools.partial(users.create_user, username="x"),
        functools.partial(users.update_user, user=user, is_operator=True),
        functools.partial(passwords.set_password, user=user, new_password=PASSWORD),
    ):
        with pytest.raises(PermissionDenied):
            call(actor=actor)


def test_update_changes_what_is_given_and_audits_the_difference():
    make_user(is_operator=True)
    user = make_user("ada")
    users.update_user(actor=SYSTEM, user=user, email="ada@example.org", is_active=True)
    event = AuditEvent.unscoped.get(action="user.update")
    assert (event.before, event.after) == ({"email": ""}, {"email": "ada@example.org"})
    users.update_user(actor=SYSTEM, user=user, is_active=False)
    assert not User.objects.get(id=user.id).is_active


@pytest.mark.parametrize("change", [{"is_active": False}, {"is_operator": False}])
def test_last_active_operator_stays(change):
    last = make_user(is_operator=True)
    sleeping = make_user(is_operator=True)
    users.update_user(actor=SYSTEM, user=sleeping, is_active=False)
    with pytest.raises(Conflict):
        users.update_user(actor=SYSTEM, user=last, **change)
    make_user(is_operator=True)
    users.update_user(actor=SYSTEM, user=last, **change)


@pytest.mark.django_db(transaction=True)
def test_two_operators_cannot_switch_each_other_off_at_once(at_once):
    for _ in range(5):
        User.objects.filter(is_operator=True).update(is_operator=False)
        pair = [make_user(is_operator=True), make_user(is_operator=True)]
        at_once(*[functools.partial(users.update_user, actor=SYSTEM, user=user, is_active=False) for user in pair])
        assert User.objects.filter(is_operator=True, is_active=True).count() == 1


def test_password_is_changed_by_who_knows_the_present_one():
    user = make_user(password=PASSWORD)
    actor = actor_for_user(user=user)
    with pytest.raises(InvalidInput) as caught:
        passwords.change_password(actor=actor, current_password="guess", new_password="another good one")
    assert caught.value.errors[0]["pointer"] == "/current_password"
    with pytest.raises(InvalidInput) as caught:
        passwords.change_password(actor=actor, current_password=PASSWORD, new_password="short")
    assert caught.value.errors[0]["pointer"] == "/new_password"
    before = user.get_session_auth_hash()
    changed = passwords.change_password(actor=actor, current_password=PASSWORD, new_password="another good one")
    assert User.objects.get(id=user.id).check_password("another good one")
    assert changed.get_session_auth_hash() != before
    event = AuditEvent.unscoped.get(target_id=user.id, action="user.update")
    assert "good" not in str((event.before, event.after))


def test_token_changes_no_password():
    user = make_user(password=PASSWORD)
    actor = tokens.authenticate_token(text=make_token(user, make_tenant(owner=user)))
    with pytest.raises(PermissionDenied):
        passwords.change_password(actor=actor, current_password=PASSWORD, new_password="another good one")


def test_operator_sets_anothers_password_and_not_by_this_way_the_own_one():
    user, operator = make_user(), make_actor(is_operator=True)
    passwords.set_password(actor=operator, user=user, new_password=PASSWORD)
    assert User.objects.get(id=user.id).check_password(PASSWORD)
    with pytest.raises(PermissionDenied):
        passwords.set_password(
            actor=operator, user=User.objects.get(id=operator.user_id), new_password="another good one"
        )


def test_admin_site_is_for_active_operators():
    assert make_user(is_operator=True).is_staff
    assert not make_user().is_staff
    assert not User(is_operator=True, is_active=False).has_perm("tenants.view_user")
