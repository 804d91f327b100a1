"""Bearer tokens. Cookies mean nothing here, so neither does CSRF."""

from __future__ import annotations

from typing import Any, cast

from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from tenants.errors import TokenInvalid
from tenants.services.access import Actor
from tenants.services.tokens import authenticate_token


class ApiUser:
    """What DRF calls the user: it is authenticated, and that is all the framework needs to know."""

    is_authenticated = True
    is_active = True
    pk: Any = None

    def __init__(self, actor: Actor) -> None:
        self.actor = actor
        self.pk = actor.user_id


def actor_of(request: Request) -> Actor:
    """The actor of an authenticated request."""
    return cast(Actor, request.auth)


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer cnt_...`. Sets `request.user.actor` and `request.auth` to the Actor."""

    def authenticate(self, request: Request) -> tuple[ApiUser, Actor] | None:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer" or not text.strip():
            raise TokenInvalid("Give the token as: Authorization: Bearer TOKEN.")
        actor = authenticate_token(text=text.strip(), request_id=getattr(request, "request_id", ""))
        return ApiUser(actor), actor

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="cenote"'
