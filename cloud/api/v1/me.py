"""Who am I?"""

from __future__ import annotations

from rest_framework import serializers
from rest_framework.response import Response

from cloud.api.fields import Answer
from cloud.api.routes import Call, Door, route
from tenants import roles, selectors
from tenants.services.access import standing


class MyTenantAnswer(Answer):
    id = serializers.UUIDField(source="tenant.id")
    name = serializers.CharField(source="tenant.name")
    role = serializers.ChoiceField(roles.ROLES)
    inherited = serializers.BooleanField()


class BoundTenantAnswer(Answer):
    id = serializers.UUIDField()
    name = serializers.CharField()
    role = serializers.ChoiceField(roles.ROLES, allow_null=True)


class MeAnswer(Answer):
    username = serializers.CharField()
    user_id = serializers.UUIDField()
    is_operator = serializers.BooleanField(help_text="whether this token acts with a cloud operator's powers")
    scope = serializers.ChoiceField(roles.SCOPES)
    tenant = BoundTenantAnswer(allow_null=True, help_text="the tenant that the token belongs to")
    tenants = MyTenantAnswer(many=True, help_text="every tenant in which the user has a role")


class Me(Door):
    @route("me_show", permission=None, answer=MeAnswer)
    def list(self, call: Call) -> Response:
        """The token's user, tenant, role and scope."""
        actor = call.actor
        bound = None
        if actor.tenant_id is not None:
            tenant = selectors.get_tenant(actor.tenant_id)
            bound = {"id": tenant.id, "name": tenant.name, "role": standing(actor=actor, tenant=tenant).role}
        reached = selectors.belongings(selectors.get_user(str(actor.user_id)))
        if actor.tenant_id is not None:
            # A token speaks of its own part of the tree alone.
            reached = [item for item in reached if actor.tenant_id in item.tenant.path]
        return Response(
            call.render(
                MeAnswer,
                {
                    "username": actor.username,
                    "user_id": actor.user_id,
                    "is_operator": actor.is_operator,
                    "scope": actor.scope,
                    "tenant": bound,
                    "tenants": reached,
                },
            )
        )
