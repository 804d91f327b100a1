"""People and service accounts; for the cloud's operators."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Flag, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_reference
from cloud.api.routes import Call, Door, route
from tenants import selectors
from tenants.services.access import authorize
from tenants.services.passwords import set_password
from tenants.services.users import create_user, update_user


class UserAnswer(Answer):
    id = serializers.UUIDField()
    username = serializers.CharField()
    email = serializers.CharField()
    is_operator = serializers.BooleanField()
    is_active = serializers.BooleanField()
    created_at = serializers.DateTimeField()


class UserCreateInput(StrictSerializer):
    username = Text(max_length=64)
    password = Text(required=False, max_length=1024, help_text="left out: a service account, which lives by its tokens")
    email = Text(required=False, allow_blank=True, max_length=254)
    is_operator = Flag(required=False)


class UserUpdateInput(StrictSerializer):
    email = Text(required=False, allow_blank=True, max_length=254)
    is_operator = Flag(required=False)
    is_active = Flag(required=False)
    password = Text(required=False, max_length=1024)


class Users(Door):
    @route("user_list", permission="user.read", page_of=UserAnswer)
    def list(self, call: Call) -> Response:
        """Oldest first."""
        authorize(call.actor, "user.read", None)
        return page(call.request, selectors.users(), lambda row: call.render(UserAnswer, row), newest_first=False)

    @route("user_create", permission="user.create", body=UserCreateInput, answer=UserAnswer, status=201)
    def create(self, call: Call) -> Response:
        user = create_user(actor=call.actor, **call.body)
        return Response(call.render(UserAnswer, user), status=201, headers={"Location": f"/api/v1/users/{user.id}"})

    @route("user_show", permission="user.read", answer=UserAnswer)
    def retrieve(self, call: Call, reference: str) -> Response:
        authorize(call.actor, "user.read", None)
        return Response(call.render(UserAnswer, selectors.get_user(as_reference(reference))))

    @route("user_update", permission="user.update", body=UserUpdateInput, answer=UserAnswer)
    def partial_update(self, call: Call, reference: str) -> Response:
        """A disabled user's tokens and sessions are refused from the next request on."""
        authorize(call.actor, "user.update", None)
        user = selectors.get_user(as_reference(reference))
        body: dict[str, Any] = dict(call.body)
        password = body.pop("password", None)
        if password is not None:
            user = set_password(actor=call.actor, user=user, new_password=password)
        return Response(call.render(UserAnswer, update_user(actor=call.actor, user=user, **body)))
