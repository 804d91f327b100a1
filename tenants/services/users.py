"""People and service accounts; kept by the cloud's operators."""

from __future__ import annotations

from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction

from tenants.errors import Conflict, InvalidInput, NameTaken
from tenants.models import User
from tenants.models.users import USERNAME
from tenants.services import audit
from tenants.services.access import Actor, authorize


def create_user(
    *, actor: Actor, username: str, password: str | None = None, email: str = "", is_operator: bool = False
) -> User:
    """Make a user. Without a password nobody can log in as it: a service account that lives by its tokens.

    Raises InvalidInput, NameTaken, PermissionDenied.
    """
    authorize(actor, "user.create", None)
    if not USERNAME.fullmatch(username):
        raise InvalidInput.field(
            "/username",
            "malformed",
            "A user name has 1 to 64 letters, digits or . _ @ + -, and begins with a letter or digit.",
        )
    _check_email(email)
    user = User(username=username, email=email, is_operator=is_operator)
    if password is None:
        user.set_unusable_password()
    else:
        check_password_rules(password, user, pointer="/password")
        user.set_password(password)
    with transaction.atomic():
        try:
            with transaction.atomic():
                user.save(force_insert=True)
        except IntegrityError:
            raise NameTaken(f"There is a user {username} already.", name=username)
        audit.record(
            actor=actor,
            action="user.create",
            target=user,
            after={"username": username, "email": email, "is_operator": is_operator},
        )
    return user


def update_user(
    *,
    actor: Actor,
    user: User,
    email: str | None = None,
    is_operator: bool | None = None,
    is_active: bool | None = None,
) -> User:
    """Change a user; None leaves a field. A disabled user's sessions and tokens are refused from the next request on.

    Raises Conflict for the last active operator, InvalidInput, PermissionDenied.
    """
    authorize(actor, "user.update", None)
    if email is not None:
        _check_email(email)
    wanted = {"email": email, "is_operator": is_operator, "is_active": is_active}
    with transaction.atomic():
        # Every active operator's row is locked, in order: two of them cannot switch each other off at once.
        operators = list(User.objects.filter(is_operator=True, is_active=True).order_by("id").select_for_update())
        held = User.objects.select_for_update().get(id=user.id)
        before = {
            name: getattr(held, name) for name, value in wanted.items() if value not in (None, getattr(held, name))
        }
        if not before:
            return held
        after = {name: wanted[name] for name in before}
        loses_power = after.get("is_operator") is False or after.get("is_active") is False
        if loses_power and [operator.id for operator in operators] == [held.id]:
            raise Conflict("The cloud keeps at least one active operator.", reason="last_operator")
        for name, value in after.items():
            setattr(held, name, value)
        held.save(update_fields=list(after))
        audit.record(actor=actor, action="user.update", target=held, before=before, after=after)
    return held


def check_password_rules(password: str, user: User, *, pointer: str) -> None:
    """Raises InvalidInput with one entry for each rule of AUTH_PASSWORD_VALIDATORS that the password breaks."""
    if len(password) > 1024:
        raise InvalidInput.field(pointer, "too_long", "A password has at most 1024 characters.")
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise InvalidInput(
            errors=[
                {"pointer": pointer, "code": fault.code or "invalid", "detail": fault.messages[0]}
                for fault in error.error_list
            ]
        )


def _check_email(email: str) -> None:
    if not email:
        return
    try:
        validate_email(email)
    except ValidationError:
        raise InvalidInput.field("/email", "malformed", "This is not an e-mail address.")
