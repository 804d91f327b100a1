"""Passwords: changed by their owner, who proves to be it, or set by a cloud operator. Other sessions then end."""

from __future__ import annotations

from django.db import transaction

from tenants.errors import InvalidInput, NotFound, PermissionDenied
from tenants.models import User
from tenants.services import audit
from tenants.services.access import Actor, authorize
from tenants.services.users import check_password_rules


def change_password(*, actor: Actor, current_password: str, new_password: str) -> User:
    """Change the actor's own password. A token cannot: whoever finds one must not be able to lock its owner out.

    The session's hash changes with the password, so every other session is logged out; the door keeps the present one
    with `update_session_auth_hash`. Raises InvalidInput (pointer /current_password or /new_password), PermissionDenied.
    """
    if actor.kind != "user" or actor.user_id is None:
        raise PermissionDenied("A password is changed by a person who is logged in.")
    with transaction.atomic():
        user = User.objects.select_for_update().filter(id=actor.user_id, is_active=True).first()
        if user is None:
            raise NotFound
        if not user.check_password(current_password):
            raise InvalidInput.field("/current_password", "wrong", "This is not your present password.")
        check_password_rules(new_password, user, pointer="/new_password")
        _store(actor, user, new_password)
    return user


def set_password(*, actor: Actor, user: User, new_password: str) -> User:
    """Set another user's password. Raises InvalidInput (pointer /new_password), PermissionDenied."""
    authorize(actor, "user.update", None)
    if actor.user_id == user.id:
        raise PermissionDenied("Change your own password with the present one.")
    with transaction.atomic():
        held = User.objects.select_for_update().get(id=user.id)
        check_password_rules(new_password, held, pointer="/new_password")
        _store(actor, held, new_password)
    return held


def _store(actor: Actor, user: User, password: str) -> None:
    user.set_password(password)
    user.save(update_fields=["password"])
    audit.record(actor=actor, action="user.update", target=user, after={"credentials": "changed"})
