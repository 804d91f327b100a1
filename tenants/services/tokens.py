"""API tokens: made, shown once, checked, revoked."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from tenants import prepared, roles
from tenants.errors import InvalidInput, NotFound, PermissionDenied, TokenInvalid
from tenants.models import ApiToken, Tenant, User
from tenants.services import audit, quotas, tree
from tenants.services.access import Actor, actor_for_token, authorize, standing

_TEXT: Final = re.compile(r"cnt_([a-z2-7]{12})_([0-9a-f]{64})")
_PREFIX_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_LAST_USED_EVERY: Final = timedelta(minutes=1)
_NOBODYS_DIGEST: Final = b"\0" * 32


def create_token(
    *,
    actor: Actor,
    user: User,
    tenant: Tenant | None,
    name: str,
    scope: str = roles.SCOPE_FULL,
    expires_at: datetime | None = None,
) -> tuple[ApiToken, str]:
    """Make a token that acts as `user` within `tenant` and below; returns it with its text, which is not kept anywhere.

    `tenant` None: a cloud operator's token. People make tokens for themselves; only cloud operators and the product
    itself make them for others. A token made with a token is no wider and lives no longer than that one.
    Raises InvalidInput, PermissionDenied, NotFound, QuotaExceeded (resource "tokens").
    """
    authorize(actor, "token.create", tenant) if tenant is not None else _require_operator(actor)
    if user.id != actor.user_id and not actor.is_operator:
        raise PermissionDenied("A token can only be made for yourself.")
    if tenant is None and not user.is_operator:
        raise InvalidInput.field("/user", "not_operator", "Only an operator of the cloud has tokens without a tenant.")
    if tenant is not None:
        _check_role(user, tenant)
    _check(name=name, scope=scope, expires_at=expires_at)
    with transaction.atomic():
        if tenant is not None:
            # A move may have taken the role that was asked for above, and revoked what hung on it, before this token.
            tree.hold()
            _check_role(user, tenant)
        if actor.token_id is not None:
            _check_narrower(actor.token_id, scope=scope, expires_at=expires_at)
        prefix = "".join(secrets.choice(_PREFIX_ALPHABET) for _ in range(12))
        text = f"cnt_{prefix}_{secrets.token_hex(32)}"
        token = ApiToken.unscoped.create(
            tenant=tenant,
            user=user,
            name=name,
            prefix=prefix,
            digest=_digest(text),
            scope=scope,
            expires_at=expires_at,
        )
        audit.record(
            actor=actor,
            action="token.create",
            tenant=tenant,
            target=token,
            after={"user": str(user.id), "scope": scope, "expires_at": expires_at},
        )
        if tenant is not None:
            quotas.charge(tenant=tenant, amounts={"tokens": 1}, actor=actor)
    return token, text


def _check_role(user: User, tenant: Tenant) -> None:
    if standing(actor=_bare(user), tenant=tenant).role is None:
        raise InvalidInput.field("/user", "no_role", f"{user.username} has no role in this tenant.")


def revoke_token(*, actor: Actor, token: ApiToken) -> None:
    """End a token: one's own, or any in the tenant with token.manage. Revoking twice changes nothing.

    Raises PermissionDenied, NotFound.
    """
    if token.tenant is None:
        _require_operator(actor)
    else:
        authorize(actor, "token.delete", token.tenant)
        if token.user_id != actor.user_id:
            authorize(actor, "token.manage", token.tenant)
    with transaction.atomic():
        tree.hold()
        # Compare-and-set: of two revocations at once only one gives the quota back.
        if not ApiToken.unscoped.filter(id=token.id, revoked_at=None).update(revoked_at=timezone.now()):
            return
        audit.record(actor=actor, action="token.delete", tenant=token.tenant, target=token)
        if token.tenant is not None:
            quotas.release(tenant=token.tenant, amounts={"tokens": 1})


def authenticate_token(*, text: str, request_id: str = "") -> Actor:
    """The actor behind a token's text. Raises TokenInvalid, whatever the reason. Notes the use once a minute."""
    match = _TEXT.fullmatch(text)
    token = None
    if match is not None:
        token = _find(match[1])
    # An unknown prefix costs the same comparison, so the time taken says nothing about which prefixes exist.
    matches = hmac.compare_digest(bytes(token.digest) if token is not None else _NOBODYS_DIGEST, _digest(text))
    now = timezone.now()
    if (
        token is None
        or not matches
        or token.revoked_at is not None
        or (token.expires_at is not None and token.expires_at <= now)
        or not token.user.is_active
        or (token.tenant_id is None and not token.user.is_operator)
    ):
        raise TokenInvalid
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - _LAST_USED_EVERY)
    if token.last_used_at is None or token.last_used_at < now - _LAST_USED_EVERY:
        ApiToken.unscoped.filter(stale, id=token.id).update(last_used_at=now)
    return actor_for_token(token=token, request_id=request_id)


def _find(prefix: str) -> ApiToken | None:
    with prepared.together():
        tokens = prepared.ask_rows(ApiToken, "prefix = %s", [prefix])
        users = prepared.ask_rows(User, "id = (SELECT user_id FROM tenants_apitoken WHERE prefix = %s)", [prefix])
    for token, user in zip(tokens(), users(), strict=False):
        token.user = user
        return token
    return None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _require_operator(actor: Actor) -> None:
    authorize(actor, "user.update", None)


def _bare(user: User) -> Actor:
    return Actor(username=user.username, user_id=user.id)


def _check(*, name: str, scope: str, expires_at: datetime | None) -> None:
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise InvalidInput.field("/name", "malformed", "A token's name has 1 to 100 printable characters.")
    if scope not in roles.SCOPES:
        raise InvalidInput.field("/scope", "unknown", "A scope is full or read.")
    if expires_at is not None and (timezone.is_naive(expires_at) or expires_at <= timezone.now()):
        raise InvalidInput.field("/expires_at", "in_the_past", "The expiry must be a time with zone in the future.")


def _check_narrower(maker_id: UUID, *, scope: str, expires_at: datetime | None) -> None:
    """A leaked token must not be able to outlive itself."""
    maker = ApiToken.unscoped.filter(id=maker_id).first()
    if maker is None:
        raise NotFound
    if maker.scope == roles.SCOPE_READ and scope != roles.SCOPE_READ:
        raise PermissionDenied("This token may only read.")
    if maker.expires_at is not None and (expires_at is None or expires_at > maker.expires_at):
        raise InvalidInput.field("/expires_at", "too_late", "A token cannot make one that lives longer than itself.")
