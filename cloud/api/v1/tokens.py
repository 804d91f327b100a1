"""API tokens: the text is shown once, at create."""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer, Choice, Moment, StrictSerializer, Text
from cloud.api.pagination import page
from cloud.api.references import as_uuid
from cloud.api.routes import Call, Door, route
from cloud.api.tenancy import acting_tenant
from tenants import roles, selectors
from tenants.errors import InvalidInput, NotFound
from tenants.models import ApiToken, Tenant, User
from tenants.services.access import authorize, is_allowed
from tenants.services.tokens import create_token, revoke_token


class TokenAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    prefix = serializers.CharField(help_text="the beginning of its text, to recognize it by")
    tenant_id = serializers.UUIDField(allow_null=True)
    username = serializers.CharField(source="user.username")
    scope = serializers.ChoiceField(roles.SCOPES)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField(allow_null=True)
    last_used_at = serializers.DateTimeField(allow_null=True)


class TokenCreatedAnswer(TokenAnswer):
    token = serializers.CharField(help_text="the text; it is kept nowhere and never shown again")


class TokenCreateInput(StrictSerializer):
    name = Text(max_length=100)
    scope = Choice(roles.SCOPES, required=False)
    expires_at = Moment(required=False, allow_null=True, help_text="null: never")
    user = Text(required=False, max_length=64, help_text="id or name; for operators. Yourself unless told")
    tenant = Text(required=False, help_text="id or name; the token's own unless told, none for operators")


class TokenQuery(StrictSerializer):
    tenant = Text(required=False, help_text="id or name; the token's own unless told, none for operators")


class Tokens(Door):
    @route("token_list", permission="token.read", query=TokenQuery, page_of=TokenAnswer)
    def list(self, call: Call) -> Response:
        """Your own tokens in the tenant; everybody's for its administrators. Oldest first."""
        tenant, user = self._reach(call, "token.read")
        rows = selectors.tokens(tenant, user=user)
        return page(call.request, rows, lambda row: call.render(TokenAnswer, row), newest_first=False)

    @route(
        "token_create",
        permission="token.create",
        body=TokenCreateInput,
        answer=TokenCreatedAnswer,
        status=201,
        secret=True,
    )
    def create(self, call: Call) -> Response:
        """A token made with a token is no wider and lives no longer than that one."""
        body = call.body
        cloud = call.actor.is_operator and "tenant" not in body
        tenant = None if cloud else acting_tenant(call, "token.create")
        user = selectors.get_user(str(call.actor.user_id))
        if "user" in body and call.actor.is_operator:
            try:
                user = selectors.get_user(body["user"])
            except NotFound:
                raise InvalidInput.field("/user", "not_found", "There is no such user.")
        elif "user" in body and body["user"] not in (user.username, str(user.id)):
            raise InvalidInput.field("/user", "not_yourself", "A token can only be made for yourself.")
        token, text = create_token(
            actor=call.actor,
            user=user,
            tenant=tenant,
            name=body["name"],
            scope=body.get("scope", roles.SCOPE_FULL),
            expires_at=body.get("expires_at"),
        )
        shown = {**call.render(TokenAnswer, token), "token": text}
        return Response(shown, status=201, headers={"Location": f"/api/v1/tokens/{token.id}"})

    @route("token_show", permission="token.read", query=TokenQuery, answer=TokenAnswer, paths={"token_id": "the id"})
    def retrieve(self, call: Call, token_id: str) -> Response:
        return Response(call.render(TokenAnswer, self._find(call, token_id, "token.read")))

    @route("token_delete", permission="token.delete", query=TokenQuery, status=204, paths={"token_id": "the id"})
    def destroy(self, call: Call, token_id: str) -> Response:
        """Revoke it: the next request with it is refused."""
        revoke_token(actor=call.actor, token=self._find(call, token_id, "token.delete"))
        return Response(status=204)

    def _reach(self, call: Call, permission: str) -> tuple[Tenant | None, User | None]:
        """The tenant whose tokens are meant, and the user whose alone are shown (None: everybody's)."""
        if call.actor.is_operator and "tenant" not in call.query:
            authorize(call.actor, permission, None)
            return None, None
        tenant = acting_tenant(call, permission, pointer="?tenant")
        if is_allowed(call.actor, "token.manage", tenant):
            return tenant, None
        return tenant, selectors.get_user(str(call.actor.user_id))

    def _find(self, call: Call, token_id: str, permission: str) -> ApiToken:
        tenant, user = self._reach(call, permission)
        found = selectors.tokens(tenant, user=user).filter(id=as_uuid(token_id)).first()
        if found is None:
            raise NotFound
        return found
